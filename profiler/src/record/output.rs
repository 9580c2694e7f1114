//! From counters to result records.

use std::{collections::BTreeMap, path::PathBuf};

use profiler_common::{
    aging::{self, Caller, Cell, CellKey, Kind, MAX_EXACT_LENGTH, NO_VM, length, place},
    event::Event,
    exact::{HistogramKey, span},
    histogram::Histogram,
};
use report::{
    Observed, ResultWriter, WriteError,
    compare::cost_records,
    latency::Latency,
    schema::{
        CallbackKind, CallbackRecord, CallerClass, ChainLen, Disturbance, EventRecord, LossRecord,
        Record, RunRecord, Samples, Sampling,
    },
};

use super::{outcome, recorder::Recorder};
use crate::{
    census_command::vm_record,
    ladder::{Ladder, Rung},
    observe::{Ended, Stretch, distribution, own_cost, period_ns},
};

/// A recording that ended, as records.
pub(super) struct Finished {
    records: Vec<Record>,
    ended: Ended,
    disturbance: Disturbance,
}

impl Finished {
    /// Writes the records and gives the file its name.
    pub(super) fn write(&self, mut writer: ResultWriter) -> Result<PathBuf, WriteError> {
        for record in &self.records {
            writer.push(record)?;
        }
        let disturbance = self.disturbance.clone();
        writer.finish(outcome(&self.ended), self.ended.reason(), disturbance)
    }
}

