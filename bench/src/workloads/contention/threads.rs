//! The threads of a contention cell: what each does between the barriers.
//!
//! Nothing in the timed part allocates, takes a lock of ours or writes memory
//! that another thread reads; each thread looks at the clock by itself to know
//! when it is over.

use std::time::Duration;

use anyhow::{Context as _, Result};
use report::latency::Latency;
use rmap::{Access, Mapping, Mmu, RmapError, Vcpu};

use crate::clock::Clock;
use crate::counters::{self, CounterSet};
use crate::disturb::ThreadDisturbance;
use crate::rng::Rng;
use crate::team::Seat;
use crate::workloads::vm;

/// Time from one vCPU operation to the next.
pub(super) const PACE: Duration = Duration::from_micros(2);
/// Callbacks between two looks at the clock.
const AGER_BATCH: u64 = 64;

/// A thread's share of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pages {
    /// First gfn.
    pub(super) first: u64,
    pub(super) count: u64,
}

/// What one thread found.
pub(super) struct Part {
    pub(super) figures: Figures,
    pub(super) counters: Vec<counters::Reading>,
    pub(super) disturbance: ThreadDisturbance,
}

/// An ager's pages and time, or a vCPU's latencies.
pub(super) enum Figures {
    Ager { gfns: u64, ns: f64 },
    Vcpu { fault: Latency, zap: Latency },
}

/// What all threads of a cell share; copied into each.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) mmu: &'a dyn Mmu,
    pub(super) clock: Clock,
    pub(super) slice: Duration,
}

impl Stage<'_> {
    /// Ages the pages over and over.
    pub(super) fn ager(&self, seat: &Seat<'_>, pages: Pages) -> Result<Part> {
        let mut counters = CounterSet::open();
        counters.clear();
        let timed = || {
            counters.start();
            let figures = self.age_until_end(pages);
            counters.stop();
            figures
        };
        let ((gfns, ns), disturbance) = seat.measure(timed).context("another thread failed")?;
        let counters = counters.per_operation(gfns);
        Ok(Part {
            figures: Figures::Ager { gfns, ns },
            counters,
            disturbance,
        })
    }

    /// Pages aged and the time that took.
    fn age_until_end(&self, pages: Pages) -> (u64, f64) {
        let start = self.clock.now();
        let end = start + self.clock.ticks(self.slice);
        let (mut aged, mut at) = (0, 0);
        loop {
            for _ in 0..AGER_BATCH {
                std::hint::black_box(self.mmu.age(vm::range(pages.first + at, 1)));
                at = if at + 1 == pages.count { 0 } else { at + 1 };
            }
            aged += AGER_BATCH;
            let now = self.clock.now();
            if now >= end {
                return (aged, self.clock.elapsed_ns(start, now));
            }
        }
    }

    /// Zaps and faults on the pages.
    pub(super) fn vcpu(
        &self,
        seat: &Seat<'_>,
        pages: Pages,
        alias: u32,
        seed: u64,
    ) -> Result<Part> {
        let mut counters = CounterSet::open();
        counters.clear();
        let mut vcpu = Vcpu::new();
        let mut driver = Driver {
            clock: self.clock,
            slice: self.slice,
            rng: Rng::new(seed),
            pages,
            alias,
            fault: Latency::new(),
            zap: Latency::new(),
        };
        let timed = || {
            counters.start();
            let outcome = driver.drive(|call, mapping| match call {
                Call::Zap => self.mmu.zap(&mut vcpu, mapping).map(drop),
                Call::Fault => self.mmu.fault(&mut vcpu, mapping, Access::Write).map(drop),
            });
            counters.stop();
            outcome
        };
        let (outcome, disturbance) = seat.measure(timed).context("another thread failed")?;
        outcome?;
        let Driver { fault, zap, .. } = driver;
        let counters = counters.per_operation(fault.count() + zap.count());
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
    pub(super) alias: u32,
    pub(super) fault: Latency,
    pub(super) zap: Latency,
}

impl Driver {
    /// Zaps a random page's last SPTE and faults it in again, each when due.
    pub(super) fn drive(
        &mut self,
        mut mmu: impl FnMut(Call, Mapping) -> Result<(), RmapError>,
    ) -> Result<(), RmapError> {
        let clock = self.clock;
        let pace = clock.ticks(PACE);
        let start = clock.now();
        let end = start + clock.ticks(self.slice);
        let mut due = start + pace;
        while due < end {
            let gfn = self.pages.first + self.rng.below(self.pages.count);
            let mapping = vm::mapping(gfn, self.alias);
            wait_until(clock, due);
            mmu(Call::Zap, mapping)?;
            self.zap
                .record_ns(clock.elapsed_ns(due, clock.now()) as u64);
            due += pace;
            wait_until(clock, due);
            mmu(Call::Fault, mapping)?;
            self.fault
                .record_ns(clock.elapsed_ns(due, clock.now()) as u64);
            due += pace;
        }
        Ok(())
    }
}

/// Spins until the operation is due; returns at once if it is overdue.
#[inline(always)]
fn wait_until(clock: Clock, due: u64) {
    while clock.now() < due {
        std::hint::spin_loop();
    }
}
