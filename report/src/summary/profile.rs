//! Tables of a profile: who aged what, what it cost, and what the figures
//! rest on.

use std::collections::BTreeMap;

use crate::{
    Observed, ResultFile,
    compare::real_costs,
    latency::Latency,
    schema::{CallbackKind, CallbackRecord, CallerClass, CensusRecord, Record},
    stats::sampled_mean_ns,
    table::{Column, Table, count, figure, with_interval},
};

/// All tables of a profile.
pub(super) fn tables(file: &ResultFile) -> Vec<Table> {
    let all = [
        callers(file),
        by_chain_length(file),
        census(file),
        vms(file),
        mechanisms(file),
        losses(file),
        overhead(file),
    ];
    all.into_iter().filter(|t| !t.is_empty()).collect()
}

fn duration_s(file: &ResultFile) -> f64 {
    let runs = file.records.iter().filter_map(|r| match r {
        Record::Run(run) => Some(run.duration_s),
        _ => None,
    });
    runs.sum()
}

#[derive(Default)]
struct CallerSums {
    callbacks: u64,
    pages: u64,
    young: Option<u64>,
    samples: u64,
    sample_ns: f64,
    sampled: bool,
    latency: Option<Latency>,
}

impl CallerSums {
    fn add(&mut self, record: &CallbackRecord) {
        self.callbacks += record.callbacks;
        self.pages += record.pages;
        if let Observed::Value(young) = record.young {
            *self.young.get_or_insert(0) += young;
        }
        if let Observed::Value(samples) = &record.samples {
            let n = samples.total();
            self.sampled = true;
            self.samples += n;
            self.sample_ns += n as f64 * samples.period_ns as f64;
        }
        if let Observed::Value(latency) = &record.latency {
            self.latency.get_or_insert_default().merge(latency);
        }
    }

    fn mean(&self) -> String {
        if let Some(latency) = &self.latency {
            return figure(latency.mean_ns());
        }
        if !self.sampled || self.samples == 0 {
            return "-".to_owned();
        }
        let period = (self.sample_ns / self.samples as f64).round() as u64;
        sampled_mean_ns(self.samples, period, self.callbacks).map_or_else(
            || "-".to_owned(),
            |m| with_interval(m.mean_ns, Some((m.low_ns, m.high_ns))),
        )
    }
}

fn callers(file: &ResultFile) -> Table {
    let mut sums: BTreeMap<(CallbackKind, CallerClass), CallerSums> = BTreeMap::new();
    for record in &file.records {
        if let Record::Callbacks(record) = record {
            sums.entry((record.kind, record.caller))
                .or_default()
                .add(record);
        }
    }
    let mut table = Table::new(
        "Aging callbacks, by kind and caller",
        vec![
            Column::text("callback"),
            Column::text("caller"),
            Column::number("calls"),
            Column::number("calls/s"),
            Column::number("pages/call"),
            Column::number("young (%)"),
            Column::number("mean (ns)"),
            Column::number("p50 (ns)"),
            Column::number("p99 (ns)"),
            Column::number("max (ns)"),
        ],
    );
    let seconds = duration_s(file);
    for ((kind, caller), sum) in sums.iter().filter(|(_, s)| s.callbacks > 0) {
        let calls = sum.callbacks as f64;
        let young = sum
            .young
            .map_or_else(|| "-".to_owned(), |y| figure(y as f64 * 100.0 / calls));
        let quantile = |q: f64| {
            sum.latency
                .as_ref()
                .map_or_else(|| "-".to_owned(), |l| count(l.quantile_ns(q)))
        };
        table.row(vec![
            kind.to_string(),
            caller.to_string(),
            count(sum.callbacks),
            if seconds > 0.0 {
                count((calls / seconds).round() as u64)
            } else {
                "-".to_owned()
            },
            figure(sum.pages as f64 / calls),
            young,
            sum.mean(),
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
        ]);
    }
    table.note("- means that it could not be observed; the mechanisms below say why.");
    table
}

