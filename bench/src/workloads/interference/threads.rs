//! The threads of an interference cell: what each does between the barriers.
//!
//! In the timed part nothing here allocates, takes a lock or writes memory that
//! another thread reads; the MMU that is called does what its scheme does, and under
//! `rcu` and the peers that includes allocating (docs/methodology.md). Each thread looks
//! at the clock by itself to know when its slice is over. Invariant: no vCPU operation is timed beside an ager
//! that has stopped. A vCPU begins none after its slice, and says that it has
//! stopped; agers go on until all vCPUs have.

use std::time::Duration;

use anyhow::{Context as _, Result};
use report::latency::Latency;
use rmap::{Access, Mapping, Mmu, RmapError, Vcpu};

use crate::clock::Clock;
use crate::counters::{self, CounterSet};
use crate::disturb::ThreadDisturbance;
use crate::duty::{OnDuty, Roster};
use crate::rng::Rng;
use crate::team::Seat;
use crate::workloads::pages::{Pages, Sweep};
use crate::workloads::vm;

/// Time from one vCPU operation to the next: many times what an operation takes
/// alone, so that a queue is the agers' doing.
pub(super) const PACE: Duration = Duration::from_micros(20);
/// Callbacks between two looks at the clock.
const AGER_BATCH: u64 = 64;

/// What one thread found.
pub(super) struct Part {
    pub(super) figures: Figures,
    pub(super) counters: Vec<counters::Reading>,
    pub(super) disturbance: ThreadDisturbance,
}

/// An ager's pages and time, or a vCPU's latencies.
pub(super) enum Figures {
    Ager { gfns: u64, ns: f64 },
    Vcpu { fault: Box<Ops>, zap: Box<Ops> },
}

/// The operations of one kind.
#[derive(Debug, Clone)]
pub(super) struct Ops {
    /// Operations that were due within the slice, done or not.
    pub(super) due: u64,
    /// From when an operation was due to its end, of those done.
    pub(super) latency: Latency,
    /// From the start of the call to its end, of those done.
    pub(super) service: Latency,
}

impl Ops {
    pub(super) fn new() -> Self {
        Self {
            due: 0,
            latency: Latency::new(),
            service: Latency::new(),
        }
    }

    pub(super) fn merge(&mut self, more: &Self) {
        self.due += more.due;
        self.latency.merge(&more.latency);
        self.service.merge(&more.service);
    }

    /// Share of the operations due that were begun within the slice.
    pub(super) fn done_share(&self) -> f64 {
        self.latency.count() as f64 / self.due as f64
    }
}

/// When a vCPU begins its next operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// When it is due: every [`PACE`].
    Paced,
    /// When the last one is done.
    ClosedLoop,
}

impl Load {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Paced => "paced",
            Self::ClosedLoop => "closed_loop",
        }
    }
}

/// What a vCPU does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) load: Load,
    /// SPTEs of every page.
    pub(super) chain_len: u32,
    pub(super) seed: u64,
}

/// What all threads of a cell share; copied into each.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) mmu: &'a dyn Mmu,
    pub(super) clock: Clock,
    pub(super) slice: Duration,
    /// Start of a sweep to the start of the next; back to back without.
    pub(super) period: Option<Duration>,
    /// vCPUs that have not stopped; agers look at it only after their slice.
    pub(super) running: &'a Roster,
}

