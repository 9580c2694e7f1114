//! The two threads of `hold`: one calls over and over, one makes short calls that meet
//! it.

use std::time::Duration;

use report::latency::Latency;
use report::schema::Op;
use rmap::{Access, Mmu, RmapError, Vcpu};

use super::{ABSENT, HELD, Wants};
use crate::clock::Clock;
use crate::duty::Roster;
use crate::rng::Rng;
use crate::workloads::vm;

/// Longest pause before a short call, in spins.
const MOST_SPINS: u64 = 512;
/// Calls before anything is timed: a thread's first allocates, and may have to register
/// for the read side, which takes system calls.
const WARM_UP_CALLS: u32 = 4;

/// Makes the call to be met.
pub(super) struct Holder<'a> {
    pub(super) mmu: &'a dyn Mmu,
    pub(super) clock: Clock,
    pub(super) call: Op,
    pub(super) chain_len: u32,
    pub(super) rng: Rng,
    pub(super) vcpu: Vcpu,
}

impl Holder<'_> {
    /// Makes the call and puts back what it took away; the call's time.
    fn call(&mut self) -> Result<f64, RmapError> {
        let (mmu, clock) = (self.mmu, self.clock);
        let page = vm::range(HELD, 1);
        let alias = self.rng.below(u64::from(self.chain_len)) as u32;
        let start = clock.now();
        match self.call {
            Op::Zap => drop(mmu.zap(&mut self.vcpu, vm::mapping(HELD, alias))?),
            Op::UnmapRange => drop(mmu.unmap_range(&mut self.vcpu, page)?),
            _ => drop(std::hint::black_box(mmu.age(page))),
        }
        let ns = clock.elapsed_ns(start, clock.now());
        let gone = match self.call {
            Op::Zap => alias..alias + 1,
            Op::UnmapRange => 0..self.chain_len,
            _ => 0..0,
        };
        for alias in gone {
            mmu.fault(&mut self.vcpu, vm::mapping(HELD, alias), Access::Write)?;
        }
        Ok(ns)
    }

    /// Calls untimed.
    pub(super) fn warm_up(&mut self) -> Result<(), RmapError> {
        (0..WARM_UP_CALLS).try_for_each(|_| self.call().map(drop))
    }

    /// Calls for a while; the times of the calls.
    pub(super) fn calls_for(&mut self, time: Duration) -> Result<Latency, RmapError> {
        let end = self.clock.now() + self.clock.ticks(time);
        let mut calls = Latency::new();
        while self.clock.now() < end {
            calls.record_ns(self.call()? as u64);
        }
        Ok(calls)
    }

    /// Calls until nobody makes short calls any more.
    pub(super) fn calls_beside(&mut self, callers: &Roster) -> Result<(), RmapError> {
        while !callers.is_empty() {
            self.call()?;
        }
        Ok(())
    }
}

/// Makes the short call.
pub(super) struct Caller<'a> {
    pub(super) mmu: &'a dyn Mmu,
    pub(super) clock: Clock,
    pub(super) wants: Wants,
    pub(super) rng: Rng,
    pub(super) vcpu: Vcpu,
}

impl Caller<'_> {
    /// Makes the short call.
    #[inline(always)]
    fn call(&mut self) -> Result<(), RmapError> {
        match self.wants {
            Wants::SameRmap => {
                std::hint::black_box(self.mmu.test_age(vm::range(HELD, 1)));
            }
            Wants::OtherRmap => drop(self.mmu.zap(&mut self.vcpu, vm::mapping(ABSENT, 0))?),
        }
        Ok(())
    }

    /// Calls untimed.
    pub(super) fn warm_up(&mut self) -> Result<(), RmapError> {
        (0..WARM_UP_CALLS).try_for_each(|_| self.call())
    }

    /// Calls at random moments for a while; the times of the calls.
    pub(super) fn calls_for(&mut self, time: Duration) -> Result<Latency, RmapError> {
        let clock = self.clock;
        let end = clock.now() + clock.ticks(time);
        let mut calls = Latency::new();
        loop {
            for _ in 0..self.rng.below(MOST_SPINS) {
                std::hint::spin_loop();
            }
            let start = clock.now();
            if start >= end {
                return Ok(calls);
            }
            self.call()?;
            calls.record_ns(clock.elapsed_ns(start, clock.now()) as u64);
        }
    }
}
