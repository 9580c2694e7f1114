//! Stress: every operation of the MMU at full speed, checked whenever all threads
//! stand still.
//!
//! What the model checkers explore in small, this does in large and on the real
//! machine. A scheme's run is a row of phases of random length. In a phase vCPUs
//! fault, zap, unmap, write-protect and collapse, agers age and test-age, and a
//! stranger gets shadow pages that KVM has freed; between phases nothing runs and
//! the whole MMU is checked. Nothing is measured here.
//!
//! Schemes come from rmap's registry. Those that claim to be sound must pass; a
//! negative control runs only when it is named, and is expected to fail.

mod arena;
mod cli;
mod outcome;
mod phase;
mod progress;
mod vcpu;
mod workers;

use std::time::{Duration, Instant};

use rmap::{LockKind, RmapError, SchemeInfo};

use crate::{rng::Rng, signals::Signals};

use arena::Arena;
pub use cli::StressArgs;
pub use outcome::Tally;
use outcome::Violation;
use phase::Phase;
use progress::Progress;

/// Shortest and longest phase, operations of each vCPU.
const PHASE_OPS: std::ops::Range<u64> = 500..60_000;

/// What one scheme is put through.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Threads; at least three: a vCPU, an ager and the stranger.
    pub threads: usize,
    /// The run ends at the first check after so many operations.
    pub ops: u64,
    /// The run ends at the first check after so much time.
    pub time: Duration,
    /// Seed of all random choices; the threads' interleaving is the machine's.
    pub seed: u64,
    /// Which lock mmu_lock is.
    pub lock: LockKind,
}

/// How one scheme fared.
#[derive(Debug)]
pub struct SchemeOutcome {
    /// The scheme's name.
    pub scheme: &'static str,
    /// Operations and callbacks done.
    pub ops: u64,
    /// Times everything stood still and was checked.
    pub checks: u64,
    /// What was done, so that a run without something is noticed.
    pub tally: Tally,
    /// Time taken.
    pub elapsed: Duration,
    /// The first broken invariant.
    pub violation: Option<String>,
    /// A signal ended the run.
    pub interrupted: bool,
}

/// Stresses one scheme until the plan is done, a check fails or a signal comes.
///
/// # Errors
/// The MMU cannot be built.
pub fn stress(
    scheme: &'static SchemeInfo,
    plan: &Plan,
    signals: &Signals,
) -> Result<SchemeOutcome, RmapError> {
    let begin = Instant::now();
    let mut rng = Rng::new(plan.seed);
    let arena = Arena::build(scheme, plan.lock, &mut rng)?;
    let mut progress = Progress::start(scheme.name, plan.ops, plan.time);
    let mut outcome = SchemeOutcome {
        scheme: scheme.name,
        ops: 0,
        checks: 0,
        tally: Tally::default(),
        elapsed: Duration::ZERO,
        violation: None,
        interrupted: false,
    };
    while outcome.ops < plan.ops && begin.elapsed() < plan.time && !signals.came() {
        let left = plan.ops - outcome.ops;
        let phase = Phase::draw(&mut rng, left, begin + plan.time);
        let ended = phase.run(&arena, plan.threads, signals, |ops| {
            progress.tell(outcome.ops + ops, outcome.checks);
        });
        outcome.ops += ended.ops;
        outcome.tally += ended.tally;
        let checked: Result<(), Violation> = match ended.violation {
            Some(violation) => Err(violation),
            None => arena.check(&mut rng),
        };
        outcome.checks += 1;
        if let Err(violation) = checked {
            outcome.violation = Some(violation.to_string());
            break;
        }
    }
    outcome.interrupted = signals.came() && outcome.violation.is_none();
    outcome.elapsed = begin.elapsed();
    progress.finish(&outcome);
    Ok(outcome)
}
