//! Sampling at several rates in turn.
//!
//! A sample slows down what it interrupts, so a cost at one rate is too high by
//! an unknown part. Costs at two rates or more tell what it would be at none.
//! They have to be of the same load, so the rates take short turns; the lower
//! ones take longer turns, because theirs are the errors that count.

use std::time::Duration;

/// Time at the highest rate, in one turn.
const TURN: Duration = Duration::from_millis(400);
/// How much longer a turn at any other rate is.
const LONGER: u32 = 2;
/// Below this rate samples say nothing any more; it is never lowered further.
pub(crate) const LEAST_RATE_HZ: u32 = 61;

/// The rates of a recording and the one whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Ascending, each once, at least one.
    all: Vec<u32>,
    now: usize,
}

impl Rates {
    /// Takes turns at these rates; the highest begins.
    pub(crate) fn new(rates: &[u32]) -> Self {
        let mut all = rates.to_vec();
        all.sort_unstable();
        all.dedup();
        let now = all.len().saturating_sub(1);
        Self { all, now }
    }

    /// Samples per second and CPU in this turn.
    pub(crate) fn now_hz(&self) -> u32 {
        self.all.get(self.now).copied().unwrap_or(LEAST_RATE_HZ)
    }

    /// The highest rate.
    pub(crate) fn highest_hz(&self) -> u32 {
        self.all.last().copied().unwrap_or(LEAST_RATE_HZ)
    }

    /// All of them, as they are printed.
    pub(crate) fn shown(&self) -> String {
        let rates: Vec<String> = self.all.iter().map(u32::to_string).collect();
        rates.join(" and ")
    }

    /// How long this turn lasts; for ever if there is no other.
    pub(crate) fn turn(&self) -> Option<Duration> {
        if self.all.len() < 2 {
            return None;
        }
        let is_highest = self.now + 1 == self.all.len();
        Some(if is_highest { TURN } else { TURN * LONGER })
    }

    /// The next turn.
    pub(crate) fn next(&mut self) {
        self.now = (self.now + 1) % self.all.len().max(1);
    }

    /// Half of each; `None` if they are as low as they get.
    pub(crate) fn lowered(&self) -> Option<Self> {
        if self.highest_hz() <= LEAST_RATE_HZ {
            return None;
        }
        let half = |rate: &u32| (rate / 2).max(LEAST_RATE_HZ);
        Some(Self::new(&self.all.iter().map(half).collect::<Vec<_>>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_has_its_turn_and_low_ones_a_longer_one() {
        let mut rates = Rates::new(&[3989, 997, 3989]);
        assert_eq!(rates.shown(), "997 and 3989");
        let mut turns = Vec::new();
        for _ in 0..4 {
            turns.push((rates.now_hz(), rates.turn().expect("two rates")));
            rates.next();
        }
        let (high, low) = ((3989, TURN), (997, TURN * 2));
        assert_eq!(turns, [high, low, high, low]);
    }

    #[test]
    fn a_single_rate_stays() {
        let mut rates = Rates::new(&[997]);
        assert_eq!(rates.turn(), None);
        rates.next();
        assert_eq!(rates.now_hz(), 997);
    }

    #[test]
    fn rates_are_halved_down_to_a_least_one() {
        let lower = |rates: &[u32]| Rates::new(rates).lowered().map(|rates| rates.all);
        assert_eq!(lower(&[1000, 4000]), Some(vec![500, 2000]));
        assert_eq!(lower(&[100, 130]), Some(vec![61, 65]));
        assert_eq!(lower(&[61, 65]), Some(vec![61]));
        assert_eq!(lower(&[61]), None);
    }
}
