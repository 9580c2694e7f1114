//! Whether two samples differ, by ranks alone.
//!
//! The Mann-Whitney U test asks how surprising the order of the values would be if
//! both samples came from one distribution, whatever that is. Up to
//! [`EXACT_UP_TO`] values the answer is exact, ties included: every way to deal
//! the observed (mid-)ranks out is counted. Beyond, the normal approximation with
//! the correction for ties is used, which is good to a thousandth there.

use super::sorted;

/// Values in both samples together up to which the test is exact.
const EXACT_UP_TO: usize = 64;

/// At most this probability counts as a difference.
pub const SIGNIFICANT: f64 = 0.05;

/// The two-sided p-value of the Mann-Whitney U test. `None` if a sample is empty
/// or has a value that is not finite.
pub fn mann_whitney_p(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (sorted(a)?, sorted(b)?);
    let (ranks, doubled_sum) = doubled_ranks(&a, &b);
    if ranks.len() <= EXACT_UP_TO {
        return Some(exact_p(&ranks, a.len(), doubled_sum));
    }
    Some(normal_p(&ranks, a.len(), doubled_sum))
}

/// The geometric mean. `None` without values or with one that is not positive.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|v| !v.is_finite() || *v <= 0.0) {
        return None;
    }
    let sum: f64 = values.iter().map(|v| v.ln()).sum();
    Some((sum / values.len() as f64).exp())
}

/// Twice the mid-rank of every value of both samples, and their sum over `a`.
fn doubled_ranks(a: &[f64], b: &[f64]) -> (Vec<usize>, usize) {
    let mut all: Vec<(f64, bool)> = a.iter().map(|&v| (v, true)).collect();
    all.extend(b.iter().map(|&v| (v, false)));
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let mut ranks = Vec::with_capacity(all.len());
    let mut sum = 0;
    for tied in all.chunk_by(|x, y| x.0 == y.0) {
        let before = ranks.len();
        let doubled = 2 * before + tied.len() + 1;
        ranks.extend(std::iter::repeat_n(doubled, tied.len()));
        sum += doubled * tied.iter().filter(|(_, of_a)| *of_a).count();
    }
    (ranks, sum)
}

/// Counts the ways to choose `chosen` of the ranks by their sum, and adds up those
/// at least as far from the middle as `observed`.
fn exact_p(ranks: &[usize], chosen: usize, observed: usize) -> f64 {
    let total: usize = ranks.iter().sum();
    let mut ways = vec![vec![0.0_f64; total + 1]; chosen + 1];
    ways[0][0] = 1.0;
    for (seen, &rank) in ranks.iter().enumerate() {
        for count in (1..=chosen.min(seen + 1)).rev() {
            let (fewer, this) = ways.split_at_mut(count);
            for sum in rank..=total {
                this[0][sum] += fewer[count - 1][sum - rank];
            }
        }
    }
    let far = |sum: usize| {
        let middle = chosen * total;
        (sum * ranks.len()).abs_diff(middle)
    };
    let (mut extreme, mut all) = (0.0, 0.0);
    for (sum, ways) in ways[chosen].iter().enumerate() {
        all += ways;
        if far(sum) >= far(observed) {
            extreme += ways;
        }
    }
    extreme / all
}

