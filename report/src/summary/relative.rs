//! Figures of a bench result as multiples of one scheme's.

use crate::{
    Observed, ResultFile,
    schema::{BenchRecord, Record, Summary},
};

/// What stands between a metric and the scheme it is a multiple of.
const OVER: &str = "_over_";

/// What such a figure is.
pub(super) const NOTE: &str = "the ratio of two figures of one round: both were measured within \
    the same seconds. An interval that includes 1 shows no difference.";

/// Whether a metric is a multiple of another.
pub(super) fn is_relative(metric: &str) -> bool {
    metric.contains(OVER)
}

/// The result with each figure divided by that of `base`, round by round. What was not
/// measured of `base` with the same parameters, or not once a round, is left out.
///
/// # Errors
/// Says which schemes there are if `base` is none of them.
pub fn relative_to(file: ResultFile, base: &str) -> Result<ResultFile, String> {
    let cells = || {
        file.records.iter().filter_map(|record| match record {
            Record::Bench(cell) => Some(&**cell),
            _ => None,
        })
    };
    if !cells().any(|cell| cell.scheme == base) {
        let mut known: Vec<&str> = cells().map(|cell| cell.scheme.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        return Err(match known.is_empty() {
            true => format!("{} has no figures of schemes", file.path.display()),
            false => format!(
                "no scheme is called {base:?}; there are {}",
                known.join(", ")
            ),
        });
    }
    let other = |cell: &BenchRecord| {
        cells().find(|other| other.scheme == base && other.is_same_but_for_scheme(cell))
    };
    let records = cells()
        .filter(|cell| cell.scheme != base)
        .filter_map(|cell| ratio(cell, other(cell)?))
        .map(|cell| Record::Bench(Box::new(cell)))
        .collect();
    Ok(ResultFile { records, ..file })
}

fn ratio(cell: &BenchRecord, base: &BenchRecord) -> Option<BenchRecord> {
    if cell.latency.is_some() || cell.counts.is_some() {
        return None;
    }
    let summary = Summary::of_ratios(&cell.rounds, &base.rounds)?;
    let pairs = cell.rounds.iter().zip(&base.rounds);
    Some(BenchRecord {
        metric: format!("{}{OVER}{}", cell.metric, base.scheme),
        rounds: pairs.map(|(a, b)| a / b).collect(),
        summary: Observed::Value(summary),
        counters: Default::default(),
        spoiled: cell.spoiled.clone().or_else(|| base.spoiled.clone()),
        ..cell.clone()
    })
}
