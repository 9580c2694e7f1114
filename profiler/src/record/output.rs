//! From counters to result records.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::Result;
use profiler_common::{
    aging::{self, Caller, Cell, CellKey, Kind, MAX_EXACT_LENGTH, NO_VM, Totals, length, place},
    event::Event,
    exact::{HistogramKey, span},
    histogram::{Histogram, middle_ns},
};
use report::{
    Observed, ResultWriter, WriteError,
    latency::Latency,
    schema::{
        CallbackKind, CallbackRecord, CallerClass, ChainLen, Disturbance, EventRecord, LossRecord,
        Record, RunRecord, Samples, Sampling,
    },
};

use super::{counts::Counts, ended::Ended, outcome, own_cost, session::Session};
use crate::{
    census_command::vm_record,
    ladder::{Ladder, Rung},
};

/// A recording that ended, as records.
pub(super) struct Finished {
    records: Vec<Record>,
    pub(super) ended: Ended,
    disturbance: Disturbance,
}

impl Finished {
    /// Writes the records and gives the file its name.
    pub(super) fn write(self, mut writer: ResultWriter) -> Result<PathBuf, WriteError> {
        for record in &self.records {
            writer.push(record)?;
        }
        writer.finish(outcome(&self.ended), self.ended.reason(), self.disturbance)
    }
}

impl Session<'_> {
    /// Reads all counters and makes records of them.
    pub(super) fn finish(
        self,
        ended: Ended,
        lasted: Duration,
        ladder: &Ladder,
    ) -> Result<Finished> {
        let disturbance = self.start.watch.finish();
        let counts = self.counters.read()?;
        let mut records = vec![Record::Run(Box::new(self.run_record(
            ended,
            lasted,
            &counts.totals,
        )))];
        records.extend(
            ladder
                .records(0, self.rung)
                .into_iter()
                .map(Record::Mechanism),
        );
        records.extend(
            self.registry
                .all()
                .iter()
                .map(|vm| Record::Vm(vm_record(0, vm))),
        );
        records.extend(
            self.callback_records(&counts)
                .into_iter()
                .map(|r| Record::Callbacks(Box::new(r))),
        );
        records.extend(self.census.iter().cloned().map(Record::Census));
        records.extend(self.losses(&counts.totals).into_iter().map(Record::Loss));
        let statistics = self.statistics.as_ref().map(drop).map_err(String::as_str);
        let loaded = self
            .probes
            .as_ref()
            .map_or(&[][..], |probes| &probes.loaded);
        records.extend(
            own_cost::records(0, loaded, statistics)
                .into_iter()
                .map(Record::Overhead),
        );
        let stacks = self.counters.other_stacks(0, &self.kernel.symbols);
        records.extend(stacks.into_iter().map(Record::Stack));
        records.extend(
            self.events
                .iter()
                .filter_map(|event| self.event(event))
                .map(Record::Event),
        );
        Ok(Finished {
            records,
            ended,
            disturbance,
        })
    }

    fn run_record(&self, ended: Ended, lasted: Duration, totals: &Totals) -> RunRecord {
        RunRecord {
            run: 0,
            started_utc: self.start.utc.clone(),
            duration_s: lasted.as_secs_f64(),
            pid: self.options.pid,
            guest: None,
            complete: ended == Ended::Duration,
            ended_by: ended.reason(),
            sampling: self.sampling(lasted, totals),
            stack_every: Some(self.options.stack_every),
            event_every: (self.options.event_every > 0).then_some(self.options.event_every),
        }
    }

    fn sampling(&self, lasted: Duration, totals: &Totals) -> Observed<Sampling> {
        if self.rung == Rung::Exact {
            return Observed::missing("every callback was timed instead");
        }
        let cpus = aya::util::online_cpus().map_or(1, |cpus| cpus.len().max(1));
        Observed::Value(Sampling {
            asked_hz: f64::from(self.options.rate),
            reached_hz: totals.samples as f64 / lasted.as_secs_f64() / cpus as f64,
            period_ns: self.options.period_ns(),
            samples: totals.samples,
            kernel: totals.samples - totals.samples_user,
            stack_failed: totals.samples_failed,
            in_callback: totals.samples_filed + totals.samples_unfiled,
        })
    }

    /// One record per cell.
    fn callback_records(&self, counts: &Counts) -> Vec<CallbackRecord> {
        counts
            .cells
            .iter()
            .filter_map(|(key, cell)| self.callbacks(key, cell, &counts.histograms))
            .collect()
    }

    fn callbacks(
        &self,
        key: &CellKey,
        cell: &Cell,
        histograms: &BTreeMap<HistogramKey, Box<Histogram>>,
    ) -> Option<CallbackRecord> {
        let (kind, caller) = (Kind::from_u8(key.kind)?, Caller::from_u8(key.caller)?);
        let exact = self.rung == Rung::Exact;
        let latency_of = |which| latency(histograms, key, which);
        const NOT_TIMED: &str = "callbacks are counted and sampled, not timed";
        Some(CallbackRecord {
            run: 0,
            vm: (key.vm != NO_VM).then(|| u32::from(key.vm)),
            kind: callback_kind(kind),
            caller: caller_class(caller),
            chain_len: chain_len(key.length),
            several_pages: key.several_pages != 0,
            callbacks: cell.callbacks,
            pages: cell.pages,
            locked: Observed::Value(cell.locked),
            young: if exact {
                cell.young.into()
            } else {
                Observed::missing("results are only seen where callbacks are timed")
            },
            samples: if exact {
                Observed::missing("callbacks were timed, not sampled")
            } else {
                self.samples(cell).into()
            },
            latency: if exact {
                latency_of(span::TOTAL)
            } else {
                Observed::missing(NOT_TIMED)
            },
            wait: if exact {
                latency_of(span::WAIT)
            } else {
                Observed::missing(NOT_TIMED)
            },
        })
    }

    fn samples(&self, cell: &Cell) -> Samples {
        Samples {
            rmap: cell.samples[place::RMAP],
            age_gfn: cell.samples[place::AGE_GFN],
            notifier: cell.samples[place::NOTIFIER],
            own: cell.samples[place::OWN],
            period_ns: self.options.period_ns(),
        }
    }

    fn losses(&self, totals: &Totals) -> Vec<LossRecord> {
        let problems = &self.find_problems;
        let losses = [
            (
                "callbacks",
                "the table of cells was full",
                totals.cells_full,
            ),
            (
                "caller class",
                "the kernel stack could not be read",
                totals.stacks_failed,
            ),
            (
                "caller class",
                "a re-read stack differed from the remembered one",
                totals.stacks_changed,
            ),
            ("events", "the ring buffer was full", totals.events_lost),
            (
                "samples",
                "the kernel stack could not be read",
                totals.samples_failed,
            ),
            (
                "samples",
                "in a callback that did not begin on this CPU",
                totals.samples_unfiled,
            ),
            (
                "latency",
                "the table of callbacks in flight was full",
                totals.starts_full,
            ),
            (
                "latency",
                "an exit without its entry",
                totals.exits_unmatched,
            ),
            (
                "latency",
                "an entry without its exit",
                totals.starts_replaced,
            ),
            (
                "latency",
                "the table of histograms was full",
                totals.histograms_full,
            ),
            (
                "VM",
                "VMs or memslots beyond the tables",
                problems.did_not_fit,
            ),
            ("VM", "kernel memory could not be read", problems.faults),
            (
                "VM",
                "memslots changed while they were read",
                problems.changed,
            ),
            (
                "chain length",
                "address intervals beyond the table",
                self.intervals.did_not_fit(),
            ),
        ];
        let record = |(signal, cause, count): (&str, &str, u64)| LossRecord {
            run: 0,
            signal: signal.to_owned(),
            cause: cause.to_owned(),
            count: Observed::Value(count),
        };
        losses.into_iter().map(record).collect()
    }

    fn event(&self, event: &Event) -> Option<EventRecord> {
        let timed = self.rung == Rung::Exact;
        Some(EventRecord {
            run: 0,
            at_ns: event.time_ns.saturating_sub(self.start.monotonic_ns),
            cpu: event.cpu,
            pid: event.pid,
            kind: callback_kind(Kind::from_u8(event.kind)?),
            caller: caller_class(Caller::from_u8(event.caller)?),
            pages: event.end.saturating_sub(event.start) >> 12,
            chain_len: chain_len(event.length),
            duration_ns: if timed {
                event.total_ns.into()
            } else {
                Observed::missing("not timed")
            },
        })
    }
}

