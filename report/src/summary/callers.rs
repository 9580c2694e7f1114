//! Who asked for which VM's pages to be aged, and how long that took.

use std::collections::BTreeMap;

use super::profile::duration_s;
use crate::{
    Observed, ResultFile,
    latency::Latency,
    schema::{CallbackKind, CallbackRecord, CallerClass, ChainLen, Record},
    stats::{AtRate, LEAST_SAMPLES, SampledMean, at_rate_zero, sampled_mean_ns},
    table::{Column, Table, count, figure, with_interval},
    terminal,
};

#[derive(Default)]
struct Sums {
    callbacks: u64,
    pages: u64,
    young: Option<u64>,
    /// By the time one sample stands for.
    sampled: BTreeMap<u64, AtRate>,
    latency: Option<Latency>,
    wait: Option<Latency>,
    tdp: Option<Latency>,
}

impl Sums {
    fn add(&mut self, record: &CallbackRecord) {
        self.callbacks = self.callbacks.saturating_add(record.callbacks);
        self.pages = self.pages.saturating_add(record.pages);
        if let Observed::Value(young) = record.young {
            let sum = self.young.get_or_insert(0);
            *sum = sum.saturating_add(young);
        }
        if let Observed::Value(samples) = &record.samples {
            let at = self.sampled.entry(samples.period_ns).or_default();
            at.period_ns = samples.period_ns;
            at.samples = at.samples.saturating_add(samples.total());
            at.events = at.events.saturating_add(record.callbacks);
        }
        if let Observed::Value(latency) = &record.latency {
            self.latency.get_or_insert_default().merge(latency);
        }
        if let Observed::Value(wait) = &record.wait {
            self.wait.get_or_insert_default().merge(wait);
        }
        if let Observed::Value(tdp) = &record.tdp {
            self.tdp.get_or_insert_default().merge(tdp);
        }
    }

    /// The mean as it was seen.
    fn mean(&self) -> String {
        if let Some(latency) = &self.latency {
            return figure(latency.mean_ns());
        }
        let samples = self.sampled.values().map(|at| at.samples);
        let samples = samples.fold(0, u64::saturating_add);
        if samples < LEAST_SAMPLES {
            return dash();
        }
        let times = self.sampled.values();
        let time_ns: f64 = times
            .map(|at| at.samples as f64 * at.period_ns as f64)
            .sum();
        let period_ns = (time_ns / samples as f64).round() as u64;
        shown(sampled_mean_ns(samples, period_ns, self.callbacks))
    }

    /// The mean that several sampling rates say about none.
    fn at_rate_zero(&self) -> String {
        let rates: Vec<AtRate> = self.sampled.values().copied().collect();
        shown(at_rate_zero(&rates))
    }

    /// A time of some of the calls, shared among all.
    fn per_call(&self, of_some: &Latency) -> f64 {
        of_some.mean_ns() * of_some.count() as f64 / self.callbacks as f64
    }

    fn of_calls(&self, part: u64) -> f64 {
        part as f64 / self.callbacks as f64
    }
}

