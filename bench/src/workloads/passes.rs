//! Timed passes over a ground, and the counted ones after them.
//!
//! Counting costs system calls, which would be felt in short passes: so most of
//! a cell's time goes to passes that are only timed and the rest to passes that
//! are only counted.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use report::schema::Op;

use crate::clock::Clock;
use crate::workload::{Reading, Tools};
use crate::workloads::ground::{Ground, Track};
use crate::workloads::vm;

/// Shortest pass where a pass can be repeated without setting anything again.
const LEAST_PASS: Duration = Duration::from_micros(20);
/// Share of a cell's time for passes that are timed; the rest is counted.
const TIMED_SHARE: f64 = 0.75;
/// Most passes over a scattered ground that are timed, and that are counted: those of
/// two operations make one trip at most, so none finds what another left cached.
const MOST_COLD_PASSES: (usize, usize) = (12, 4);

/// How one operation of a cell is to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// test_age or age.
    pub op: Op,
    /// Share of SPTEs that are young before every pass.
    pub young_share: f64,
    /// Whether a pass may go over its segment several times.
    pub repeatable: bool,
}

impl Timing {
    /// Whether a pass leaves pages in another state than it found them.
    fn wears(&self) -> bool {
        self.op == Op::Age && self.young_share > 0.0
    }
}

/// Measures passes; keeps its buffer from round to round.
pub struct Passes {
    clock: Clock,
    slice: Duration,
    ns_per_callback: Vec<f64>,
}

impl Passes {
    /// Passes timed with this clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            slice: Duration::ZERO,
            ns_per_callback: Vec::new(),
        }
    }

    /// Sets the time for one operation in one round.
    pub fn set_slice(&mut self, slice: Duration) {
        self.slice = slice;
    }

    /// Measures one operation for one slice: at least one timed and one
    /// counted pass.
    ///
    /// # Errors
    /// When the model refuses, or the ground was not built.
    pub fn run(
        &mut self,
        timing: Timing,
        ground: &mut Ground,
        track: &mut Track,
        tools: &mut Tools,
    ) -> Result<Reading> {
        if !ground.is_scattered() {
            ground.enter(track);
            ground.set_young(timing.young_share);
        }
        let mut repeats = 1;
        if timing.repeatable {
            repeats = self.repeats(timing.op, ground)?;
        }
        self.time(timing, repeats, ground, track)?;
        let counters = self.count(timing, repeats, ground, track, tools)?;
        let Some(median) = report::stats::median(&self.ns_per_callback) else {
            bail!("{} took no time that could be measured", timing.op);
        };
        let (metric, pages) = match ground.range_pages {
            1 => ("ns_per_callback", 1.0),
            pages => ("ns_per_gfn", pages as f64),
        };
        Ok(Reading {
            op: timing.op,
            metric,
            value: median / pages,
            latency: None,
            counts: None,
            counters,
        })
    }

    /// Turns over the segment that make a pass long enough. Also warms it up.
    fn repeats(&self, op: Op, ground: &Ground) -> Result<u32> {
        walk(op, 1, ground)?;
        let start = self.clock.now();
        walk(op, 1, ground)?;
        let once_ns = self.clock.elapsed_ns(start, self.clock.now()).max(1.0);
        Ok((LEAST_PASS.as_nanos() as f64 / once_ns).clamp(1.0, 1000.0) as u32)
    }

    fn time(
        &mut self,
        timing: Timing,
        repeats: u32,
        ground: &mut Ground,
        track: &mut Track,
    ) -> Result<()> {
        self.ns_per_callback.clear();
        let end = Instant::now() + self.slice.mul_f64(TIMED_SHARE);
        loop {
            before_pass(ground, track);
            let start = self.clock.now();
            walk(timing.op, repeats, ground)?;
            let ns = self.clock.elapsed_ns(start, self.clock.now());
            let callbacks = ground.callbacks() * u64::from(repeats);
            self.ns_per_callback.push(ns / callbacks as f64);
            after_pass(timing, ground);
            let all = ground.is_scattered() && self.ns_per_callback.len() >= MOST_COLD_PASSES.0;
            if all || Instant::now() >= end {
                return Ok(());
            }
        }
    }

    fn count(
        &self,
        timing: Timing,
        repeats: u32,
        ground: &mut Ground,
        track: &mut Track,
        tools: &mut Tools,
    ) -> Result<Vec<crate::counters::Reading>> {
        let end = Instant::now() + self.slice.mul_f64(1.0 - TIMED_SHARE);
        let (mut callbacks, mut passes) = (0, 0);
        tools.counters.clear();
        loop {
            before_pass(ground, track);
            tools.counters.start();
            walk(timing.op, repeats, ground)?;
            tools.counters.stop();
            callbacks += ground.callbacks() * u64::from(repeats);
            passes += 1;
            after_pass(timing, ground);
            let all = ground.is_scattered() && passes >= MOST_COLD_PASSES.1;
            if all || Instant::now() >= end {
                return Ok(tools.counters.per_operation(callbacks));
            }
        }
    }
}

