//! Tables of a profile: who aged what, what it cost, and what the figures
//! rest on.

use std::collections::BTreeMap;

use super::{callers, held_up, losses, stacks};
use crate::{
    Observed, ResultFile,
    compare::real_costs,
    schema::{CensusRecord, Record, TdpTables, VmRecord},
    stats::SampledMean,
    table::{Column, Table, count, figure, with_interval},
};

/// All tables of a profile.
pub(super) fn tables(file: &ResultFile) -> Vec<Table> {
    let all = [
        callers::counted(file),
        callers::timed(file),
        by_chain_length(file),
        held_up::table(file),
        stacks::table(file),
        census(file),
        vms(file),
        mechanisms(file),
        losses::rates(file),
        losses::table(file),
        overhead(file),
    ];
    all.into_iter().filter(|t| !t.is_empty()).collect()
}

pub(super) fn duration_s(file: &ResultFile) -> f64 {
    let runs = file.records.iter().filter_map(|r| match r {
        Record::Run(run) => Some(run.duration_s),
        _ => None,
    });
    runs.sum()
}

fn by_chain_length(file: &ResultFile) -> Table {
    let mut table = Table::new(
        "Cost of a callback by the chain length seen at it",
        vec![
            Column::text("callback"),
            Column::text("SPTEs"),
            Column::number("pages"),
            Column::number("calls"),
            Column::number("samples"),
            Column::number("mean (ns)"),
            Column::number("at rate 0 (ns)"),
            Column::number("rmap part (ns)"),
            Column::number("at rate 0 (ns)"),
            Column::number("rmap part/SPTE (ns)"),
        ],
    );
    for (kind, band, cost) in real_costs(file) {
        let mean = |m: Option<SampledMean>| {
            m.filter(|_| cost.is_supported()).map_or_else(
                || "-".to_owned(),
                |m| with_interval(m.mean_ns, Some((m.low_ns, m.high_ns))),
            )
        };
        let per_spte = match cost.walk {
            Some(walk) if band.mean_len > 0.0 && cost.is_supported() => {
                figure(walk.mean_ns / band.mean_len / cost.mean_pages())
            }
            _ => "-".to_owned(),
        };
        table.row(vec![
            kind.to_string(),
            band.to_string(),
            figure(cost.mean_pages()),
            count(cost.callbacks),
            cost.samples.map_or_else(|| "-".to_owned(), count),
            mean(cost.raw.0),
            mean(cost.rate_zero.0),
            mean(cost.raw.1),
            mean(cost.rate_zero.1),
            per_spte,
        ]);
    }
    table.note(
        "± half of the 95 % interval. A range of lengths pools those too rare for a row of their \
         own; its mean is in brackets; - is fewer samples than a mean needs. pages: of a \
         callback's range, on average. Sampling slows what it samples: at rate 0 is what the means \
         at several rates say about none, and what the part per SPTE is made from where it is there.",
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
            Column::number("descriptors (KiB)"),
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
        .saturating_sub(of(0))
        .saturating_sub(of(1))
        .saturating_sub(census.faults)
        .saturating_sub(census.corrupt);
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
        census
            .descriptor_bytes
            .map_or_else(|| "-".to_owned(), |bytes| figure(bytes as f64 / 1024.0)),
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
            Column::number("TDP SPTEs"),
            Column::number("young (%)"),
            Column::text("state"),
        ],
    );
    let mut seen: Vec<VmRecord> = Vec::new();
    for record in &file.records {
        let Record::Vm(vm) = record else { continue };
        // Every sampling rate is a run of its own, with the same VMs.
        if !is_new(&mut seen, vm) {
            continue;
        }
        let tdp = vm.tdp.value();
        let or_dash = |o: &Observed<String>| o.value().cloned().unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            format!("{}/{}", vm.run, vm.vm),
            vm.pid.to_string(),
            or_dash(&vm.comm),
            or_dash(&vm.cgroup),
            vm.memslots.to_string(),
            count(vm.pages),
            if vm.has_rmaps { "yes" } else { "no" }.to_owned(),
            tdp.map_or_else(|| "-".to_owned(), |tables| count(tables.sptes())),
            tdp.and_then(TdpTables::accessed_share)
                .map_or_else(|| "-".to_owned(), |share| figure(share * 100.0)),
            vm.gone_s
                .map_or_else(|| "running".to_owned(), |s| format!("gone after {s:.1} s")),
        ]);
    }
    table
}

/// Whether a VM was not in another run of the same recording.
fn is_new(seen: &mut Vec<VmRecord>, vm: &VmRecord) -> bool {
    let anywhere = VmRecord {
        run: 0,
        ..vm.clone()
    };
    let is_new = !seen.contains(&anywhere);
    if is_new {
        seen.push(anywhere);
    }
    is_new
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
            Observed::Missing(reason) => format!("none: {}", refusal(&mut table, reason)),
        };
        let better = m.passed_over.iter().map(|it| refusal(&mut table, it));
        let better: Vec<String> = better.collect();
        let row = vec![m.signal.clone(), mechanism, better.join("; ")];
        if !seen.contains(&row) {
            seen.push(row.clone());
            table.row(row);
        }
    }
    table
}

/// `mechanism: why not`, the reason as the number of a note.
fn refusal(table: &mut Table, refused: &str) -> String {
    match refused.split_once(": ") {
        Some((mechanism, reason)) => format!("{mechanism} {}", table.numbered(reason)),
        None => refused.to_owned(),
    }
}

fn overhead(file: &ResultFile) -> Table {
    let mut sums: BTreeMap<&str, (u64, u64, Option<u64>, f64)> = BTreeMap::new();
    for record in &file.records {
        let Record::Overhead(o) = record else {
            continue;
        };
        let (Some(runs), Some(ns)) = (o.runs.value(), o.run_time_ns.value()) else {
            continue;
        };
        let sum = sums.entry(&o.program).or_default();
        sum.0 = sum.0.saturating_add(*runs);
        sum.1 = sum.1.saturating_add(*ns);
        sum.3 += o.measured_s.unwrap_or(0.0);
        if let Some(misses) = o.recursion_misses.value() {
            let sum = sum.2.get_or_insert(0);
            *sum = sum.saturating_add(*misses);
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
    let whole_s = duration_s(file);
    for (program, (runs, ns, misses, measured_s)) in sums {
        let seconds = if measured_s > 0.0 {
            measured_s
        } else {
            whole_s
        };
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
    table.note(
        "runs, CPU (%): of one CPU, while BPF statistics were on: the recorded time, or its \
         beginning. Observing a callback can cost more than the callback: what runs at each is \
         its count times ns/run, and no sampling rate changes that.",
    );
    table
}
