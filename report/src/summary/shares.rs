//! Tables of shares of events: one row per set of parameters, one column per
//! scheme, each cell how often it happened and among how many.

use super::bench::describe;
use crate::{
    proportion::Counts,
    schema::{BenchRecord, Op},
    table::{Column, Table, count, figure},
};

/// Shares are printed per this many events.
const PER: f64 = 1e6;

/// The table of one metric.
pub(super) fn table(workload: &str, metric: &str, op: Op, cells: &[&BenchRecord]) -> Table {
    let mut table = Table::new(
        format!("{workload}: {op}, {}", metric.replace('_', " ")),
        vec![
            Column::text("parameters"),
            Column::text("scheme"),
            Column::number("events"),
            Column::number("of"),
            Column::number("per million"),
            Column::number("95 % interval"),
        ],
    );
    let mut rows: Vec<String> = Vec::new();
    for cell in cells {
        let parameters = describe(&cell.params);
        if !rows.contains(&parameters) {
            rows.push(parameters);
        }
    }
    for parameters in rows {
        for cell in cells.iter().filter(|c| describe(&c.params) == parameters) {
            let mark = if cell.spoiled.is_some() { " !" } else { "" };
            let mut row = vec![parameters.clone(), format!("{}{mark}", cell.scheme)];
            row.extend(figures(cell.counts.unwrap_or_default()));
            table.row(row);
        }
    }
    table.note("Events are added up over all rounds; the interval is Wilson's.".to_owned());
    table
}

fn figures(counts: Counts) -> [String; 4] {
    let per_million = |share: f64| figure(share * PER);
    [
        count(counts.hits),
        count(counts.trials),
        counts.share().map_or_else(|| "-".to_owned(), per_million),
        counts.share_ci95().map_or_else(
            || "-".to_owned(),
            |(low, high)| format!("{} to {}", per_million(low), per_million(high)),
        ),
    ]
}
