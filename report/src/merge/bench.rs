//! Bench results: the rounds of one cell put behind each other.

use std::collections::BTreeMap;

use crate::{
    Observed,
    schema::{BenchRecord, Params, Record, Summary},
};

/// Cells by what tells them apart, in the order they first came.
#[derive(Debug, Default)]
pub(super) struct Sums {
    index: BTreeMap<String, usize>,
    cells: Vec<BenchRecord>,
    others: Vec<Record>,
}

impl Sums {
    pub(super) fn take(&mut self, records: Vec<Record>) {
        for record in records {
            match record {
                Record::Bench(cell) => self.add(*cell),
                other => self.others.push(other),
            }
        }
    }

    fn add(&mut self, cell: BenchRecord) {
        let next = self.cells.len();
        let index = *self.index.entry(key(&cell)).or_insert(next);
        if index == next {
            self.cells.push(cell);
            return;
        }
        let sum = &mut self.cells[index];
        let (n, more) = (sum.rounds.len() as f64, cell.rounds.len() as f64);
        sum.rounds.extend(cell.rounds);
        match (&mut sum.latency, cell.latency) {
            (Some(latency), Some(other)) => latency.merge(&other),
            (latency @ None, other) => *latency = other,
            (Some(_), None) => {}
        }
        match (&mut sum.counts, cell.counts) {
            (Some(counts), Some(other)) => counts.add(other),
            (counts @ None, other) => *counts = other,
            (Some(_), None) => {}
        }
        for (name, value) in cell.counters {
            let merged = match (sum.counters.get(&name), value) {
                (Some(Observed::Value(a)), Observed::Value(b)) => {
                    Observed::Value((a * n + b * more) / (n + more).max(1.0))
                }
                (Some(missing @ Observed::Missing(_)), _) => missing.clone(),
                (_, value) => value,
            };
            sum.counters.insert(name, merged);
        }
        if sum.spoiled.is_none() {
            sum.spoiled = cell.spoiled;
        }
    }

    pub(super) fn records(mut self) -> Vec<Record> {
        for cell in &mut self.cells {
            cell.summary = Summary::of(&cell.rounds).map_or_else(
                || Observed::missing("a round gave no finite value"),
                Observed::Value,
            );
        }
        let cells = self
            .cells
            .into_iter()
            .map(|cell| Record::Bench(Box::new(cell)));
        cells.chain(self.others).collect()
    }
}

/// What tells cells apart: all but what a run happened to get.
fn key(cell: &BenchRecord) -> String {
    let params = Params {
        huge_page_share: None,
        cpus: None,
        ..cell.params.clone()
    };
    // Parameters are numbers and names, which always become JSON.
    let params = serde_json::to_string(&params).unwrap_or_default();
    format!(
        "{}/{}/{}/{}/{params}",
        cell.workload, cell.scheme, cell.op, cell.metric
    )
}
