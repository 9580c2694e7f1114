//! Tables of a bench result. Where a figure was measured per round: one row per
//! scheme and one column per set of parameters, with what all columns have in
//! common in the title; several tables where there are many columns. Where single
//! operations were timed: one row per set of parameters and scheme.

use super::{census, pass, relative, scaling, shares, tax, watchers};
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
    let has_own_tables = [pass::WORKLOAD, census::WORKLOAD, watchers::WORKLOAD];
    let plain = |c: &&&BenchRecord| !has_own_tables.contains(&c.workload.as_str());
    for cell in cells.iter().filter(plain) {
        let group = (cell.workload.as_str(), cell.metric.as_str(), cell.op);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
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
        } else {
            tables.extend(rounds_tables(workload, metric, op, &group));
        }
    }
    tables.extend(tax::tables(&cells));
    tables.extend(pass::tables(&cells));
    tables.extend(scaling::tables(&cells));
    tables.extend(watchers::tables(&cells));
    tables.extend(census::tables(&cells));
    tables
}

/// Columns of one table, at most.
const MOST_COLUMNS: usize = 8;

/// One table, or one for each set of words that tells the columns apart beside
/// the chain length and the aging.
fn rounds_tables(workload: &str, metric: &str, op: Op, cells: &[&BenchRecord]) -> Vec<Table> {
    let table = |cells: &[&BenchRecord]| rounds_table(workload, metric, op, cells);
    let columns = distinct(cells, |c| describe(&c.params));
    if columns.len() <= MOST_COLUMNS {
        return vec![table(cells)];
    }
    let beside = |c: &BenchRecord| {
        let params = Params {
            chain_len: None,
            aging: None,
            agers: c.params.agers.filter(|_| c.params.vcpus.is_none()),
            ..c.params.clone()
        };
        describe(&params)
    };
    let parts = distinct(cells, beside);
    let part = |words: &String| {
        let cells: Vec<_> = cells
            .iter()
            .copied()
            .filter(|c| beside(c) == *words)
            .collect();
        table(&cells)
    };
    parts.iter().map(part).collect()
}

/// The cells of one figure of a workload.
pub(super) fn measured<'a>(
    cells: &[&'a BenchRecord],
    (workload, metric): (&str, &str),
) -> Vec<&'a BenchRecord> {
    let is_it = |c: &&BenchRecord| c.workload == workload && c.metric == metric;
    cells.iter().copied().filter(is_it).collect()
}

