//! What a mean would be if nobody sampled.
//!
//! A timer sample takes time itself, and what it interrupts has cold caches
//! afterwards, so a callback that is sampled takes longer the more often it is
//! sampled. Means at two rates or more lie on a line, to well below their
//! errors at the rates used here, and where it meets rate zero is the mean that
//! was there before. The price is a wider interval: the errors of all rates
//! add up, those of the low ones most.

use super::{SampledMean, Z95, fit_line};

/// Samples below which a mean says too little, to be printed or to extrapolate from.
pub const LEAST_SAMPLES: u64 = 20;
/// How many times the lowest rate the highest has to be: what lies close
/// together says nothing about what lies far away.
const LEAST_SPREAD: f64 = 2.0;

/// What was sampled at one rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtRate {
    /// CPU time one sample stands for, nanoseconds.
    pub period_ns: u64,
    /// Samples.
    pub samples: u64,
    /// Events they are spread over.
    pub events: u64,
}

impl AtRate {
    fn is_usable(&self) -> bool {
        self.period_ns > 0 && self.events > 0 && self.samples >= LEAST_SAMPLES
    }

    fn rate_hz(&self) -> f64 {
        1e9 / self.period_ns as f64
    }

    /// One sample's share of the mean.
    fn scale_ns(&self) -> f64 {
        self.period_ns as f64 / self.events as f64
    }

    fn mean_ns(&self) -> f64 {
        self.samples as f64 * self.scale_ns()
    }
}

/// The mean at rate zero, with its 95 % interval, from means at two rates or
/// more. `None` if fewer have samples enough, or if all are much the same.
///
/// Samples arrive independently of the events, so their number is taken as
/// Poisson distributed. The errors come from the mean of all rates, not from
/// each rate's own count: a count that is low by chance would else seem the
/// most precise.
pub fn at_rate_zero(rates: &[AtRate]) -> Option<SampledMean> {
    let usable: Vec<&AtRate> = rates.iter().filter(|rate| rate.is_usable()).collect();
    let rates = usable.iter().map(|rate| rate.rate_hz());
    let (lowest, highest) = rates.fold((f64::INFINITY, 0.0_f64), |(low, high), hz| {
        (low.min(hz), high.max(hz))
    });
    if highest < LEAST_SPREAD * lowest {
        return None;
    }
    let time: f64 = usable
        .iter()
        .map(|r| r.samples as f64 * r.period_ns as f64)
        .sum();
    let events: f64 = usable.iter().map(|r| r.events as f64).sum();
    let pooled_ns = time / events.max(1.0);
    let points: Vec<(f64, f64, f64)> = usable
        .iter()
        .map(|r| (r.rate_hz(), r.mean_ns(), (pooled_ns * r.scale_ns()).sqrt()))
        .collect();
    // The errors are known and not taken from the scatter of two or three rates.
    let (mean_ns, se) = fit_line(&points)?.value([1.0, 0.0]);
    let at = |errors: f64| (mean_ns + errors * se).max(0.0);
    Some(SampledMean {
        mean_ns: at(0.0),
        low_ns: at(-Z95),
        high_ns: at(Z95),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed sequence of numbers in 0..1 (xorshift64*).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Arrivals in a time in which `mean` are expected.
        fn poisson(&mut self, mean: f64) -> u64 {
            let (mut count, mut time) = (0, 0.0);
            loop {
                time -= (1.0 - self.next()).ln();
                if time > mean {
                    return count;
                }
                count += 1;
            }
        }
    }

    /// The period of a rate, and what a callback of `truth_ns` takes while it
    /// is sampled so often, when every sample takes `cost_ns` of its own.
    fn inflated(rate_hz: f64, truth_ns: f64, cost_ns: f64) -> (f64, f64) {
        (1e9 / rate_hz, truth_ns / (1.0 - rate_hz * cost_ns / 1e9))
    }

    fn measured(random: &mut Random, rate_hz: f64, truth_ns: f64, events: u64) -> AtRate {
        let (period, mean) = inflated(rate_hz, truth_ns, 18_000.0);
        AtRate {
            period_ns: period as u64,
            samples: random.poisson(mean * events as f64 / period),
            events,
        }
    }

    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        const TIMES: u32 = 2000;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for (truth_ns, events) in [(250.0, 800_000), (954.0, 400_000), (250.0, 4_000_000)] {
            let (mut covered, mut sum) = (0, 0.0);
            for _ in 0..TIMES {
                let rates = [
                    measured(&mut random, 997.0, truth_ns, events * 2),
                    measured(&mut random, 3989.0, truth_ns, events),
                ];
                let zero = at_rate_zero(&rates).expect("two rates");
                covered += u32::from(zero.low_ns <= truth_ns && truth_ns <= zero.high_ns);
                sum += zero.mean_ns;
            }
            let share = f64::from(covered) / f64::from(TIMES);
            assert!((0.935..=0.97).contains(&share), "{truth_ns}: {share}");
            let bias = sum / f64::from(TIMES) / truth_ns - 1.0;
            assert!(bias.abs() < 0.006, "{truth_ns}: {bias}");
        }
    }

    #[test]
    fn what_sampling_adds_is_taken_away_and_costs_precision() {
        let exact = |rate_hz: f64, events: u64| {
            let (period, mean) = inflated(rate_hz, 1000.0, 18_000.0);
            AtRate {
                period_ns: period as u64,
                samples: (mean * events as f64 / period) as u64,
                events,
            }
        };
        let rates = [exact(997.0, 1 << 26), exact(3989.0, 1 << 25)];
        assert!(rates[1].mean_ns() > 1070.0, "{:?}", rates[1]);
        let two = at_rate_zero(&rates).expect("two rates");
        assert!((two.mean_ns - 1000.0).abs() < 3.0, "{two:?}");
        let three = [rates[0], rates[1], exact(1999.0, 1 << 25)];
        let three = at_rate_zero(&three).expect("three rates");
        assert!((three.mean_ns - 1000.0).abs() < 3.0, "{three:?}");
        assert!(three.high_ns - three.low_ns < two.high_ns - two.low_ns);
    }

    #[test]
    fn one_rate_or_too_few_samples_give_no_figure() {
        let rate = |period_ns, samples| AtRate {
            period_ns,
            samples,
            events: 1000,
        };
        let (low, high) = (rate(1_000_000, 100), rate(250_000, 400));
        assert!(at_rate_zero(&[low, high]).is_some());
        assert_eq!(at_rate_zero(&[]), None);
        assert_eq!(at_rate_zero(&[low]), None);
        assert_eq!(at_rate_zero(&[low, low]), None);
        assert_eq!(at_rate_zero(&[rate(1_000_000, 19), high]), None);
        let close = rate(999_999, 100);
        assert_eq!(at_rate_zero(&[low, close]), None, "much the same rate");
        let nothing = AtRate { events: 0, ..low };
        assert_eq!(at_rate_zero(&[nothing, high]), None);
    }

    #[test]
    fn a_mean_below_nothing_is_nothing() {
        let rate = |period_ns, samples| AtRate {
            period_ns,
            samples,
            events: 1000,
        };
        let zero = at_rate_zero(&[rate(1_000_000, 20), rate(250_000, 4000)]).expect("two");
        assert_eq!((zero.mean_ns, zero.low_ns), (0.0, 0.0));
    }
}