/// The distribution of one span of a cell's callbacks.
fn latency(
    histograms: &BTreeMap<HistogramKey, Box<Histogram>>,
    key: &CellKey,
    which: u8,
) -> Observed<Latency> {
    let key = HistogramKey {
        cell: *key,
        span: which,
        zero: [0; 7],
    };
    let Some(histogram) = histograms.get(&key) else {
        return Observed::missing("no callback was timed");
    };
    let mut latency = Latency::new();
    for (bucket, count) in histogram
        .buckets
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        latency.record_many_ns(middle_ns(bucket), *count);
    }
    Observed::Value(latency)
}

fn chain_len(code: u16) -> ChainLen {
    match code {
        length::LONGER => ChainLen::AtLeast(u32::from(MAX_EXACT_LENGTH) + 1),
        length::STALE => ChainLen::Stale,
        length::UNREADABLE => ChainLen::Unreadable,
        length::NO_RMAP => ChainLen::NoRmap,
        length::OUTSIDE => ChainLen::Outside,
        length::AMBIGUOUS => ChainLen::Ambiguous,
        length::NOT_WALKED => ChainLen::NotWalked,
        exact => ChainLen::Exact(u32::from(exact)),
    }
}

fn callback_kind(kind: Kind) -> CallbackKind {
    match kind {
        Kind::ClearFlushYoung => CallbackKind::ClearFlushYoung,
        Kind::ClearYoung => CallbackKind::ClearYoung,
        Kind::TestYoung => CallbackKind::TestYoung,
        Kind::ClearUnknown => CallbackKind::ClearUnknown,
    }
}

fn caller_class(caller: aging::Caller) -> CallerClass {
    match caller {
        Caller::Other => CallerClass::Other,
        Caller::Memcg => CallerClass::Memcg,
        Caller::Kswapd => CallerClass::Kswapd,
        Caller::Direct => CallerClass::Direct,
        Caller::Reclaim => CallerClass::Reclaim,
        Caller::MglruAging => CallerClass::Mglru,
        Caller::MglruLookaround => CallerClass::Lookaround,
        Caller::Damon => CallerClass::Damon,
        Caller::Khugepaged => CallerClass::Khugepaged,
        Caller::PageIdle => CallerClass::PageIdle,
        Caller::Unknown => CallerClass::Unknown,
    }
}