/// Goes on to the track's next segment of a cold ground.
fn before_pass(ground: &mut Ground, track: &mut Track) {
    if ground.is_scattered() {
        ground.enter(track);
    }
}

/// Restores what the pass changed.
fn after_pass(timing: Timing, ground: &Ground) {
    if timing.wears() {
        ground.set_young(timing.young_share);
    }
}

/// Calls `op` on every range of the segment entered, `repeats` times.
///
/// # Errors
/// When the ground was not built, or `op` is no aging callback.
pub fn walk(op: Op, repeats: u32, ground: &Ground) -> Result<()> {
    let pages = ground.range_pages;
    let Some((vm, starts)) = ground.way() else {
        bail!("the pages were not mapped before they were walked");
    };
    let mmu = vm.mmu();
    for _ in 0..repeats {
        let young = match op {
            Op::TestAge => turn(starts, |start| mmu.test_age(vm::range(start, pages)).young),
            Op::Age => turn(starts, |start| mmu.age(vm::range(start, pages)).young),
            other => bail!("walk does not measure {other}"),
        };
        black_box(young);
    }
    Ok(())
}

/// One callback per range; the number that reported young keeps the compiler
/// from leaving anything out.
#[inline(always)]
fn turn(starts: &[u64], mut callback: impl FnMut(u64) -> bool) -> u64 {
    starts.iter().map(|&start| u64::from(callback(start))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 1024;

    fn ground(range_pages: u64) -> (Ground, Track) {
        let mut ground = Ground::new("rwlock-write", 1, PAGES, range_pages, 0);
        let mut track = Track::new(0);
        ground.build().unwrap();
        ground.enter(&mut track);
        (ground, track)
    }

    #[test]
    fn a_walk_does_what_its_operation_says() {
        let (ground, _) = ground(1);
        let young = || {
            let (vm, _) = ground.way().unwrap();
            vm.mmu().test_age(vm::range(0, PAGES)).young
        };
        walk(Op::TestAge, 2, &ground).unwrap();
        assert!(young());
        walk(Op::Age, 1, &ground).unwrap();
        assert!(!young());
        assert!(walk(Op::Fault, 1, &ground).is_err());
    }

    #[test]
    fn figures_are_those_of_one_callback_or_of_one_page() {
        for (range_pages, metric) in [(1, "ns_per_callback"), (64, "ns_per_gfn")] {
            let (mut ground, mut track) = ground(range_pages);
            let mut passes = Passes::new(Clock::calibrate());
            let mut tools = Tools::of_tests();
            let timing = Timing {
                op: Op::Age,
                young_share: 0.0,
                repeatable: false,
            };
            // One pass is timed and one counted.
            let begun = Instant::now();
            let reading = passes.run(timing, &mut ground, &mut track, &mut tools);
            let most_ns = begun.elapsed().as_nanos() as f64;
            let reading = reading.unwrap();
            assert_eq!(reading.metric, metric);
            let pass_ns = reading.value * PAGES as f64;
            assert!(pass_ns > 0.0 && pass_ns <= most_ns, "{pass_ns} {most_ns}");
            let counted = reading.counters.iter().find(|c| c.0 == "task-clock-ns");
            if let Some(ns) = counted.and_then(|c| c.1.value()) {
                let pass_ns = ns * ground.callbacks() as f64;
                assert!(pass_ns <= most_ns, "{pass_ns} {most_ns}");
            }
        }
    }
}