/// What the cells have, each once, in the order of the cells.
pub(super) fn distinct<T: PartialEq>(
    cells: &[&BenchRecord],
    of: impl Fn(&BenchRecord) -> T,
) -> Vec<T> {
    let mut found = Vec::new();
    for cell in cells {
        let value = of(cell);
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

fn rounds_table(workload: &str, metric: &str, op: Op, cells: &[&BenchRecord]) -> Table {
    let schemes = distinct(cells, |c| c.scheme.clone());
    let variants = distinct(cells, |c| describe_words(&c.params));
    let in_all = |word: &String| variants.iter().all(|words| words.contains(word));
    let common: Vec<String> = match variants.as_slice() {
        [first, _, ..] => first.iter().filter(|w| in_all(w)).cloned().collect(),
        _ => Vec::new(),
    };
    let mut columns = vec![Column::text("scheme")];
    for words in &variants {
        let own: Vec<&str> = words
            .iter()
            .filter(|w| !common.contains(w))
            .map(String::as_str)
            .collect();
        columns.push(Column::number(own.join(", ")));
    }
    let mut title = format!("{workload}: {op}, {}", metric.replace('_', " "));
    if !common.is_empty() {
        title.push_str(&format!(" ({})", common.join(", ")));
    }
    let mut table = Table::new(title, columns);
    for scheme in &schemes {
        let mut row = vec![scheme.clone()];
        for words in &variants {
            let is_it =
                |c: &&&BenchRecord| c.scheme == *scheme && describe_words(&c.params) == *words;
            let cell = cells.iter().find(is_it);
            row.push(cell.map_or_else(|| "-".to_owned(), |c| summary_cell(c, 1.0)));
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
    if relative::is_relative(metric) {
        table.note(relative::NOTE);
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

/// The median with its interval, both times `factor`.
pub(super) fn summary_cell(cell: &BenchRecord, factor: f64) -> String {
    let mark = if cell.spoiled.is_some() { " !" } else { "" };
    match cell.summary.value() {
        Some(Summary {
            median,
            ci95_low,
            ci95_high,
            ..
        }) => {
            let interval = ci95_low.zip(*ci95_high);
            let interval = interval.map(|(low, high)| (low * factor, high * factor));
            format!("{}{mark}", with_interval(median * factor, interval))
        }
        None => "-".to_owned(),
    }
}

fn latency_table(workload: &str, metric: &str, op: Op, cells: &[&BenchRecord]) -> Table {
    let what = match metric.split('_').next() {
        Some("due") => "latency of single operations, from when it was due",
        Some("closed") => "latency of single operations in a closed loop",
        Some("kept") => "time that others were kept out",
        Some("alone") => "what the short call alone takes longer than usual",
        _ => "latency of single operations",
    };
    let mut table = Table::new(
        format!("{workload}: {op}, {what}"),
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
pub(crate) fn describe(params: &Params) -> String {
    describe_words(params).join(", ")
}

fn describe_words(params: &Params) -> Vec<String> {
    let mut words = Vec::new();
    let spaced = |text: &String| text.replace('_', " ");
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    words.extend(
        params
            .aging
            .as_ref()
            .map(|aging| format!("aging {}", spaced(aging))),
    );
    words.extend(params.load.as_ref().map(spaced));
    if let Some(len) = params.chain_len {
        words.push(format!("{len} SPTE{}", if len == 1 { "" } else { "s" }));
    }
    let mix = params.chain_mix.as_ref();
    words.extend(mix.map(|mix| format!("SPTEs:% {mix}")));
    words.extend(
        params
            .empty_share
            .map(|share| format!("{} empty", percent(share))),
    );
    words.extend(params.meets.as_ref().map(spaced));
    words.extend(
        params
            .young_in
            .as_ref()
            .map(|place| format!("young in {}", spaced(place))),
    );
    words.extend(params.cache.map(|cache| cache.to_string()));
    words.extend(
        params
            .young_share
            .map(|share| format!("{} young", percent(share))),
    );
    let whole_slot = params.range_pages.is_some() && params.range_pages == params.slot_pages;
    if let Some(pages) = params.range_pages.filter(|p| *p != 1 && !whole_slot) {
        words.push(format!("{pages} pages"));
    }
    if let Some(level) = params.level.filter(|l| *l != 1) {
        words.push(format!("level {level}"));
    }
    // A set that is as large as a cache allows says so by the cache.
    let slot = match (whole_slot, params.cache) {
        (true, _) => params
            .slot_pages
            .map(|n| format!("whole slot of {}", count(n))),
        (false, None) => params.slot_pages.map(|n| format!("slot of {}", count(n))),
        (false, Some(_)) => None,
    };
    words.extend(slot);
    let several = |n: u32, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    words.extend(params.agers.map(|n| several(n, "ager")));
    let ranges = params.ranges.as_ref();
    words.extend(ranges.map(|ranges| format!("{ranges} pages")));
    words.extend(params.vcpus.map(|n| several(n, "vCPU")));
    words.extend(params.op_interval_ns.map(|ns| match ns {
        0 => "back to back".to_owned(),
        ns => format!("every {} µs", figure(ns as f64 / 1e3)),
    }));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Observed, schema::Cache};

    fn cell(params: Params) -> BenchRecord {
        BenchRecord {
            workload: "walk".to_owned(),
            scheme: "bitlock".to_owned(),
            op: Op::Age,
            metric: "ns_per_gfn".to_owned(),
            params,
            rounds: vec![2.0; 6],
            summary: Observed::Value(Summary::of(&[2.0; 6]).unwrap()),
            latency: None,
            counts: None,
            counters: Default::default(),
            spoiled: None,
        }
    }

    #[test]
    fn every_parameter_that_tells_cells_apart_is_in_words() {
        let walk = Params {
            chain_len: Some(16),
            cache: Some(Cache::Cold),
            young_share: Some(0.5),
            range_pages: Some(64),
            level: Some(2),
            slot_pages: Some(4096),
            ..Params::default()
        };
        let words = "16 SPTEs, cold, 50 % young, 64 pages, level 2";
        assert_eq!(describe(&walk), words);
        let empty = Params {
            empty_share: Some(0.99),
            range_pages: Some(4096),
            slot_pages: Some(4096),
            ..Params::default()
        };
        assert_eq!(describe(&empty), "99 % empty, whole slot of 4,096");
        let beside = Params {
            aging: Some("back_to_back".to_owned()),
            load: Some("paced".to_owned()),
            agers: Some(1),
            vcpus: Some(2),
            op_interval_ns: Some(20_000),
            ..Params::default()
        };
        let words = "aging back to back, paced, 1 ager, 2 vCPUs, every 20.0 µs";
        assert_eq!(describe(&beside), words);
    }

    #[test]
    fn a_spoiled_figure_is_marked_and_the_table_says_why() {
        let (sound, mut spoiled) = (cell(Params::default()), cell(Params::default()));
        spoiled.scheme = "rcu".to_owned();
        spoiled.spoiled = Some("other work".to_owned());
        let table = rounds_table("walk", "ns_per_gfn", Op::Age, &[&sound, &spoiled]);
        let marked: Vec<_> = table.rows().iter().map(|r| r[1].contains('!')).collect();
        assert_eq!(marked, [false, true]);
        let why = |note: &String| note.contains("spoiled: other work");
        assert!(table.notes().iter().any(why), "{:?}", table.notes());
    }

    #[test]
    fn from_when_a_latency_counts_is_in_the_title() {
        let title = |metric| {
            let table = latency_table("interference", metric, Op::Fault, &[]);
            table.title().to_owned()
        };
        assert!(title("due_p50_ns").contains("from when it was due"));
        assert!(title("closed_p50_ns").contains("closed loop"));
        assert!(title("kept_out_max_ns").contains("kept out"));
        assert!(title("alone_max_ns").contains("short call alone"));
    }
}