/// What stands for the VM where there is none.
fn nobody(file: &ResultFile, record: &CallbackRecord) -> &'static str {
    match record.chain_len {
        ChainLen::Ambiguous => "ambiguous",
        ChainLen::Outside => "not recorded",
        _ if file.context.merged_from.is_empty() => "not recorded",
        _ => "all",
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn shown(mean: Option<SampledMean>) -> String {
    mean.map_or_else(dash, |m| {
        with_interval(m.mean_ns, Some((m.low_ns, m.high_ns)))
    })
}

type Key = (String, CallbackKind, CallerClass);

fn sums(file: &ResultFile) -> BTreeMap<Key, Sums> {
    let names = names(file);
    let mut sums: BTreeMap<Key, Sums> = BTreeMap::new();
    for record in &file.records {
        if let Record::Callbacks(record) = record {
            let vm = match record.vm {
                Some(vm) => names.get(&(record.run, vm)).cloned(),
                None => None,
            };
            let vm = vm.unwrap_or_else(|| nobody(file, record).to_owned());
            let key = (vm, record.kind, record.caller);
            sums.entry(key).or_default().add(record);
        }
    }
    sums.retain(|_, sums| sums.callbacks > 0);
    sums
}

/// What VMs are called, by run and number.
fn names(file: &ResultFile) -> BTreeMap<(u32, u32), String> {
    let vms = file.records.iter().filter_map(|record| match record {
        Record::Vm(vm) => Some(vm),
        _ => None,
    });
    vms.map(|vm| {
        let comm = vm.comm.value().map_or("?", String::as_str);
        let name = format!("{} {}", vm.pid, terminal::harmless(comm));
        ((vm.run, vm.vm), name)
    })
    .collect()
}

fn columns(figures: &[&str]) -> Vec<Column> {
    let words = ["VM", "callback", "caller"].map(Column::text).into_iter();
    words
        .chain(figures.iter().copied().map(Column::number))
        .collect()
}

fn row((vm, kind, caller): &Key, figures: Vec<String>) -> Vec<String> {
    let words = [vm.clone(), kind.to_string(), caller.to_string()];
    words.into_iter().chain(figures).collect()
}

/// How many callbacks, over how many pages, and their mean time.
pub(super) fn counted(file: &ResultFile) -> Table {
    let figures = [
        "calls",
        "calls/s",
        "pages/call",
        "young (%)",
        "mean (ns)",
        "at rate 0 (ns)",
    ];
    let title = "Aging callbacks, by VM, kind and caller";
    let mut table = Table::new(title, columns(&figures));
    let seconds = duration_s(file);
    for (key, sums) in &sums(file) {
        let young = sums.young.map(|young| 100.0 * sums.of_calls(young));
        let per_s = (seconds > 0.0).then(|| sums.callbacks as f64 / seconds);
        let figures = vec![
            count(sums.callbacks),
            per_s.map_or_else(dash, |rate| count(rate.round() as u64)),
            figure(sums.of_calls(sums.pages)),
            young.map_or_else(dash, figure),
            sums.mean(),
            sums.at_rate_zero(),
        ];
        table.row(row(key, figures));
    }
    table.note(
        "- means that it could not be observed, the mechanisms below say why, or that a mean has \
         fewer than 20 samples. not recorded: in no VM that is recorded; ambiguous: at \
         addresses of several VMs; all: VMs of files that were merged.",
    );
    table
}

/// The distribution of their times, where each was timed.
pub(super) fn timed(file: &ResultFile) -> Table {
    let figures = [
        "wait (ns)",
        "walk (ns)",
        "TDP (ns)",
        "p50 (ns)",
        "p90 (ns)",
        "p99 (ns)",
        "p99.9 (ns)",
        "max (ns)",
    ];
    let title = "How long callbacks took, each timed";
    let mut table = Table::new(title, columns(&figures));
    for (key, sums) in &sums(file) {
        let Some(latency) = &sums.latency else {
            continue;
        };
        let wait_ns = sums.wait.as_ref().filter(|wait| wait.count() > 0);
        let wait_ns = wait_ns.map(Latency::mean_ns);
        let walk_ns = wait_ns.map(|wait| (latency.mean_ns() - wait).max(0.0));
        let quantiles = [0.5, 0.9, 0.99, 0.999, 1.0];
        let quantiles = quantiles.map(|q| count(latency.quantile_ns(q)));
        let tdp_ns = sums.tdp.as_ref().map(|tdp| sums.per_call(tdp));
        let means = [wait_ns, walk_ns, tdp_ns].map(|mean| mean.map_or_else(dash, figure));
        table.row(row(key, means.into_iter().chain(quantiles).collect()));
    }
    if !table.is_empty() {
        table.note(
            "wait: mean time before the first memslot is aged; walk: the rest of the mean; TDP: what \
             of the walk is in the TDP MMU, the rest is in the rmaps.",
        );
    }
    table
}
