//! What happened between two reads of the counters, at one sampling rate.
//!
//! A sample stands for the time between two of them, so counts from different
//! rates are never added up: [`Stretches`] keeps one sum per rate.

use std::time::Duration;

use super::Counts;

/// Counters of one stretch of time.
#[derive(Default)]
pub(crate) struct Stretch {
    /// Samples per second and CPU that were asked for.
    pub(crate) rate_hz: u32,
    pub(crate) lasted: Duration,
    /// CPUs that were sampled, at most.
    pub(crate) cpus: usize,
    pub(crate) counts: Counts,
}

/// All stretches of a recording, added up by rate, in the order the rates were
/// first used.
#[derive(Default)]
pub(crate) struct Stretches(Vec<Stretch>);

impl Stretches {
    /// Adds a stretch to those of its rate.
    pub(crate) fn add(&mut self, stretch: Stretch) {
        match self.0.iter_mut().find(|s| s.rate_hz == stretch.rate_hz) {
            Some(same) => {
                same.lasted += stretch.lasted;
                same.cpus = same.cpus.max(stretch.cpus);
                same.counts.add(&stretch.counts);
            }
            None => self.0.push(stretch),
        }
    }

    /// One per rate.
    pub(crate) fn by_rate(&self) -> &[Stretch] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::aging::{Cell, CellKey};

    use super::*;

    fn stretch(rate_hz: u32, callbacks: u64) -> Stretch {
        let mut counts = Counts::default();
        let cell = Cell {
            callbacks,
            ..Cell::default()
        };
        counts.cells.insert(CellKey::default(), cell);
        Stretch {
            rate_hz,
            lasted: Duration::from_secs(1),
            cpus: 2,
            counts,
        }
    }

    #[test]
    fn counts_of_one_rate_are_added_up_and_of_two_are_not() {
        let mut stretches = Stretches::default();
        for (rate, callbacks) in [(4000, 1), (2000, 10), (4000, 100)] {
            stretches.add(stretch(rate, callbacks));
        }
        let sums: Vec<_> = stretches
            .by_rate()
            .iter()
            .map(|s| (s.rate_hz, s.lasted.as_secs(), s.counts.callbacks()))
            .collect();
        assert_eq!(sums, [(4000, 2, 101), (2000, 1, 10)]);
    }
}