impl Stage<'_> {
    /// Ages the pages over and over.
    pub(super) fn ager(&self, seat: &Seat<'_>, pages: Pages) -> Result<Part> {
        let mut counters = CounterSet::open();
        let timed = || counters.around(|| self.age_until_end(pages));
        let ((gfns, ns), disturbance) = seat.measure(timed).context("another thread failed")?;
        let counters = counters.per_operation(gfns);
        Ok(Part {
            figures: Figures::Ager { gfns, ns },
            counters,
            disturbance,
        })
    }

    /// Pages aged and the time that took. A sweep begins when it is due, or when
    /// the one before it is over; the time between sweeps does not count.
    pub(super) fn age_until_end(&self, pages: Pages) -> (u64, f64) {
        let clock = self.clock;
        let start = clock.now();
        let end = start + clock.ticks(self.slice);
        let period = self.period.map(|period| clock.ticks(period));
        let mut sweep = Sweep::new(pages, 0);
        let (mut aged, mut spent, mut due) = (0, 0.0, start);
        loop {
            let begun = clock.now();
            let mut in_sweep = 0;
            let over = loop {
                sweep.age(self.mmu, AGER_BATCH);
                in_sweep += AGER_BATCH;
                if self.is_over(clock.now(), end) {
                    break true;
                }
                if in_sweep >= pages.count && period.is_some() {
                    break false;
                }
            };
            aged += in_sweep;
            spent += clock.elapsed_ns(begun, clock.now());
            due += period.unwrap_or(0);
            if over || self.idle_until(due, end) {
                return (aged, spent);
            }
        }
    }

    /// Whether the slice is over and no vCPU measures any more.
    fn is_over(&self, now: u64, end: u64) -> bool {
        now >= end && self.running.is_empty()
    }

    /// Spins until a sweep is due; true if the slice was over first.
    fn idle_until(&self, due: u64, end: u64) -> bool {
        loop {
            let now = self.clock.now();
            if self.is_over(now, end) {
                return true;
            }
            if now >= due {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Zaps and faults on the pages.
    pub(super) fn vcpu(
        &self,
        seat: &Seat<'_>,
        pages: Pages,
        work: Work,
        on_duty: OnDuty<'_>,
    ) -> Result<Part> {
        let mut counters = CounterSet::open();
        let mut vcpu = Vcpu::new();
        let mut driver = Driver {
            clock: self.clock,
            slice: self.slice,
            rng: Rng::new(work.seed),
            pages,
            chain_len: work.chain_len,
            load: work.load,
            fault: Ops::new(),
            zap: Ops::new(),
        };
        let timed = || {
            let outcome = counters.around(|| {
                driver.drive(|call, mapping| match call {
                    Call::Zap => self.mmu.zap(&mut vcpu, mapping).map(drop),
                    Call::Fault => self.mmu.fault(&mut vcpu, mapping, Access::Write).map(drop),
                })
            });
            drop(on_duty);
            outcome
        };
        let (outcome, disturbance) = seat.measure(timed).context("another thread failed")?;
        outcome?;
        let (fault, zap) = (Box::new(driver.fault), Box::new(driver.zap));
        let counters = counters.per_operation(fault.service.count() + zap.service.count());
        Ok(Part {
            figures: Figures::Vcpu { fault, zap },
            counters,
            disturbance,
        })
    }
}

/// What a vCPU asks of the MMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Zap,
    Fault,
}

/// One vCPU thread in its timed part.
pub(super) struct Driver {
    pub(super) clock: Clock,
    pub(super) slice: Duration,
    pub(super) rng: Rng,
    pub(super) pages: Pages,
    /// SPTEs of every page.
    pub(super) chain_len: u32,
    pub(super) load: Load,
    pub(super) fault: Ops,
    pub(super) zap: Ops,
}

impl Driver {
    /// Zaps a random SPTE of a random page and faults it in again, each when
    /// due, and begins nothing after the slice.
    pub(super) fn drive(
        &mut self,
        mut mmu: impl FnMut(Call, Mapping) -> Result<(), RmapError>,
    ) -> Result<(), RmapError> {
        match self.load {
            Load::Paced => self.drive_paced(&mut mmu),
            Load::ClosedLoop => self.drive_closed(&mut mmu),
        }
    }

    fn drive_paced(
        &mut self,
        mmu: &mut impl FnMut(Call, Mapping) -> Result<(), RmapError>,
    ) -> Result<(), RmapError> {
        let clock = self.clock;
        let pace = clock.ticks(PACE).max(1);
        let start = clock.now();
        let end = start + clock.ticks(self.slice);
        let due_in_slice = (end - start).saturating_sub(1) / pace;
        (self.zap.due, self.fault.due) = (due_in_slice.div_ceil(2), due_in_slice / 2);
        let mut due = start + pace;
        loop {
            let mapping = self.next_mapping();
            if !timed(clock, due, end, &mut self.zap, || mmu(Call::Zap, mapping))? {
                return Ok(());
            }
            due += pace;
            if !timed(clock, due, end, &mut self.fault, || {
                mmu(Call::Fault, mapping)
            })? {
                // The chain is left as long as it was found.
                return mmu(Call::Fault, mapping);
            }
            due += pace;
        }
    }

    /// Nothing is due before it is begun, so what waits for a stall to end is
    /// never seen: this is the load that omits it, for comparison.
    fn drive_closed(
        &mut self,
        mmu: &mut impl FnMut(Call, Mapping) -> Result<(), RmapError>,
    ) -> Result<(), RmapError> {
        let clock = self.clock;
        let end = clock.now() + clock.ticks(self.slice);
        loop {
            let mapping = self.next_mapping();
            for (call, ops) in [(Call::Zap, &mut self.zap), (Call::Fault, &mut self.fault)] {
                let begun = clock.now();
                mmu(call, mapping)?;
                let ns = clock.elapsed_ns(begun, clock.now()) as u64;
                ops.service.record_ns(ns);
            }
            if clock.now() >= end {
                return Ok(());
            }
        }
    }

    fn next_mapping(&mut self) -> Mapping {
        let gfn = self.pages.first + self.rng.below(self.pages.count);
        vm::mapping(gfn, self.rng.below(u64::from(self.chain_len)) as u32)
    }
}

/// Waits until an operation is due and times it; false, without calling it, if
/// it would begin after the end.
#[inline(always)]
fn timed(
    clock: Clock,
    due: u64,
    end: u64,
    ops: &mut Ops,
    call: impl FnOnce() -> Result<(), RmapError>,
) -> Result<bool, RmapError> {
    if due >= end {
        return Ok(false);
    }
    let wait = wait_until(clock, due);
    if wait.ended >= end {
        return Ok(false);
    }
    call()?;
    let done = clock.now();
    let from = if wait.on_time { wait.ended } else { due };
    ops.latency.record_ns(clock.elapsed_ns(from, done) as u64);
    ops.service
        .record_ns(clock.elapsed_ns(wait.ended, done) as u64);
    Ok(true)
}

/// How a wait ended.
struct Wait {
    /// The reading that ended it.
    ended: u64,
    /// Whether there was anything to wait for.
    on_time: bool,
}

/// Spins until the operation is due; returns at once if it is overdue.
#[inline(always)]
fn wait_until(clock: Clock, due: u64) -> Wait {
    let mut ended = clock.now();
    let on_time = ended <= due;
    while ended < due {
        std::hint::spin_loop();
        ended = clock.now();
    }
    Wait { ended, on_time }
}