impl Recorder<'_> {
    /// Makes records of all that was counted. Every sampling rate is a run of
    /// its own; what belongs to the recording as a whole is in run 0.
    pub(super) fn finish(self, ended: Ended, ladder: &Ladder) -> Finished {
        let session = &self.session;
        let disturbance = session.start.watch.finish();
        let mut records = Vec::new();
        for (run, stretch) in (0..).zip(self.stretches.by_rate()) {
            records.extend(self.run_records(run, stretch, &ended, ladder));
        }
        let stacks = session.counters.other_stacks(0, &session.kernel.symbols);
        let own = own_cost::records(0, session.loaded(), &session.statistics);
        let events = session.events.iter().filter_map(|event| self.event(event));
        let costs = cost_records(&records, 0);
        records.extend(costs.into_iter().map(Record::Cost));
        records.extend(session.census.iter().cloned().map(Record::Census));
        records.extend(self.losses().into_iter().map(Record::Loss));
        records.extend(own.into_iter().map(Record::Overhead));
        records.extend(stacks.into_iter().map(Record::Stack));
        records.extend(events.map(Record::Event));
        Finished {
            records,
            ended,
            disturbance,
        }
    }

    /// What belongs to one run.
    fn run_records(
        &self,
        run: u32,
        stretch: &Stretch,
        ended: &Ended,
        ladder: &Ladder,
    ) -> Vec<Record> {
        let session = &self.session;
        let header = self.run_record(run, stretch, ended);
        let vms = session.registry.all().into_iter();
        let cells = stretch.counts.cells.iter();
        let mechanisms = ladder.records(run, session.rung).into_iter();
        let mut records = vec![Record::Run(Box::new(header))];
        records.extend(mechanisms.map(Record::Mechanism));
        records.extend(vms.map(|vm| Record::Vm(vm_record(run, vm))));
        records.extend(
            cells
                .filter_map(|(key, cell)| callbacks(run, session.rung, key, cell, stretch, ladder))
                .map(|record| Record::Callbacks(Box::new(record))),
        );
        let held_up = self.held_up(run, stretch, ladder).into_iter();
        records.extend(held_up.map(|record| Record::Interference(Box::new(record))));
        records
    }

    fn run_record(&self, run: u32, stretch: &Stretch, ended: &Ended) -> RunRecord {
        let event_every = self.session.event_every;
        RunRecord {
            run,
            started_utc: self.session.start.utc.clone(),
            duration_s: stretch.lasted.as_secs_f64(),
            pid: self.session.observe.pid,
            guest: None,
            complete: *ended == Ended::Duration,
            ended_by: ended.reason(),
            sampling: self.sampling(stretch),
            stack_every: Some(self.session.observe.stack_every),
            event_every: (event_every > 0).then_some(event_every),
        }
    }

    fn sampling(&self, stretch: &Stretch) -> Observed<Sampling> {
        if self.session.rung == Rung::Exact {
            return Observed::missing("every callback was timed instead");
        }
        let cpus = stretch.cpus.max(1);
        let totals = &stretch.counts.totals;
        Observed::Value(Sampling {
            asked_hz: f64::from(stretch.rate_hz),
            reached_hz: totals.samples as f64 / stretch.lasted.as_secs_f64() / cpus as f64,
            period_ns: period_ns(stretch.rate_hz),
            samples: totals.samples,
            kernel: totals.samples.saturating_sub(totals.samples_user),
            stack_failed: totals.samples_failed,
            in_callback: totals.samples_filed + totals.samples_unfiled,
        })
    }

    fn losses(&self) -> Vec<LossRecord> {
        let losses = self.session.losses().into_iter();
        let mut records: Vec<LossRecord> = losses
            .map(|(signal, cause, count)| LossRecord {
                run: 0,
                signal: signal.to_owned(),
                cause: cause.to_owned(),
                count: Observed::Value(count),
                at_s: None,
            })
            .collect();
        let lowered = self.session.lowered.iter();
        let lowered = lowered.map(|lowered| (lowered.told(), lowered.at_s));
        let above = self.session.above.iter();
        let above = above.map(|above| (above.told(), above.at_s));
        records.extend(lowered.chain(above).map(|(cause, at_s)| LossRecord {
            run: 0,
            signal: LossRecord::SAMPLING_RATE.to_owned(),
            cause,
            count: Observed::Value(1),
            at_s: Some(at_s),
        }));
        records
    }

    fn event(&self, event: &Event) -> Option<EventRecord> {
        let timed = self.session.rung == Rung::Exact;
        Some(EventRecord {
            run: 0,
            at_ns: event
                .time_ns
                .saturating_sub(self.session.start.monotonic_ns),
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

/// The record of one cell.
fn callbacks(
    run: u32,
    rung: Rung,
    key: &CellKey,
    cell: &Cell,
    stretch: &Stretch,
    ladder: &Ladder,
) -> Option<CallbackRecord> {
    const NOT_TIMED: &str = "callbacks are counted and sampled, not timed";
    let (kind, caller) = (Kind::from_u8(key.kind)?, Caller::from_u8(key.caller)?);
    let exact = rung == Rung::Exact;
    let timed = |which, probed: &Result<(), String>| match probed {
        _ if !exact => Observed::missing(NOT_TIMED),
        Ok(()) => latency(
            &stretch.counts.histograms,
            key,
            which,
            longest_ns(cell, which),
        ),
        Err(reason) => Observed::missing(reason.clone()),
    };
    Some(CallbackRecord {
        run,
        vm: (key.vm != NO_VM).then(|| u32::from(key.vm)),
        kind: callback_kind(kind),
        caller: caller_class(caller),
        chain_len: chain_len(key.length),
        several_pages: key.several_pages != 0,
        callbacks: cell.callbacks,
        pages: cell.pages,
        // On the exact rung heads are read at the inner functions' entry.
        locked: match &ladder.inner {
            Err(reason) if exact => Observed::missing(reason.clone()),
            _ => cell.locked.into(),
        },
        young: if exact {
            cell.young.into()
        } else {
            Observed::missing("results are only seen where callbacks are timed")
        },
        samples: if exact {
            Observed::missing("callbacks were timed, not sampled")
        } else {
            samples(cell, stretch.rate_hz).into()
        },
        latency: timed(span::TOTAL, &Ok(())),
        wait: timed(span::WAIT, &ladder.inner),
        tdp: timed(span::TDP, &ladder.tdp),
    })
}

fn samples(cell: &Cell, rate_hz: u32) -> Samples {
    Samples {
        rmap: cell.samples[place::RMAP],
        age_gfn: cell.samples[place::AGE_GFN],
        notifier: cell.samples[place::NOTIFIER],
        own: cell.samples[place::OWN],
        period_ns: period_ns(rate_hz),
    }
}

/// The longest of a cell's values of one span; 0 where it is not known.
fn longest_ns(cell: &Cell, which: u8) -> u64 {
    match which {
        span::TOTAL => cell.max_ns,
        _ => 0,
    }
}

/// The distribution of one span of a cell's callbacks.
fn latency(
    histograms: &BTreeMap<HistogramKey, Box<Histogram>>,
    key: &CellKey,
    which: u8,
    longest_ns: u64,
) -> Observed<Latency> {
    let key = HistogramKey {
        cell: *key,
        span: which,
        zero: [0; 7],
    };
    let Some(histogram) = histograms.get(&key) else {
        return Observed::missing("no callback was timed");
    };
    Observed::Value(distribution(histogram, longest_ns))
}

fn chain_len(code: u16) -> ChainLen {
    match code {
        length::LONGER => ChainLen::AtLeast(u32::from(MAX_EXACT_LENGTH) + 1),
        length::STALE => ChainLen::Stale,
        length::UNREADABLE | length::UNSEEN => ChainLen::Unreadable,
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

#[cfg(test)]
mod tests {
    use profiler_common::histogram::bucket;

    use super::*;
    use crate::ladder::Interference;

    const REFUSED: &str = "perf_event_open fails: EACCES";

    fn ladder(inner: Result<(), String>) -> Ladder {
        Ladder {
            signals: Vec::new(),
            rung: Some(Rung::Exact),
            offered: vec![Rung::Exact],
            tdp: inner.clone(),
            inner,
            interference: Interference {
                faults: Ok(()),
                waits: Ok(()),
            },
        }
    }

    /// The record of one callback that took 1001 ns and saw nothing of its walk.
    fn recorded(rung: Rung, length: u16, ladder: &Ladder) -> CallbackRecord {
        let key = CellKey {
            length,
            ..CellKey::default()
        };
        let cell = Cell {
            callbacks: 1,
            pages: 1,
            total_ns: 1001,
            max_ns: 1001,
            ..Cell::default()
        };
        let mut histogram = Box::new(Histogram::EMPTY);
        histogram.buckets[bucket(1001)] = 1;
        let mut stretch = Stretch::default();
        let timed = HistogramKey {
            cell: key,
            ..HistogramKey::default()
        };
        stretch.counts.histograms.insert(timed, histogram);
        callbacks(0, rung, &key, &cell, &stretch, ladder).expect("a known kind")
    }

    #[test]
    fn what_takes_the_inner_functions_is_unobserved_where_they_cannot_be_probed() {
        let ladder = ladder(Err(REFUSED.to_owned()));
        let exact = recorded(Rung::Exact, length::UNSEEN, &ladder);
        assert_eq!(exact.locked, Observed::missing(REFUSED));
        assert_eq!(exact.wait, Observed::missing(REFUSED));
        assert_eq!(exact.tdp, Observed::missing(REFUSED));
        assert_eq!(exact.chain_len, ChainLen::Unreadable);
        let latency = exact.latency.value().expect("timed").summary();
        assert_eq!((latency.count, latency.max_ns), (1, 1001));
        // The sampled rung reads heads at its own tracepoints.
        let sampled = recorded(Rung::Sampled, 1, &ladder);
        assert_eq!(sampled.locked, Observed::Value(0));
    }

    #[test]
    fn a_callback_that_reached_no_memslot_has_no_locked_head_and_did_not_wait() {
        let record = recorded(Rung::Exact, length::NOT_WALKED, &ladder(Ok(())));
        assert_eq!(record.locked, Observed::Value(0));
        assert_eq!(record.wait, Observed::missing("no callback was timed"));
        assert_eq!(record.chain_len, ChainLen::NotWalked);
    }
}
