//! What a census takes: its time, how long it holds a CPU, and what it costs the
//! guest while it is repeated.

use super::{
    bench::{distinct, measured, summary_cell},
    tax::percent,
};
use crate::{
    schema::{BenchRecord, Summary},
    table::{Column, Table, figure},
};

/// The workload.
pub const WORKLOAD: &str = "census-cost";
/// Time of one census, all levels.
pub const TIME: &str = "ms_per_census";
/// The longest chunk of one census.
pub const CHUNK: &str = "longest_chunk_ms";
/// Passes of the guest over its pages.
pub const PASSES: &str = "passes_per_s";
/// A census of rmap heads alone.
pub const HEADS: &str = "heads";
/// A census of heads and SPTEs.
pub const SPTES: &str = "heads and SPTEs";
/// No census.
pub const NOBODY: &str = "nobody";
/// A census of heads and SPTEs every second.
pub const EVERY_SECOND: &str = "census every second";

/// Bytes of a GiB.
const GIB: f64 = (1_u64 << 30) as f64;

/// The tables, if censuses were measured.
pub(super) fn tables(cells: &[&BenchRecord]) -> Vec<Table> {
    let times = measured(cells, (WORKLOAD, TIME));
    if times.is_empty() {
        return Vec::new();
    }
    vec![reading(cells, &times), guests(cells, &times)]
}

/// The cell of one figure of the VM of another.
fn beside<'a>(
    cells: &[&'a BenchRecord],
    (metric, scheme): (&str, &str),
    of: &BenchRecord,
) -> Option<&'a BenchRecord> {
    let mut measured = measured(cells, (WORKLOAD, metric)).into_iter();
    measured.find(|c| c.scheme == scheme && c.params == of.params)
}

fn vm(cell: &BenchRecord) -> [String; 2] {
    let size = cell.params.vm_bytes.map_or(f64::NAN, |b| b as f64 / GIB);
    let mapped = 1.0 - cell.params.empty_share.unwrap_or(f64::NAN);
    [figure(size), figure(mapped * 100.0)]
}

fn reading(cells: &[&BenchRecord], times: &[&BenchRecord]) -> Table {
    let mut columns = ["VM (GiB)", "mapped (%)"].map(Column::number).to_vec();
    columns.push(Column::text("read"));
    columns.extend(["time (ms)", "longest chunk (ms)", "longest of all (ms)"].map(Column::number));
    let mut table = Table::new(format!("{WORKLOAD}: one census"), columns);
    for time in times {
        let chunk = beside(cells, (CHUNK, &time.scheme), time);
        let longest = chunk.and_then(|c| Some(figure(c.summary.value()?.max)));
        let mut row = vm(time).to_vec();
        row.push(time.scheme.clone());
        row.push(summary_cell(time, 1.0));
        row.push(chunk.map_or_else(|| "-".to_owned(), |c| summary_cell(c, 1.0)));
        row.push(longest.unwrap_or_else(|| "-".to_owned()));
        table.row(row);
    }
    let n = times.first().map_or(0, |c| c.rounds.len());
    table.note(format!(
        "median ± half of its 95 % interval over n = {n} censuses. chunk: time on a CPU \
         without a chance for others, by the kernel's clock, so with what the host of this \
         host took meanwhile."
    ));
    table
}

fn guests(cells: &[&BenchRecord], times: &[&BenchRecord]) -> Table {
    let mut columns = ["VM (GiB)", "mapped (%)"].map(Column::number).to_vec();
    columns
        .extend(["passes/s alone", "with a census every second", "slower (%)"].map(Column::number));
    let mut table = Table::new(format!("{WORKLOAD}: what it costs the guest"), columns);
    let mut n = 0;
    for vm_of in distinct(times, |c| c.params.clone()) {
        let Some(time) = times.iter().find(|c| c.params == vm_of) else {
            continue;
        };
        let find = |scheme| beside(cells, (PASSES, scheme), time);
        let (Some(alone), Some(with)) = (find(NOBODY), find(EVERY_SECOND)) else {
            continue;
        };
        n = alone.rounds.len();
        let slower = Summary::of_ratios(&alone.rounds, &with.rounds);
        let mut row = vm(time).to_vec();
        row.push(summary_cell(alone, 1.0));
        row.push(summary_cell(with, 1.0));
        row.push(slower.map_or_else(|| "-".to_owned(), |ratio| percent(&ratio)));
        table.row(row);
    }
    table.note(format!(
        "a guest that goes over its mapped pages without a pause, n = {n} spans of each kind \
         in turn; slower: passes alone over passes with it, span by span."
    ));
    table
}
