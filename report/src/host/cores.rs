//! What else ran on the cores: a loop that fills a core, timed again and again.
//!
//! Where two hardware threads share a core, work on the other one halves what this one
//! gets done, and nothing counts it: it is no steal, no wait and no switch. In a virtual
//! machine the other thread can be another customer's. A loop of independent instructions
//! sees it, as it sees a clock that is lowered; a chain of dependent ones, whose latency
//! stays, would not.

use std::{hint::black_box, time::Instant};

use crate::latency::Latency;

/// Turns of the loop in one timing: some microseconds.
const TURNS: u64 = 4096;
/// Timings of which a look takes the fastest, so that an interrupt spoils none.
const TIMINGS: usize = 3;

/// Looks at the calling thread's core from time to time.
#[derive(Debug)]
pub struct CoreWatch(Latency);

impl CoreWatch {
    /// Watches from now on: looks once.
    pub fn start() -> Self {
        let mut watch = Self(Latency::new());
        watch.look();
        watch
    }

    /// Times the loop, which takes some tens of microseconds.
    pub fn look(&mut self) {
        let timing = |_| {
            let start = Instant::now();
            black_box(fill_core(black_box(TURNS)));
            start.elapsed().as_nanos()
        };
        let fastest = (0..TIMINGS).map(timing).min().unwrap_or_default();
        self.0.record_ns(u64::try_from(fastest).unwrap_or(u64::MAX));
    }

    /// All looks.
    pub fn looks(&self) -> Latency {
        self.0.clone()
    }
}

/// As many instructions at a time as a core takes: eight chains whose steps take a cycle
/// each, of different operations and of a number that the compiler does not know, so that
/// it neither adds them up beforehand nor makes vectors of them.
fn fill_core(turns: u64) -> u64 {
    let mut chains = [1_u64, 2, 3, 4, 5, 6, 7, 8];
    for turn in 0..turns {
        let turn = black_box(turn);
        let [a, b, c, d, e, f, g, h] = &mut chains;
        *a = a.wrapping_add(turn);
        *b ^= turn;
        *c = c.wrapping_sub(turn);
        *d |= turn;
        *e = turn.wrapping_sub(*e);
        *f = !(*f & turn);
        *g &= turn;
        *h = h.wrapping_add(turn) | 1;
    }
    chains.iter().fold(0, |all, chain| all ^ chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_take_time_and_are_all_kept() {
        let mut watch = CoreWatch::start();
        for _ in 0..9 {
            watch.look();
        }
        let looks = watch.looks();
        assert_eq!(looks.count(), 10);
        assert!(looks.quantile_ns(0.0) >= 500, "{looks:?}");
    }
}
