//! What may be said about repeated measurements.
//!
//! Medians and order-statistic intervals, because run times have a long right
//! tail and no known distribution. Every function returns `None` rather than
//! a figure it has no grounds for.

mod fit;
mod rank;
mod rate_zero;

pub use fit::{Fit, fit_line, fit_linear};
pub use rank::{SIGNIFICANT, both_tails, geometric_mean, mann_whitney_p};
pub use rate_zero::{AtRate, LEAST_SAMPLES, at_rate_zero};

/// Values sorted, or `None` if there are none or one is not finite.
fn sorted(values: &[f64]) -> Option<Vec<f64>> {
    if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    Some(values)
}

/// The median.
pub fn median(values: &[f64]) -> Option<f64> {
    let values = sorted(values)?;
    let mid = values.len() / 2;
    if values.len() % 2 == 1 {
        return Some(values[mid]);
    }
    Some(f64::midpoint(values[mid - 1], values[mid]))
}

/// The 95 % confidence interval of the median from order statistics: the
/// narrowest symmetric pair of ranks whose binomial coverage is at least
/// 95 %. Makes no assumption about the distribution. `None` below six values,
/// where even the extremes do not cover 95 %.
pub fn median_ci95(values: &[f64]) -> Option<(f64, f64)> {
    let values = sorted(values)?;
    let n = values.len();
    // Probability that at most `rank` of n values lie below the median. Its terms as
    // logarithms: half to the power of a thousand is 0 as a number.
    let mut term_ln = n as f64 * 0.5_f64.ln();
    let mut below = 0.0;
    let mut rank = None;
    for k in 0..n / 2 {
        below += term_ln.exp();
        if below > 0.025 {
            break;
        }
        rank = Some(k);
        term_ln += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    rank.map(|k| (values[k], values[n - 1 - k]))
}

/// A mean cost estimated from `samples` timer samples that each stand for
/// `period_ns`, spread over `events` events, with its 95 % interval (samples
/// arrive independently of the events, so their number is taken as Poisson
/// distributed). `None` without events.
pub fn sampled_mean_ns(samples: u64, period_ns: u64, events: u64) -> Option<SampledMean> {
    if events == 0 {
        return None;
    }
    let scale = period_ns as f64 / events as f64;
    let (low, high) = poisson_ci95(samples);
    Some(SampledMean {
        mean_ns: samples as f64 * scale,
        low_ns: low * scale,
        high_ns: high * scale,
    })
}

/// A mean from timer samples, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledMean {
    /// The estimate.
    pub mean_ns: f64,
    /// Lower end of its 95 % interval.
    pub low_ns: f64,
    /// Upper end of its 95 % interval.
    pub high_ns: f64,
}

impl SampledMean {
    /// Half of the 95 % interval, nanoseconds: its upper side. The lower one is
    /// shorter where the interval was cut off at 0.
    pub fn half_ns(&self) -> f64 {
        self.high_ns - self.mean_ns
    }

    /// The mean of one of `parts` equal parts.
    pub fn over(&self, parts: f64) -> Self {
        Self {
            mean_ns: self.mean_ns / parts,
            low_ns: self.low_ns / parts,
            high_ns: self.high_ns / parts,
        }
    }
}

/// Half of the normal distribution's 95 % interval, in standard deviations.
pub const Z95: f64 = 1.96;

/// Half of a 95 % interval, in standard errors, where these were estimated from `freedom`
/// degrees of freedom: Student's t, from its tables, and its expansion in 1 / freedom where
/// that is as good. Infinite without any.
pub fn t95(freedom: usize) -> f64 {
    const TABLE: [f64; 9] = [
        f64::INFINITY,
        12.706,
        4.303,
        3.182,
        2.776,
        2.571,
        2.447,
        2.365,
        2.306,
    ];
    let n = freedom as f64;
    let expanded = || Z95 + 2.372 / n + 2.823 / (n * n) + 2.556 / (n * n * n);
    TABLE.get(freedom).copied().unwrap_or_else(expanded)
}

/// The 95 % interval of a Poisson mean after `count` events (Byar's
/// approximation of the exact interval, good to a percent from one event on).
fn poisson_ci95(count: u64) -> (f64, f64) {
    let n = count as f64;
    let low = if count == 0 {
        0.0
    } else {
        n * (1.0 - 1.0 / (9.0 * n) - Z95 / (3.0 * n.sqrt())).powi(3)
    };
    let m = n + 1.0;
    let high = m * (1.0 - 1.0 / (9.0 * m) + Z95 / (3.0 * m.sqrt())).powi(3);
    (low.max(0.0), high)
}

/// The value at `x` on the straight lines between `points` (sorted by x).
/// `None` outside their range: nothing is extrapolated.
pub fn interpolate(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let above = points.iter().position(|p| p.0 >= x)?;
    let (x1, y1) = points[above];
    if x1 == x {
        return Some(y1);
    }
    let (x0, y0) = *points.get(above.checked_sub(1)?)?;
    Some(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_interval_has_the_ranks_of_the_binomial_tables() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(median(&values), Some(5.5));
        assert_eq!(median_ci95(&values), Some((2.0, 9.0)));
        assert_eq!(median_ci95(&values[..6]), Some((1.0, 6.0)));
        assert_eq!(median_ci95(&values[..5]), None);
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(median_ci95(&values), Some((6.0, 15.0)));
        // As the normal approximation has it: 1.96 times half the root of n on either side.
        let values: Vec<f64> = (1..=2000).map(f64::from).collect();
        assert_eq!(median_ci95(&values), Some((956.0, 1045.0)));
    }

    #[test]
    fn a_value_that_is_not_finite_gives_no_figure() {
        assert_eq!(median(&[1.0, f64::NAN]), None);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn errors_of_a_few_points_count_as_in_the_tables() {
        // From tables of Student's distribution, two-sided, 5 %.
        for (freedom, t) in [
            (1, 12.706),
            (3, 3.182),
            (9, 2.262),
            (12, 2.179),
            (30, 2.042),
        ] {
            assert!(
                (t95(freedom) - t).abs() < 0.001,
                "{freedom}: {}",
                t95(freedom)
            );
        }
        assert!(t95(0).is_infinite());
        assert!((t95(1_000_000) - Z95).abs() < 1e-5);
    }

    #[test]
    fn the_poisson_interval_agrees_with_the_exact_one() {
        let (low, high) = poisson_ci95(10);
        assert!(
            (low - 4.795).abs() < 0.03 && (high - 18.39).abs() < 0.06,
            "{low} {high}"
        );
        assert_eq!(poisson_ci95(0).0, 0.0);
        assert!((poisson_ci95(0).1 - 3.689).abs() < 0.4);
    }

    #[test]
    fn nothing_is_extrapolated() {
        let points = [(1.0, 10.0), (3.0, 30.0)];
        assert_eq!(interpolate(&points, 2.0), Some(20.0));
        assert_eq!(interpolate(&points, 3.0), Some(30.0));
        assert_eq!(interpolate(&points, 0.5), None);
        assert_eq!(interpolate(&points, 3.5), None);
    }
}
