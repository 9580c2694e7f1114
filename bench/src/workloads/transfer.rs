//! `limit-transfer`: how long a cache line takes from one CPU to another.
//!
//! Two threads hand one word to and fro: each waits until the other has stored the
//! number before its own. One transfer is half a turn; a round's figure is the median
//! of its batches, so an interrupt costs its batch and not the round. What several
//! agers of one page lose to each other cannot be less than this.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use report::schema::{Op, Params};

use crate::clock::Clock;
use crate::plan::Plan;
use crate::subject;
use crate::team::{self, Member};
use crate::workload::{Cell, Measure, Measured, Reading, Tools};

/// Turns between two looks at the clock.
const BATCH: u64 = 64;
/// Batches of one round at most; room is made before the first.
const MOST_BATCHES: usize = 1 << 15;
/// Stored in place of a number when the time is over.
const OVER: u64 = u64::MAX;

/// The word, alone in two lines: the neighbour may be fetched with it.
#[derive(Default)]
#[repr(align(128))]
struct Ball(AtomicU64);

/// The row of a table: the first two CPUs.
pub struct Transfer {
    cpus: Vec<usize>,
    clock: Clock,
    slice: Duration,
}

impl Transfer {
    /// The cell, if it was asked for and there are two threads.
    ///
    /// # Errors
    /// When the plan has fewer CPUs than threads.
    pub fn asked_for(plan: &Plan) -> Result<Option<Self>> {
        let asked = plan.schemes.iter().any(|name| name == subject::TRANSFER);
        if !asked || plan.threads.iter().all(|&threads| threads < 2) {
            return Ok(None);
        }
        Ok(Some(Self {
            cpus: plan.cpus.first(2)?.to_vec(),
            clock: plan.clock,
            slice: Duration::ZERO,
        }))
    }

    /// The cell, measured for this long a round.
    #[must_use]
    pub fn finish(mut self, family: u32, slice: Duration) -> Cell {
        self.slice = slice;
        Cell {
            scheme: subject::TRANSFER.to_owned(),
            params: Params {
                agers: Some(2),
                cpus: Some(self.cpus.iter().map(|&cpu| cpu as u32).collect()),
                ..Params::default()
            },
            family,
            resident_bytes: 0,
            measure: Box::new(self),
        }
    }
}

/// Hands the word out and takes it back for a while; nanoseconds of one transfer in
/// every batch.
fn serve(ball: &Ball, clock: Clock, time: Duration, mut batches: Vec<f64>) -> Vec<f64> {
    let end = clock.now() + clock.ticks(time);
    let mut turns = 0;
    loop {
        let start = clock.now();
        for _ in 0..BATCH {
            ball.0.store(2 * turns + 1, Ordering::Release);
            turns += 1;
            while ball.0.load(Ordering::Acquire) != 2 * turns {
                std::hint::spin_loop();
            }
        }
        let now = clock.now();
        batches.push(clock.elapsed_ns(start, now) / (2 * BATCH) as f64);
        if now >= end || batches.len() == batches.capacity() {
            ball.0.store(OVER, Ordering::Release);
            return batches;
        }
    }
}

/// Hands the word back until it is over.
fn give_back(ball: &Ball) {
    loop {
        match ball.0.load(Ordering::Acquire) {
            OVER => return,
            odd if odd % 2 == 1 => ball.0.store(odd + 1, Ordering::Release),
            _ => std::hint::spin_loop(),
        }
    }
}

impl Measure for Transfer {
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let ball = Ball::default();
        let (ball, clock, slice) = (&ball, self.clock, self.slice);
        let server: Member<'_, _> = Box::new(move |seat| {
            let batches = Vec::with_capacity(MOST_BATCHES);
            seat.measure(|| serve(ball, clock, slice, batches))
        });
        let partner: Member<'_, _> = Box::new(move |seat| {
            seat.measure(|| {
                give_back(ball);
                Vec::new()
            })
        });
        let mut readings = Vec::new();
        let mut threads = Vec::new();
        for part in team::run(&self.cpus, vec![server, partner])? {
            let (batches, disturbance) = part.context("another thread failed")?;
            let median = report::stats::median(&batches);
            readings.extend(median.map(|ns| Reading::new(Op::Age, "ns_per_transfer", ns)));
            threads.push(disturbance);
        }
        Ok(Measured { readings, threads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn a_line_is_handed_over_only_where_it_was_asked_for_and_two_threads_are_there() {
        let mut plan = plan();
        plan.threads = vec![1, 2];
        assert!(Transfer::asked_for(&plan).unwrap().is_none());
        plan.schemes = vec![subject::TRANSFER.to_owned()];
        plan.threads = vec![1];
        assert!(Transfer::asked_for(&plan).unwrap().is_none());
        if plan.cpus.as_slice().len() < 2 {
            return;
        }
        plan.threads = vec![2];
        let transfer = Transfer::asked_for(&plan).unwrap().unwrap();
        let mut cell = transfer.finish(0, Duration::from_millis(5));
        let mut tools = Tools::of_tests();
        let measured = cell.measure.measure(&mut tools).unwrap();
        let [reading] = measured.readings.as_slice() else {
            panic!("one figure was expected");
        };
        assert_eq!(reading.metric, "ns_per_transfer");
        assert!(reading.value > 0.0);
        assert_eq!(measured.threads.len(), 2);
    }

    #[test]
    fn a_turn_is_two_transfers() {
        let (ball, clock) = (Ball::default(), Clock::calibrate());
        let time = Duration::from_millis(5);
        let batches = std::thread::scope(|scope| {
            scope.spawn(|| give_back(&ball));
            let start = clock.now();
            let batches = serve(&ball, clock, time, Vec::with_capacity(MOST_BATCHES));
            let all_ns = clock.elapsed_ns(start, clock.now());
            (batches, all_ns)
        });
        let (batches, all_ns) = batches;
        let transfers_ns = batches.iter().sum::<f64>() * (2 * BATCH) as f64;
        assert!(
            transfers_ns > 0.0 && transfers_ns <= all_ns,
            "{transfers_ns} {all_ns}"
        );
    }
}
