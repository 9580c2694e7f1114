//! Rounds, interleaving, and what comes out of them.
//!
//! Every round measures every cell exactly once, in a new random order. Nothing
//! is measured twice to get a better value and nothing is thrown away: a
//! disturbed round stays in the figures and is counted against them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use report::Observed;
use report::latency::Latency;
use report::schema::{BenchRecord, Op, Summary};

use crate::disturb::{self, RunWatch};
use crate::memory;
use crate::plan::Plan;
use crate::progress::{Progress, Remaining};
use crate::rng::Rng;
use crate::workload::{Cell, Measured, Reading, Tools, Workload};

/// What a workload gave.
pub struct Outcome {
    /// One record per cell, operation and metric, in the order of the cells.
    pub records: Vec<BenchRecord>,
    /// Whether all rounds were done.
    pub complete: bool,
}

/// What the rounds of one run share.
pub struct Session<'a> {
    /// What was asked for.
    pub plan: &'a Plan,
    /// Set from outside to end the run early.
    pub stop: &'a AtomicBool,
    /// Watches the CPUs.
    pub watch: RunWatch,
    /// Random orders.
    pub rng: Rng,
    /// Lent to the cells.
    pub tools: Tools,
}

impl Session<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Measures one workload. Ended early, it returns what was measured.
    ///
    /// # Errors
    /// When the workload does not fit the plan or the machine, or the model
    /// reports an error.
    pub fn run(&mut self, workload: &dyn Workload) -> Result<Outcome> {
        let name = workload.name();
        let cells = cells(workload, self.plan)?;
        let mut bench = Bench::new(cells, self.plan.rounds);
        let mut progress = Progress::start(name, bench.steps());
        let complete =
            self.prepare(&mut bench, &progress)? && self.rounds(&mut bench, &mut progress)?;
        progress.finish(if complete { "done" } else { "ended early" });
        Ok(Outcome {
            records: bench.records(name),
            complete,
        })
    }

    fn prepare(&self, bench: &mut Bench, progress: &Progress) -> Result<bool> {
        let cells = bench.cells.len();
        for (built, cell) in bench.cells.iter_mut().enumerate() {
            if self.stopped() {
                return Ok(false);
            }
            progress.preparing(built, cells);
            cell.measure
                .prepare()
                .with_context(|| format!("building a cell of {}", cell.scheme))?;
        }
        Ok(true)
    }

    fn rounds(&mut self, bench: &mut Bench, progress: &mut Progress) -> Result<bool> {
        let mut order: Vec<usize> = (0..bench.cells.len()).collect();
        for _ in 0..self.plan.rounds {
            self.rng.shuffle(&mut order);
            for &index in &order {
                if self.stopped() {
                    return Ok(false);
                }
                let left = self.measure(bench, index)?;
                progress.step(left);
            }
        }
        Ok(true)
    }

    fn measure(&mut self, bench: &mut Bench, index: usize) -> Result<Option<std::time::Duration>> {
        let start = Instant::now();
        let cell = &mut bench.cells[index];
        let measured = cell
            .measure
            .measure(&mut self.tools)
            .with_context(|| format!("measuring a cell of {}", cell.scheme))?;
        let disturbed = self.watch.judge(&measured.threads);
        bench.tallies[index].take(measured, disturbed);
        bench.remaining.done(index, start.elapsed());
        Ok(bench.remaining.estimate())
    }
}

/// The cells of a workload, once it is known that this machine can measure them.
///
/// # Errors
/// When the workload does not fit the plan, the CPUs or the memory.
pub fn cells(workload: &dyn Workload, plan: &Plan) -> Result<Vec<Cell>> {
    let name = workload.name();
    plan.cpus
        .first(workload.least_cpus())
        .with_context(|| format!("workload {name}"))?;
    let cells = workload.cells(plan)?;
    memory::check_fits(name, cells.iter().map(|c| c.resident_bytes).sum())?;
    Ok(cells)
}

/// The cells of one workload and what they gave so far.
struct Bench {
    cells: Vec<Cell>,
    tallies: Vec<Tally>,
    remaining: Remaining,
    rounds: u32,
}

impl Bench {
    fn new(cells: Vec<Cell>, rounds: u32) -> Self {
        Self {
            tallies: cells.iter().map(|_| Tally::default()).collect(),
            remaining: Remaining::new(cells.len(), rounds),
            cells,
            rounds,
        }
    }

    fn steps(&self) -> u64 {
        self.cells.len() as u64 * u64::from(self.rounds)
    }

    fn records(self, workload: &str) -> Vec<BenchRecord> {
        let cells = self.cells.into_iter().zip(self.tallies);
        cells
            .flat_map(|(cell, tally)| tally.records(workload, &cell))
            .collect()
    }
}

/// The rounds of one cell.
#[derive(Default)]
struct Tally {
    series: Vec<Series>,
    rounds: usize,
    disturbed: usize,
}

/// The rounds of one operation and metric of a cell.
struct Series {
    op: Op,
    metric: &'static str,
    rounds: Vec<f64>,
    latency: Option<Latency>,
    counters: BTreeMap<&'static str, Vec<Observed<f64>>>,
}

impl Tally {
    fn take(&mut self, measured: Measured, disturbed: bool) {
        self.rounds += 1;
        self.disturbed += usize::from(disturbed);
        for reading in measured.readings {
            let found = self
                .series
                .iter()
                .position(|s| (s.op, s.metric) == (reading.op, reading.metric));
            let index = found.unwrap_or_else(|| {
                self.series.push(Series::new(&reading));
                self.series.len() - 1
            });
            self.series[index].take(reading);
        }
    }

    fn records(self, workload: &str, cell: &Cell) -> Vec<BenchRecord> {
        let spoiled = disturb::verdict(self.disturbed, self.rounds);
        let record = |series: Series| BenchRecord {
            workload: workload.to_owned(),
            scheme: cell.scheme.clone(),
            op: series.op,
            metric: series.metric.to_owned(),
            params: cell.params.clone(),
            summary: Summary::of(&series.rounds).map_or_else(
                || Observed::missing("a round gave no finite value"),
                Observed::Value,
            ),
            rounds: series.rounds,
            latency: series.latency,
            counters: series
                .counters
                .into_iter()
                .map(|(name, rounds)| (name.to_owned(), median(rounds)))
                .collect(),
            spoiled: spoiled.clone(),
        };
        self.series.into_iter().map(record).collect()
    }
}

impl Series {
    fn new(reading: &Reading) -> Self {
        Self {
            op: reading.op,
            metric: reading.metric,
            rounds: Vec::new(),
            latency: None,
            counters: BTreeMap::new(),
        }
    }

    fn take(&mut self, reading: Reading) {
        self.rounds.push(reading.value);
        match (&mut self.latency, reading.latency) {
            (Some(sum), Some(more)) => sum.merge(&more),
            (sum @ None, more) => *sum = more,
            (Some(_), None) => {}
        }
        for (name, value) in reading.counters {
            self.counters.entry(name).or_default().push(value);
        }
    }
}

/// The median of a counter's rounds; one round without a value leaves none.
fn median(rounds: Vec<Observed<f64>>) -> Observed<f64> {
    let mut values = Vec::with_capacity(rounds.len());
    for round in rounds {
        match round {
            Observed::Value(value) => values.push(value),
            missing @ Observed::Missing(_) => return missing,
        }
    }
    report::stats::median(&values)
        .map_or_else(|| Observed::missing("no round counted it"), Observed::Value)
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