fn by_chain_length(file: &ResultFile) -> Table {
    let mut table = Table::new(
        "Cost of a callback by the chain length seen at it",
        vec![
            Column::text("callback"),
            Column::text("SPTEs"),
            Column::number("calls"),
            Column::number("samples"),
            Column::number("mean (ns)"),
            Column::number("rmap part (ns)"),
            Column::number("rmap part/SPTE (ns)"),
        ],
    );
    for (kind, band, cost) in real_costs(file) {
        let mean = |m: Option<crate::stats::SampledMean>| {
            m.filter(|_| cost.is_supported()).map_or_else(
                || "-".to_owned(),
                |m| with_interval(m.mean_ns, Some((m.low_ns, m.high_ns))),
            )
        };
        let per_spte = match cost.walk {
            Some(walk) if band.mean_len > 0.0 && cost.is_supported() => {
                figure(walk.mean_ns / band.mean_len)
            }
            _ => "-".to_owned(),
        };
        table.row(vec![
            kind.to_string(),
            band.to_string(),
            count(cost.callbacks),
            cost.samples.map_or_else(|| "-".to_owned(), count),
            mean(cost.total),
            mean(cost.walk),
            per_spte,
        ]);
    }
    table.note(
        "± half of the 95 % interval. A range of lengths pools those too rare for a row of their \
         own; its mean is in brackets; - is fewer samples than a mean needs. Callbacks over several pages are left out.",
    );
    table
}

fn census(file: &ResultFile) -> Table {
    let mut table = Table::new(
        "Census of rmap chain lengths",
        vec![
            Column::text("run/vm"),
            Column::text("level"),
            Column::number("heads"),
            Column::number("empty (%)"),
            Column::number("one (%)"),
            Column::number("more (%)"),
            Column::number("longest"),
            Column::number("SPTEs"),
            Column::number("young (%)"),
            Column::number("locked"),
            Column::number("discarded"),
        ],
    );
    for record in &file.records {
        if let Record::Census(census) = record {
            table.row(census_row(census));
        }
    }
    table
}

fn census_row(census: &CensusRecord) -> Vec<String> {
    let share = |n: u64| match census.heads {
        0 => "-".to_owned(),
        heads => figure(n as f64 * 100.0 / heads as f64),
    };
    let of = |len: u32| census.lengths.get(&len).copied().unwrap_or(0);
    let more = census
        .heads
        .saturating_sub(of(0) + of(1) + census.faults + census.corrupt);
    let longest = census
        .lengths
        .iter()
        .rev()
        .find(|(_, n)| **n > 0)
        .map_or(0, |(len, _)| *len);
    let longest = if census.longer > 0 {
        format!(">{longest}")
    } else {
        longest.to_string()
    };
    let young = match census.accessed.value() {
        Some(accessed) if census.sptes > 0 => {
            figure(*accessed as f64 * 100.0 / census.sptes as f64)
        }
        _ => "-".to_owned(),
    };
    let level = match census.level {
        1 => "4K".to_owned(),
        2 => "2M".to_owned(),
        3 => "1G".to_owned(),
        other => other.to_string(),
    };
    vec![
        format!("{}/{}", census.run, census.vm),
        level,
        count(census.heads),
        share(of(0)),
        share(of(1)),
        share(more),
        longest,
        count(census.sptes),
        young,
        count(census.locked),
        count(census.discarded_chunks),
    ]
}

