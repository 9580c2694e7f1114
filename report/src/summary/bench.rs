//! Tables of a bench result: one row per set of parameters and one column per
//! scheme where a cost was measured per round, one row per scheme where single
//! operations were timed.

use super::shares;
use crate::{
    ResultFile,
    latency::Latency,
    schema::{BenchRecord, Op, Params, Record, Summary},
    table::{Column, Table, count, figure, with_interval},
};

/// All tables of a bench result.
pub(super) fn tables(file: &ResultFile) -> Vec<Table> {
    let cells: Vec<&BenchRecord> = file
        .records
        .iter()
        .filter_map(|r| match r {
            Record::Bench(cell) => Some(&**cell),
            _ => None,
        })
        .collect();
    let mut groups: Vec<(&str, &str, Op)> = Vec::new();
    for cell in &cells {
        let group = (cell.workload.as_str(), cell.metric.as_str(), cell.op);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    // Quantiles per round are kept for tests of significance; what is printed of
    // a distribution is the distribution.
    let timed_singly = |workload: &str, op: Op| {
        cells
            .iter()
            .any(|c| c.workload == workload && c.op == op && c.latency.is_some())
    };
    let mut tables = Vec::new();
    for (workload, metric, op) in groups {
        let group: Vec<&BenchRecord> = cells
            .iter()
            .copied()
            .filter(|c| c.workload == workload && c.metric == metric && c.op == op)
            .collect();
        if group.iter().any(|c| c.latency.is_some()) {
            tables.push(latency_table(workload, metric, op, &group));
        } else if group.iter().any(|c| c.counts.is_some()) {
            tables.push(shares::table(workload, metric, op, &group));
        } else if !timed_singly(workload, op) {
            tables.push(rounds_table(workload, metric, op, &group));
        }
    }
    tables
}

fn rounds_table(workload: &str, metric: &str, op: Op, cells: &[&BenchRecord]) -> Table {
    let mut schemes: Vec<&str> = Vec::new();
    let mut rows: Vec<&Params> = Vec::new();
    for cell in cells {
        if !schemes.contains(&cell.scheme.as_str()) {
            schemes.push(&cell.scheme);
        }
        if !rows.iter().any(|p| describe(p) == describe(&cell.params)) {
            rows.push(&cell.params);
        }
    }
    let mut columns = vec![Column::text("parameters")];
    columns.extend(schemes.iter().map(|s| Column::number(*s)));
    let unit = metric.replace('_', " ");
    let mut table = Table::new(format!("{workload}: {op}, {unit}"), columns);
    for params in rows {
        let mut row = vec![describe(params)];
        for scheme in &schemes {
            let cell = cells
                .iter()
                .find(|c| c.scheme == *scheme && describe(&c.params) == describe(params));
            row.push(cell.map_or_else(|| "-".to_owned(), |c| summary_cell(c)));
        }
        table.row(row);
    }
    let n: Vec<u32> = cells
        .iter()
        .filter_map(|c| c.summary.value().map(|s| s.n))
        .collect();
    if let (Some(least), Some(most)) = (n.iter().min(), n.iter().max()) {
        let n = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        table.note(format!(
            "median ± half of its 95 % interval (order statistics; none below six rounds), \
             n = {n} interleaved rounds."
        ));
    }
    let shares: Vec<f64> = cells
        .iter()
        .filter_map(|c| c.params.huge_page_share)
        .collect();
    if let Some(least) = shares.iter().copied().reduce(f64::min) {
        table.note(format!(
            "at least {:.0} % of the memory in huge pages.",
            least * 100.0
        ));
    }
    let mut spoiled: Vec<&str> = cells.iter().filter_map(|c| c.spoiled.as_deref()).collect();
    spoiled.sort_unstable();
    spoiled.dedup();
    if !spoiled.is_empty() {
        table.note(format!("! spoiled: {}.", spoiled.join("; ")));
    }
    table
}

fn summary_cell(cell: &BenchRecord) -> String {
    let mark = if cell.spoiled.is_some() { " !" } else { "" };
    match cell.summary.value() {
        Some(Summary {
            median,
            ci95_low,
            ci95_high,
            ..
        }) => {
            format!("{}{mark}", with_interval(*median, ci95_low.zip(*ci95_high)))
        }
        None => "-".to_owned(),
    }
}

fn latency_table(workload: &str, metric: &str, op: Op, cells: &[&BenchRecord]) -> Table {
    let from = if metric.starts_with("due_") {
        ", from when it was due"
    } else {
        ""
    };
    let mut table = Table::new(
        format!("{workload}: {op}, latency of single operations{from}"),
        vec![
            Column::text("scheme"),
            Column::text("parameters"),
            Column::number("n"),
            Column::number("mean (ns)"),
            Column::number("p50 (ns)"),
            Column::number("p99 (ns)"),
            Column::number("p99.9 (ns)"),
            Column::number("max (ns)"),
        ],
    );
    for cell in cells {
        let Some(latency) = &cell.latency else {
            continue;
        };
        let mut row = vec![cell.scheme.clone(), describe(&cell.params)];
        row.extend(figures(latency));
        table.row(row);
    }
    table
}

fn figures(latency: &Latency) -> [String; 6] {
    let s = latency.summary();
    [
        count(s.count),
        figure(s.mean_ns),
        count(s.p50_ns),
        count(s.p99_ns),
        count(s.p999_ns),
        count(s.max_ns),
    ]
}

/// The parameters in words, those that tell rows apart first.
pub(super) fn describe(params: &Params) -> String {
    let mut words = Vec::new();
    if let Some(aging) = &params.aging {
        words.push(format!("aging {}", aging.replace('_', " ")));
    }
    if let Some(len) = params.chain_len {
        words.push(format!("{len} SPTE{}", if len == 1 { "" } else { "s" }));
    }
    words.extend(
        params
            .chain_mix
            .as_ref()
            .map(|mix| format!("SPTEs:% {mix}")),
    );
    if let Some(cache) = params.cache {
        words.push(cache.to_string());
    }
    if let Some(young) = params.young_share {
        words.push(format!("{:.0} % young", young * 100.0));
    }
    if let Some(pages) = params.range_pages.filter(|p| *p != 1) {
        words.push(format!("{pages} pages"));
    }
    if let Some(level) = params.level.filter(|l| *l != 1) {
        words.push(format!("level {level}"));
    }
    words.extend(params.slot_pages.map(|n| format!("slot of {}", count(n))));
    let several = |n: u32, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    words.extend(params.agers.map(|n| several(n, "ager")));
    words.extend(params.vcpus.map(|n| several(n, "vCPU")));
    words.extend(params.op_interval_ns.map(|ns| match ns {
        0 => "back to back".to_owned(),
        ns => format!("every {} µs", figure(ns as f64 / 1e3)),
    }));
    words.join(", ")
}