/// The normal approximation with continuity and tie corrections.
fn normal_p(ranks: &[usize], chosen: usize, observed: usize) -> f64 {
    let (n, na) = (ranks.len() as f64, chosen as f64);
    let nb = n - na;
    let ties: f64 = ranks
        .chunk_by(|x, y| x == y)
        .map(|tied| (tied.len() as f64).powi(3) - tied.len() as f64)
        .sum();
    let variance = na * nb / 12.0 * (n + 1.0 - ties / (n * (n - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let off = (observed as f64 / 2.0 - na * (n + 1.0) / 2.0).abs();
    let z = (off - 0.5).max(0.0) / variance.sqrt();
    both_tails(z)
}

/// The probability that a normal value is at least `z` away from its mean
/// (Abramowitz and Stegun 7.1.26; off by at most 1.5e-7).
pub fn both_tails(z: f64) -> f64 {
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    (poly * (-x * x).exp()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(from: i32, to: i32) -> Vec<f64> {
        (from..=to).map(f64::from).collect()
    }

    fn close(found: Option<f64>, wanted: f64, by: f64) {
        let found = found.unwrap();
        assert!((found - wanted).abs() <= by, "{found}, not {wanted}");
    }

    #[test]
    fn separate_samples_have_the_exact_p_of_the_tables() {
        // Two of all C(2n, n) orders are as extreme.
        close(mann_whitney_p(&run(1, 3), &run(4, 6)), 2.0 / 20.0, 1e-12);
        close(mann_whitney_p(&run(1, 6), &run(7, 12)), 2.0 / 924.0, 1e-12);
        close(
            mann_whitney_p(&run(1, 10), &run(11, 20)),
            2.0 / 184_756.0,
            1e-12,
        );
    }

    #[test]
    fn the_critical_values_of_the_published_tables_are_where_they_should_be() {
        // Two-sided 5 %: U = 5 is significant and 6 is not for 6 and 6 values,
        // 23 and 24 for 10 and 10.
        for (n, critical) in [(6, 5), (10, 23)] {
            let p = |u: usize| {
                // `a` below all of `b`, then its last value moved up past u of them.
                let mut a = run(1, n);
                let b: Vec<f64> = run(1, n).iter().map(|v| v + 100.0).collect();
                let mut left = u;
                for value in a.iter_mut().rev() {
                    let step = left.min(n as usize);
                    *value = if step == 0 {
                        *value
                    } else {
                        100.5 + step as f64 + *value / 1e3
                    };
                    left -= step;
                }
                mann_whitney_p(&a, &b).unwrap()
            };
            assert!(p(critical) <= SIGNIFICANT, "{n}: {}", p(critical));
            assert!(p(critical + 1) > SIGNIFICANT, "{n}: {}", p(critical + 1));
        }
    }

    #[test]
    fn equal_values_are_no_difference() {
        close(mann_whitney_p(&[1.0; 8], &[1.0; 8]), 1.0, 0.0);
        close(mann_whitney_p(&[1.0; 80], &[1.0; 80]), 1.0, 0.0);
        // Dealt by hand: of the 10 ways to choose 2 of {1, 2.5, 2.5, 4, 5}, 3 have
        // a sum at least as far from 6 as 3.5 has.
        close(mann_whitney_p(&[1.0, 2.0], &[2.0, 3.0, 4.0]), 0.3, 1e-12);
        // The ranks 1 and 6 of {1, 3, 3, 3, 5, 6} have the sum in the middle.
        let tied = mann_whitney_p(&[1.0, 4.0], &[2.0, 2.0, 2.0, 3.0]);
        close(tied, 1.0, 1e-12);
    }

    #[test]
    fn the_approximation_meets_the_exact_test() {
        let (a, b) = (run(1, 32), run(9, 40));
        let (ranks, sum) = doubled_ranks(&a, &b);
        let (exact, normal) = (exact_p(&ranks, 32, sum), normal_p(&ranks, 32, sum));
        assert!((exact - normal).abs() < 1e-3, "{exact} {normal}");
        // Where half a rank more or less would show.
        let b: Vec<f64> = run(5, 36).iter().map(|v| v + 0.5).collect();
        let (ranks, sum) = doubled_ranks(&a, &b);
        let (exact, normal) = (exact_p(&ranks, 32, sum), normal_p(&ranks, 32, sum));
        assert!((exact - normal).abs() < 5e-4, "{exact} {normal}");
        close(Some(both_tails(1.959_964)), 0.05, 1e-6);
    }

    #[test]
    fn the_order_of_the_samples_does_not_matter() {
        let (a, b) = ([3.0, 1.0, 9.0, 4.0], [2.0, 8.0, 7.0, 7.5, 11.0]);
        let forth = mann_whitney_p(&a, &b).unwrap();
        close(mann_whitney_p(&b, &a), forth, 1e-12);
    }

    #[test]
    fn what_has_no_answer_has_none() {
        assert_eq!(mann_whitney_p(&[], &[1.0]), None);
        assert_eq!(mann_whitney_p(&[f64::NAN], &[1.0]), None);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
        assert_eq!(geometric_mean(&[2.0, 8.0]), Some(4.0));
    }
}
