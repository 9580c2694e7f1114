//! One phase: threads start, work and stop; then nothing runs.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{
    PHASE_OPS,
    arena::Arena,
    outcome::{Tally, Violation},
    vcpu::VcpuThread,
    workers::{Ager, Stranger},
};
use crate::{rng::Rng, signals::Signals};

/// How often the main thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long the vCPUs work and from which seed.
pub(super) struct Phase {
    ops_per_vcpu: u64,
    /// Of all threads together.
    ops: u64,
    deadline: Instant,
    seed: u64,
}

/// What a phase has done and found.
pub(super) struct Ended {
    pub(super) ops: u64,
    pub(super) tally: Tally,
    pub(super) violation: Option<Violation>,
}

/// What the threads of a phase share.
pub(super) struct Shared<'a> {
    pub(super) arena: &'a Arena,
    stop: AtomicBool,
    ops: AtomicU64,
}

impl Shared<'_> {
    /// Counts operations, in lots so that threads do not meet here, and says whether
    /// to go on.
    pub(super) fn did(&self, ops: u64) -> bool {
        self.ops.fetch_add(ops, Relaxed);
        !self.stop.load(Relaxed)
    }
}

/// Ends the phase for all when one thread ends, however it does.
struct EndsForAll<'a>(&'a AtomicBool);

impl Drop for EndsForAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

type Work<'a> = Box<dyn FnOnce(&Shared<'_>) -> (Tally, Result<(), Violation>) + Send + 'a>;

impl Phase {
    /// A phase of random length, most of them short, of at most `left` operations.
    pub(super) fn draw(rng: &mut Rng, left: u64, deadline: Instant) -> Self {
        let longest = PHASE_OPS.start + rng.below(PHASE_OPS.end - PHASE_OPS.start);
        Self {
            ops_per_vcpu: PHASE_OPS.start + rng.below(longest),
            ops: left,
            deadline,
            seed: rng.next_u64(),
        }
    }

    /// Runs it; `tell` hears now and then how many operations were done.
    pub(super) fn run(
        &self,
        arena: &Arena,
        threads: usize,
        signals: &Signals,
        mut tell: impl FnMut(u64),
    ) -> Ended {
        let shared = Shared {
            arena,
            stop: AtomicBool::new(false),
            ops: AtomicU64::new(0),
        };
        let mut ended = Ended {
            ops: 0,
            tally: Tally::default(),
            violation: None,
        };
        thread::scope(|scope| {
            let shared = &shared;
            let running: Vec<_> = self
                .work(threads)
                .into_iter()
                .map(|work| {
                    scope.spawn(move || {
                        let _ends_for_all = EndsForAll(&shared.stop);
                        work(shared)
                    })
                })
                .collect();
            while !running.iter().all(thread::ScopedJoinHandle::is_finished) {
                thread::sleep(LOOK_EVERY);
                let ops = shared.ops.load(Relaxed);
                if signals.came() || ops >= self.ops || Instant::now() >= self.deadline {
                    shared.stop.store(true, Relaxed);
                }
                tell(ops);
            }
            for thread in running {
                let (tally, result) = thread.join().unwrap_or_else(|_| {
                    let panicked = Violation("a thread panicked; its message is above".to_owned());
                    (Tally::default(), Err(panicked))
                });
                ended.tally += tally;
                ended.violation = ended.violation.take().or(result.err());
            }
        });
        ended.ops = shared.ops.load(Relaxed);
        ended
    }

    /// One stranger, half of the rest agers, and vCPUs.
    fn work<'a>(&self, threads: usize) -> Vec<Work<'a>> {
        let mut seeds = Rng::new(self.seed);
        let agers = (threads.saturating_sub(1) / 2).max(1);
        let vcpus = threads.saturating_sub(1 + agers).max(1);
        let ops = self.ops_per_vcpu;
        let mut work: Vec<Work<'a>> = Vec::new();
        for _ in 0..vcpus {
            let rng = Rng::new(seeds.next_u64());
            work.push(Box::new(move |shared| {
                VcpuThread::new(shared, rng).run(ops)
            }));
        }
        for number in 0..agers {
            let rng = Rng::new(seeds.next_u64());
            work.push(Box::new(move |shared| {
                Ager::new(shared, rng, number == 0).run()
            }));
        }
        let rng = Rng::new(seeds.next_u64());
        work.push(Box::new(move |shared| Stranger::new(shared, rng).run()));
        work
    }
}
