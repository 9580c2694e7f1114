//! What watching a host's aging costs it: one row per watcher, beside nobody
//! watching, and what was set out to be reached.

use super::{
    bench::{distinct, measured, summary_cell},
    goals::Goal,
    tax::percent,
};
use crate::{
    schema::{BenchRecord, Summary},
    table::{Column, Table, count, with_interval},
};

/// The workload.
pub const WORKLOAD: &str = "profiler-cost";
/// Time of a pass, median of those of a round.
pub const PASS: &str = "ns_per_pass";
/// The same of the passes right before and right after, which nobody watched.
pub const ALONE: &str = "ns_per_pass_alone";
/// What a watcher adds to one callback.
pub const ADDED: &str = "added_ns_per_callback";
/// Callbacks that a watcher saw.
pub const SEEN: &str = "callbacks_seen_per_pass";
/// Events that a watcher says it lost.
pub const LOST: &str = "events_lost_per_pass";

const NOBODY: &str = "nobody";
const OURS: &str = "rmapscope";
const PEER: &str = "bpftrace";

/// The tables, if watchers were measured.
pub(super) fn tables(cells: &[&BenchRecord]) -> Vec<Table> {
    let cells: Vec<_> = cells
        .iter()
        .copied()
        .filter(|c| c.workload == WORKLOAD)
        .collect();
    if cells.is_empty() {
        return Vec::new();
    }
    vec![costs(&cells), goals(&cells)]
}

fn find<'a>(cells: &[&'a BenchRecord], metric: &str, watcher: &str) -> Option<&'a BenchRecord> {
    let mut measured = measured(cells, (WORKLOAD, metric)).into_iter();
    measured.find(|c| c.scheme == watcher)
}

/// How much longer a pass is with a watcher than with nobody, round by round: against the
/// passes right before and after, or, in older files, against those of the same round.
fn slower(cells: &[&BenchRecord], watcher: &str) -> Option<Vec<f64>> {
    let rounds = |metric, watcher| find(cells, metric, watcher).map(|c| &c.rounds);
    let alone = rounds(ALONE, watcher).or_else(|| rounds(PASS, NOBODY))?;
    let pairs = rounds(PASS, watcher)?.iter().zip(alone);
    Some(pairs.map(|(pass, alone)| pass / alone).collect())
}

/// The passes of one watcher over those of another, both against nobody.
fn ratio(cells: &[&BenchRecord], over: &str, under: &str) -> Option<Summary> {
    let over = slower(cells, over)?;
    match under {
        NOBODY => Summary::of(&over),
        _ => Summary::of_ratios(&over, &slower(cells, under)?),
    }
}

fn costs(cells: &[&BenchRecord]) -> Table {
    let of = cells.first().map(|c| &c.params);
    let number = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), count);
    let title = format!(
        "{WORKLOAD}: reclaim of {} guest pages, {} SPTEs each, while somebody watches",
        number(of.and_then(|p| p.slot_pages)),
        number(of.and_then(|p| p.chain_len).map(u64::from)),
    );
    let mut columns = vec![Column::text("watcher")];
    columns.extend(
        [
            "pass (ms)",
            "slower (%)",
            "added (ns/callback)",
            "seen per pass",
            "lost per pass",
        ]
        .map(Column::number),
    );
    let mut table = Table::new(title, columns);
    for watcher in distinct(cells, |c| c.scheme.clone()) {
        let shown = |metric, factor| {
            let cell = find(cells, metric, &watcher);
            cell.map_or_else(|| "-".to_owned(), |c| summary_cell(c, factor))
        };
        // Nobody's own is what chance makes of it.
        let is_compared = watcher != NOBODY || find(cells, ALONE, NOBODY).is_some();
        let slower = ratio(cells, &watcher, NOBODY).filter(|_| is_compared);
        table.row(vec![
            watcher.clone(),
            shown(PASS, 1e-6),
            slower.map_or_else(|| "-".to_owned(), |ratio| percent(&ratio)),
            shown(ADDED, 1.0),
            shown(SEEN, 1.0),
            shown(LOST, 1.0),
        ]);
    }
    table.note(notes(cells));
    for cell in cells.iter().filter(|c| c.rounds.is_empty()) {
        let reason = cell.summary.reason().unwrap_or("not observed");
        if cell.metric == PASS
            || find(cells, PASS, &cell.scheme).is_some_and(|c| !c.rounds.is_empty())
        {
            table.note(format!("{}: {reason}.", cell.scheme));
        }
    }
    table
}

