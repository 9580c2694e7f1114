//! Rounds, interleaving, and what comes out of them.
//!
//! Every round measures every cell of a batch exactly once, in a new random order. Nothing
//! is measured twice to get a better value and nothing is thrown away: a
//! disturbed round stays in the figures and is counted against them. A workload
//! is one batch, unless its working sets do not fit into memory together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use report::Observed;
use report::latency::Latency;
use report::proportion::Counts;
use report::schema::{BenchRecord, Op, Summary};

use crate::disturb::{self, RunWatch};
use crate::huge_pages;
use crate::memory;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::rng::Rng;
use crate::workload::{Cell, Measured, Reading, Tools, Workload};

/// Counters that the whole run lacks, and why. They are stated once, in the
/// context, and left out of the records.
type Missing = BTreeMap<String, String>;

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
    /// Time expected of the workloads after this one.
    pub later: Duration,
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
        let batches = batches(workload, self.plan, memory::usable_bytes())?;
        let cells = batches.iter().map(Vec::len).sum();
        let rounds = self.plan.rounds.min(workload.most_rounds());
        let mut progress = Progress::start(name, cells, rounds, self.later);
        let missing = self.tools.counters.missing();
        let (mut records, mut first, mut complete) = (Vec::new(), 0, true);
        for cells in batches {
            let mut batch = Batch::new(cells, first);
            first += batch.cells.len();
            complete = self.prepare(&mut batch, &progress)?
                && self.rounds(&mut batch, rounds, &mut progress)?;
            records.extend(batch.records(name, &missing));
            if !complete {
                break;
            }
        }
        progress.finish(if complete { "done" } else { "ended early" });
        Ok(Outcome { records, complete })
    }

    fn prepare(&self, batch: &mut Batch, progress: &Progress) -> Result<bool> {
        let cells = batch.cells.len();
        for (built, cell) in batch.cells.iter_mut().enumerate() {
            if self.stopped() {
                return Ok(false);
            }
            progress.preparing(built, cells);
            cell.measure
                .prepare()
                .with_context(|| format!("building a cell of {}", cell.scheme))?;
        }
        let (share, nodes) = (huge_pages::share(), memory::nodes());
        let placement = self.plan.placement.to_string();
        for cell in &mut batch.cells {
            cell.params.huge_page_share = share;
            cell.params.numa_nodes.clone_from(&nodes);
            cell.params.placement = Some(placement.clone());
        }
        Ok(true)
    }

    fn rounds(&mut self, batch: &mut Batch, rounds: u32, progress: &mut Progress) -> Result<bool> {
        let mut order: Vec<usize> = (0..batch.cells.len()).collect();
        for _ in 0..rounds {
            self.rng.shuffle(&mut order);
            for &index in &order {
                if self.stopped() {
                    return Ok(false);
                }
                let start = Instant::now();
                self.measure(batch, index)?;
                progress.step(batch.first + index, start.elapsed());
            }
        }
        Ok(true)
    }

    fn measure(&mut self, batch: &mut Batch, index: usize) -> Result<()> {
        let cell = &mut batch.cells[index];
        let measured = cell
            .measure
            .measure(&mut self.tools)
            .with_context(|| format!("measuring a cell of {}", cell.scheme))?;
        // What nobody timed cannot be disturbed.
        let timed = !measured.threads.is_empty();
        let disturbed = self.watch.judge(&measured.threads) && timed;
        batch.tallies[index].take(measured, disturbed);
        Ok(())
    }
}

/// The cells of a workload, in batches that fit into `usable` bytes. All rounds
/// of a batch are done before the next is built, and no family is divided.
///
/// # Errors
/// When the workload does not fit the plan or the CPUs, or a family does not
/// fit into memory.
pub fn batches(workload: &dyn Workload, plan: &Plan, usable: u64) -> Result<Vec<Vec<Cell>>> {
    let name = workload.name();
    plan.cpus
        .first(workload.least_cpus())
        .with_context(|| format!("workload {name}"))?;
    let mut batches: Vec<Vec<Cell>> = vec![Vec::new()];
    let mut used = 0;
    let mut cells = workload
        .cells(&plan.for_weight(workload.weight()))?
        .into_iter()
        .peekable();
    while let Some(cell) = cells.next() {
        let mut family = vec![cell];
        while let Some(next) = cells.next_if(|next| next.family == family[0].family) {
            family.push(next);
        }
        let needed = family.iter().map(|cell| cell.resident_bytes).sum();
        let vm_bytes = family[0].params.vm_bytes;
        memory::check_fits(name, needed, usable, vm_bytes)?;
        if used + needed > usable {
            batches.push(Vec::new());
            used = 0;
        }
        used += needed;
        if let Some(batch) = batches.last_mut() {
            batch.append(&mut family);
        }
    }
    Ok(batches)
}

/// The cells that are interleaved and what they gave so far.
struct Batch {
    cells: Vec<Cell>,
    tallies: Vec<Tally>,
    /// Cells of the workload in batches before this one.
    first: usize,
}

impl Batch {
    fn new(cells: Vec<Cell>, first: usize) -> Self {
        let tallies = cells.iter().map(|_| Tally::default()).collect();
        Self {
            cells,
            tallies,
            first,
        }
    }

    fn records(self, workload: &str, missing: &Missing) -> Vec<BenchRecord> {
        let cells = self.cells.into_iter().zip(self.tallies);
        cells
            .flat_map(|(cell, tally)| tally.records(workload, &cell, missing))
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
    counts: Option<Counts>,
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

    fn records(self, workload: &str, cell: &Cell, missing: &Missing) -> Vec<BenchRecord> {
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
            counts: series.counts,
            counters: series
                .counters
                .into_iter()
                .map(|(name, rounds)| (name.to_owned(), median(rounds)))
                .filter(|(name, count)| {
                    count.reason().is_none()
                        || count.reason() != missing.get(name).map(String::as_str)
                })
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
            counts: None,
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
        if let Some(more) = reading.counts {
            self.counts.get_or_insert_default().add(more);
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
