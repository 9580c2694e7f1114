//! What a workload is, and the list of them.
//!
//! Adding a workload is one file under `workloads/`, its `pub mod` line in
//! `workloads.rs` and its line in [`WORKLOADS`]. Its cells may stand for lock schemes, peers or physical
//! limits alike: all that the runner knows of a cell is a name, parameters and
//! how to measure it once.

use anyhow::Result;
use report::latency::Latency;
use report::proportion::Counts;
use report::schema::{Op, Params};

use crate::counters::{self, CounterSet};
use crate::disturb::ThreadDisturbance;
use crate::eviction::Evictor;
use crate::plan::Plan;
use crate::workloads;

/// A question put to all schemes alike.
pub trait Workload: Sync {
    /// Its name on the command line and in results.
    fn name(&self) -> &'static str;

    /// One line for `--list`.
    fn summary(&self) -> &'static str;

    /// CPUs without which it cannot run.
    fn least_cpus(&self) -> usize;

    /// Its share of the measuring time, against the other workloads' weights.
    fn weight(&self) -> u32 {
        1
    }

    /// Rounds that are enough for it; what is not random needs one.
    fn most_rounds(&self) -> u32 {
        u32::MAX
    }

    /// Everything it measures under this plan. Builds nothing yet.
    ///
    /// # Errors
    /// When the plan leaves nothing to measure.
    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>>;
}

/// All workloads, in the order they run.
pub static WORKLOADS: &[&dyn Workload] = &[
    &workloads::walk::Walk,
    &workloads::empty::Empty,
    &workloads::writer::Writer,
    &workloads::pass::Pass,
    &workloads::interference::Interference,
    &workloads::agers::Agers,
    &workloads::hold::Hold,
    &workloads::memory::Memory,
    &workloads::accuracy::Accuracy,
    &workloads::reuse::Reuse,
    &workloads::lookaround::Lookaround,
];

/// The names of all workloads.
#[must_use]
pub fn names() -> Vec<&'static str> {
    WORKLOADS.iter().map(|w| w.name()).collect()
}

/// One scheme (or peer, or limit) with one set of parameters.
pub struct Cell {
    /// The name printed in the scheme column.
    pub scheme: String,
    /// What is the same in all rounds.
    pub params: Params,
    /// Cells of one number are compared with each other and never measured
    /// apart; cells of a workload are listed family by family.
    pub family: u32,
    /// Memory it holds from [`Measure::prepare`] to the end of its batch.
    pub resident_bytes: u64,
    /// How to measure it.
    pub measure: Box<dyn Measure>,
}

/// Measures one cell.
pub trait Measure {
    /// Builds what the cell needs; called once, before the first round.
    ///
    /// # Errors
    /// When the model refuses.
    fn prepare(&mut self) -> Result<()>;

    /// Measures once, for about the time the cell was planned with.
    ///
    /// # Errors
    /// When the model reports an error, or a thread cannot be pinned.
    fn measure(&mut self, tools: &mut Tools) -> Result<Measured>;
}

/// What the runner lends to the cell being measured.
pub struct Tools {
    /// Counters of the runner's own thread.
    pub counters: CounterSet,
    /// Makes caches cold.
    pub evictor: Evictor,
}

/// The last-level cache that tests pretend to have, bytes.
#[cfg(test)]
pub(crate) const LLC_OF_TESTS: u64 = 64 << 10;

#[cfg(test)]
impl Tools {
    /// Tools as tests lend them: real counters, and a cache that is soon emptied.
    pub(crate) fn of_tests() -> Self {
        Self {
            counters: CounterSet::open(),
            evictor: Evictor::new(LLC_OF_TESTS),
        }
    }
}

/// What one cell gave in one round.
pub struct Measured {
    /// One per operation and metric.
    pub readings: Vec<Reading>,
    /// What happened to the threads that measured.
    pub threads: Vec<ThreadDisturbance>,
}

/// One operation's figures in one round.
pub struct Reading {
    /// What was timed.
    pub op: Op,
    /// What `value` is, unit included.
    pub metric: &'static str,
    /// The round's figure.
    pub value: f64,
    /// The distribution, where single operations were timed.
    pub latency: Option<Latency>,
    /// The events counted, where the value is a share of them.
    pub counts: Option<Counts>,
    /// Counters per operation.
    pub counters: Vec<counters::Reading>,
}

impl Reading {
    /// A figure and nothing else.
    #[must_use]
    pub fn new(op: Op, metric: &'static str, value: f64) -> Self {
        Self {
            op,
            metric,
            value,
            latency: None,
            counts: None,
            counters: Vec::new(),
        }
    }

    /// A share of events, with the events; `None` where nothing was looked at.
    #[must_use]
    pub fn share(op: Op, metric: &'static str, counts: Counts) -> Option<Self> {
        Some(Self {
            counts: Some(counts),
            ..Self::new(op, metric, counts.share()?)
        })
    }
}
