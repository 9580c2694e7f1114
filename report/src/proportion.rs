//! Shares of events: how many of how many, and what may be said about it.
//!
//! A rare event must not be reported by the median of its rounds, which is 0.
//! Counts are kept, added up over rounds and files, and given an interval that
//! also holds where nothing was seen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stats::Z95;

/// Events seen among events that were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Events of the kind counted.
    pub hits: u64,
    /// Events looked at.
    pub trials: u64,
}

impl Counts {
    /// Counts another round or file in.
    pub fn add(&mut self, more: Self) {
        self.hits = self.hits.saturating_add(more.hits);
        self.trials = self.trials.saturating_add(more.trials);
    }

    /// The share, 0 to 1; `None` where nothing was looked at.
    pub fn share(self) -> Option<f64> {
        (self.trials > 0).then(|| self.hits as f64 / self.trials as f64)
    }

    /// The share's 95 % interval (Wilson's score interval): near the exact one
    /// everywhere, and still right where no event was seen. `None` where nothing
    /// was looked at, or more was seen than looked at.
    pub fn share_ci95(self) -> Option<(f64, f64)> {
        let share = self.share().filter(|share| *share <= 1.0)?;
        let n = self.trials as f64;
        let centre = share + Z95 * Z95 / (2.0 * n);
        let spread = Z95 * (share * (1.0 - share) / n + Z95 * Z95 / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z95 * Z95 / n;
        let low = if self.hits == 0 {
            0.0
        } else {
            (centre - spread) / scale
        };
        let high = if self.hits == self.trials {
            1.0
        } else {
            (centre + spread) / scale
        };
        Some((low, high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(hits: u64, trials: u64) -> Counts {
        Counts { hits, trials }
    }

    #[test]
    fn nothing_looked_at_is_no_share() {
        assert_eq!(counts(0, 0).share(), None);
        assert_eq!(counts(0, 0).share_ci95(), None);
        assert_eq!(counts(3, 2).share_ci95(), None);
    }

    #[test]
    fn nothing_seen_still_has_an_upper_end() {
        let (low, high) = counts(0, 1000).share_ci95().unwrap();
        assert_eq!(low, 0.0);
        assert!((0.003..0.005).contains(&high), "{high}");
        let (low, high) = counts(1000, 1000).share_ci95().unwrap();
        assert_eq!(high, 1.0);
        assert!((0.995..0.997).contains(&low), "{low}");
    }

    #[test]
    fn the_interval_is_wilsons() {
        // Worked example: 10 of 100 gives 0.0552 to 0.1744.
        let (low, high) = counts(10, 100).share_ci95().unwrap();
        assert!((low - 0.0552).abs() < 1e-4, "{low}");
        assert!((high - 0.1744).abs() < 1e-4, "{high}");
    }

    #[test]
    fn rounds_add_up() {
        let mut sum = counts(1, 10);
        sum.add(counts(2, 30));
        assert_eq!(sum, counts(3, 40));
        assert_eq!(sum.share(), Some(0.075));
        sum.add(counts(u64::MAX, u64::MAX));
        assert_eq!(sum, counts(u64::MAX, u64::MAX));
    }
}