fn vms(file: &ResultFile) -> Table {
    let mut table = Table::new(
        "Virtual machines",
        vec![
            Column::text("run/vm"),
            Column::number("pid"),
            Column::text("comm"),
            Column::text("cgroup"),
            Column::number("memslots"),
            Column::number("pages"),
            Column::text("rmaps"),
            Column::text("state"),
        ],
    );
    for record in &file.records {
        let Record::Vm(vm) = record else { continue };
        let or_dash = |o: &Observed<String>| o.value().cloned().unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            format!("{}/{}", vm.run, vm.vm),
            vm.pid.to_string(),
            or_dash(&vm.comm),
            or_dash(&vm.cgroup),
            vm.memslots.to_string(),
            count(vm.pages),
            if vm.has_rmaps { "yes" } else { "no" }.to_owned(),
            vm.gone_s
                .map_or_else(|| "running".to_owned(), |s| format!("gone after {s:.1} s")),
        ]);
    }
    table
}

fn mechanisms(file: &ResultFile) -> Table {
    let mut table = Table::new(
        "What observed each signal",
        vec![
            Column::text("signal"),
            Column::text("mechanism"),
            Column::text("better, but"),
        ],
    );
    let mut seen: Vec<Vec<String>> = Vec::new();
    for record in &file.records {
        let Record::Mechanism(m) = record else {
            continue;
        };
        let mechanism = match &m.mechanism {
            Observed::Value(name) if m.exact => name.clone(),
            Observed::Value(name) => format!("{name} (sampled)"),
            Observed::Missing(reason) => format!("none: {reason}"),
        };
        let row = vec![m.signal.clone(), mechanism, m.passed_over.join("; ")];
        if !seen.contains(&row) {
            seen.push(row.clone());
            table.row(row);
        }
    }
    table
}

fn losses(file: &ResultFile) -> Table {
    let mut sums: BTreeMap<(&str, &str), Observed<u64>> = BTreeMap::new();
    for record in &file.records {
        let Record::Loss(loss) = record else { continue };
        let sum = sums
            .entry((&loss.signal, &loss.cause))
            .or_insert(Observed::Value(0));
        *sum = match (&*sum, &loss.count) {
            (Observed::Value(a), Observed::Value(b)) => Observed::Value(a + b),
            (Observed::Missing(reason), _) | (_, Observed::Missing(reason)) => {
                Observed::Missing(reason.clone())
            }
        };
    }
    let mut table = Table::new(
        "Losses",
        vec![
            Column::text("signal"),
            Column::text("cause"),
            Column::number("count"),
        ],
    );
    for ((signal, cause), sum) in sums {
        let shown = match sum {
            Observed::Value(n) => count(n),
            Observed::Missing(reason) => format!("unknown: {reason}"),
        };
        table.row(vec![signal.to_owned(), cause.to_owned(), shown]);
    }
    table
}

fn overhead(file: &ResultFile) -> Table {
    let mut sums: BTreeMap<&str, (u64, u64, Option<u64>)> = BTreeMap::new();
    for record in &file.records {
        let Record::Overhead(o) = record else {
            continue;
        };
        let (Some(runs), Some(ns)) = (o.runs.value(), o.run_time_ns.value()) else {
            continue;
        };
        let sum = sums.entry(&o.program).or_default();
        sum.0 += runs;
        sum.1 += ns;
        if let Some(misses) = o.recursion_misses.value() {
            *sum.2.get_or_insert(0) += misses;
        }
    }
    let mut table = Table::new(
        "Cost of observing",
        vec![
            Column::text("program"),
            Column::number("runs"),
            Column::number("ns/run"),
            Column::number("CPU (%)"),
            Column::number("recursion misses"),
        ],
    );
    let seconds = duration_s(file);
    for (program, (runs, ns, misses)) in sums {
        let each = if runs == 0 {
            "-".to_owned()
        } else {
            figure(ns as f64 / runs as f64)
        };
        let share = if seconds > 0.0 {
            figure(ns as f64 / 1e7 / seconds)
        } else {
            "-".to_owned()
        };
        let misses = misses.map_or_else(|| "-".to_owned(), count);
        table.row(vec![program.to_owned(), count(runs), each, share, misses]);
    }
    table.note("CPU (%): of one CPU, over the recorded time.");
    table
}