fn notes(cells: &[&BenchRecord]) -> String {
    let n = find(cells, PASS, NOBODY).map_or(0, |c| c.rounds.len());
    format!(
        "median ± half of its 95 % interval over n = {n} rounds, each of which has every \
         watcher once in random order; slower, added: against passes right before and after \
         that nobody watched; nobody: what chance makes of it. seen by perf-stat: callbacks of \
         all of the host."
    )
}

fn goals(cells: &[&BenchRecord]) -> Table {
    let columns = vec![
        Column::text("what"),
        Column::text("pass with"),
        Column::text("to"),
        Column::number("ratio"),
        Column::text("goal"),
        Column::text("reached"),
    ];
    let mut table = Table::new(
        format!("{WORKLOAD}: what was set out to be reached"),
        columns,
    );
    for (what, over, under, most) in [
        ("adds at most what counting alone does", OURS, PEER, 1.0),
        ("slows a pass by less than 3 %", OURS, NOBODY, 1.03),
    ] {
        let goal = Goal::AtMost(most);
        let ratio = ratio(cells, over, under);
        let (shown, reached) = match &ratio {
            Some(ratio) => (
                with_interval(ratio.median, ratio.ci95_low.zip(ratio.ci95_high)),
                goal.word(ratio),
            ),
            None => ("-".to_owned(), "-"),
        };
        table.row(vec![
            what.to_owned(),
            over.to_owned(),
            under.to_owned(),
            shown,
            goal.to_string(),
            reached.to_owned(),
        ]);
    }
    table.note("~: the interval holds both answers.");
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Observed,
        schema::{Op, Params},
        table::Format,
    };

    fn cell(watcher: &str, metric: &str, rounds: &[f64], reason: &str) -> BenchRecord {
        BenchRecord {
            workload: WORKLOAD.to_owned(),
            scheme: watcher.to_owned(),
            op: Op::Reclaim,
            metric: metric.to_owned(),
            params: Params::default(),
            rounds: rounds.to_vec(),
            summary: Summary::of(rounds).map_or_else(|| Observed::missing(reason), Observed::Value),
            latency: None,
            counts: None,
            counters: std::collections::BTreeMap::new(),
            spoiled: None,
        }
    }

    #[test]
    fn a_watcher_is_held_against_the_passes_next_to_its_own() {
        // The machine is twice as slow in the watcher's turns.
        let cells = [
            cell(NOBODY, PASS, &[100.0; 6], ""),
            cell(OURS, PASS, &[202.0; 6], ""),
            cell(OURS, ALONE, &[200.0; 6], ""),
        ];
        let cells: Vec<_> = cells.iter().collect();
        assert_eq!(ratio(&cells, OURS, NOBODY).unwrap().median, 1.01);
        let text = goals(&cells).render(Format::Text);
        let row = text.lines().find(|l| l.starts_with("slows")).unwrap();
        assert!(row.ends_with("yes"), "{text}");
        assert_eq!(ratio(&cells[..2], OURS, NOBODY).unwrap().median, 2.02);
    }

    #[test]
    fn a_watcher_that_is_missing_has_its_reason_and_no_figure() {
        let cells = [
            cell(NOBODY, PASS, &[100.0; 6], ""),
            cell(OURS, PASS, &[110.0; 6], ""),
            cell(PEER, PASS, &[], "bpftrace is not installed"),
            cell(PEER, ADDED, &[], "bpftrace is not installed"),
        ];
        let cells: Vec<_> = cells.iter().collect();
        let text: String = tables(&cells)
            .iter()
            .map(|table| table.render(Format::Text))
            .collect();
        assert_eq!(
            text.matches("bpftrace is not installed").count(),
            1,
            "{text}"
        );
        let rows: Vec<_> = text.lines().filter(|l| l.starts_with("slows")).collect();
        assert!(rows.len() == 1 && rows[0].ends_with("no"), "{text}");
        let rows: Vec<_> = text.lines().filter(|l| l.starts_with("adds")).collect();
        assert!(rows.len() == 1 && rows[0].ends_with('-'), "{text}");
    }
}
