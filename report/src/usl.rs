//! Scaling curves: the universal scalability law, fitted to measured throughput.
//!
//! The law (Gunther 1993) says that N threads get `γN / (1 + σ(N−1) + κN(N−1))`
//! done: γ is one thread's throughput, σ the share of the work that is serial, κ
//! what every pair of threads costs each other. Divided into N the law is linear in
//! 1/γ, σ/γ and κ/γ, so the best fit is found exactly, by least squares of the
//! relative error with σ and κ not below zero.
//!
//! The band comes from fitting again and again to rounds drawn with replacement. It
//! is the uncertainty of the measurement only: whether the law holds beyond the
//! largest count measured, no measurement below it can tell.

/// A fit of three parameters says nothing with fewer counts than this.
pub const LEAST_COUNTS: usize = 4;
/// Fits to drawn rounds.
const DRAWS: usize = 1000;
/// Ends of a 95 % interval among sorted draws.
const TAIL: f64 = 0.025;

/// The law's parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usl {
    /// Throughput of one thread.
    pub gamma: f64,
    /// Serial share.
    pub sigma: f64,
    /// Cost of a pair of threads.
    pub kappa: f64,
}

impl Usl {
    /// Throughput of `threads` threads.
    pub fn throughput(&self, threads: f64) -> f64 {
        let pairs = threads * (threads - 1.0);
        self.gamma * threads / (1.0 + self.sigma * (threads - 1.0) + self.kappa * pairs)
    }

    /// The count beyond which more threads get less done; `None` if more always
    /// do more.
    pub fn peak(&self) -> Option<f64> {
        (self.kappa > 0.0).then(|| ((1.0 - self.sigma).max(0.0) / self.kappa).sqrt().max(1.0))
    }
}

/// A value with its 95 % band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Banded {
    /// From the fit to the medians.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A fitted curve.
#[derive(Clone, Debug)]
pub struct Scaling {
    /// The fit to the medians of the rounds.
    pub fit: Usl,
    /// Fits to drawn rounds.
    draws: Vec<Usl>,
}

/// Why there is no curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFitted {
    /// Too few thread counts.
    #[error(
        "{0} thread counts were measured and a curve of three parameters needs at least {LEAST_COUNTS}"
    )]
    TooFewCounts(usize),
    /// The figures are none, not positive or not finite.
    #[error("a thread count has no usable figures")]
    Unusable,
}

/// The rounds measured with one thread count.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Threads.
    pub threads: u32,
    /// Throughput of every round.
    pub rounds: Vec<f64>,
}

/// Fits a curve to throughput measured with several thread counts.
///
/// # Errors
/// [`NotFitted`] where there is too little to go by.
pub fn fit(measured: &[Measured]) -> Result<Scaling, NotFitted> {
    let mut counts: Vec<u32> = measured.iter().map(|m| m.threads).collect();
    counts.sort_unstable();
    counts.dedup();
    if counts.len() < LEAST_COUNTS {
        return Err(NotFitted::TooFewCounts(counts.len()));
    }
    let usable = |m: &Measured| {
        let sound = |x: &f64| x.is_finite() && *x > 0.0;
        m.threads > 0 && !m.rounds.is_empty() && m.rounds.iter().all(sound)
    };
    if !measured.iter().all(usable) {
        return Err(NotFitted::Unusable);
    }
    let fit = fit_to(measured, <[f64]>::to_vec).ok_or(NotFitted::Unusable)?;
    let mut random = Random(1);
    let draws = (0..DRAWS)
        .filter_map(|_| fit_to(measured, |rounds| random.draw(rounds)))
        .collect();
    Ok(Scaling { fit, draws })
}

impl Scaling {
    /// Throughput of `threads` threads, measured or not.
    pub fn throughput(&self, threads: f64) -> Banded {
        self.banded(|usl| usl.throughput(threads))
    }

    /// The serial share.
    pub fn sigma(&self) -> Banded {
        self.banded(|usl| usl.sigma)
    }

    /// The cost of a pair.
    pub fn kappa(&self) -> Banded {
        self.banded(|usl| usl.kappa)
    }

    fn banded(&self, of: impl Fn(&Usl) -> f64) -> Banded {
        let value = of(&self.fit);
        let mut drawn: Vec<f64> = self.draws.iter().map(of).collect();
        drawn.sort_by(f64::total_cmp);
        let tail = (drawn.len() as f64 * TAIL) as usize;
        Banded {
            value,
            low: drawn.get(tail).copied().unwrap_or(value),
            high: drawn.iter().rev().nth(tail).copied().unwrap_or(value),
        }
    }
}

/// The best fit to the medians of what `pick` takes from the rounds.
fn fit_to(measured: &[Measured], mut pick: impl FnMut(&[f64]) -> Vec<f64>) -> Option<Usl> {
    let point = |m: &Measured| {
        let median = crate::stats::median(&pick(&m.rounds))?;
        Some((f64::from(m.threads), median))
    };
    let points: Vec<(f64, f64)> = measured.iter().map(point).collect::<Option<_>>()?;
    // Which of σ and κ are free; the others are zero.
    let free: [&[usize]; 4] = [&[0, 1, 2], &[0, 1], &[0, 2], &[0]];
    let fits = free.iter().filter_map(|free| least_squares(&points, free));
    let sound = fits.filter(|(_, c)| c[0] > 0.0 && c[1] >= 0.0 && c[2] >= 0.0);
    let (_, [inverse, serial, pairs]) = sound.min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(Usl {
        gamma: 1.0 / inverse,
        sigma: serial / inverse,
        kappa: pairs / inverse,
    })
}

/// Least squares of the relative error of N/X over the free coefficients: the
/// squared error and all three coefficients. `None` where they are not determined.
fn least_squares(points: &[(f64, f64)], free: &[usize]) -> Option<(f64, [f64; 3])> {
    // Relative error: every equation is divided by its right-hand side.
    let row = |&(n, x): &(f64, f64)| [1.0, n - 1.0, n * (n - 1.0)].map(|term| term * x / n);
    let size = free.len();
    let mut system = [[0.0_f64; 4]; 3];
    for terms in points.iter().map(row) {
        for (i, &a) in free.iter().enumerate() {
            for (j, &b) in free.iter().enumerate() {
                system[i][j] += terms[a] * terms[b];
            }
            system[i][size] += terms[a];
        }
    }
    let solved = solve(&mut system, size)?;
    let mut coefficients = [0.0; 3];
    for (&index, value) in free.iter().zip(solved) {
        coefficients[index] = value;
    }
    let error = |terms: [f64; 3]| {
        let sum: f64 = terms.iter().zip(&coefficients).map(|(t, c)| t * c).sum();
        (sum - 1.0).powi(2)
    };
    Some((points.iter().map(row).map(error).sum(), coefficients))
}

/// Gaussian elimination with pivoting of a system of `size` equations, right-hand
/// sides in column `size`.
fn solve(system: &mut [[f64; 4]; 3], size: usize) -> Option<[f64; 3]> {
    for column in 0..size {
        let largest =
            |&a: &usize, &b: &usize| system[a][column].abs().total_cmp(&system[b][column].abs());
        let pivot = (column..size).max_by(largest)?;
        if system[pivot][column].abs() < 1e-12 {
            return None;
        }
        system.swap(column, pivot);
        for row in column + 1..size {
            let pivot = system[column];
            let factor = system[row][column] / pivot[column];
            for (value, above) in system[row].iter_mut().zip(pivot) {
                *value -= factor * above;
            }
        }
    }
    let mut solved = [0.0; 3];
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|c| system[row][c] * solved[c]).sum();
        solved[row] = (system[row][size] - known) / system[row][row];
    }
    Some(solved)
}

/// Draws with a fixed seed, so that a table renders the same every time
/// (splitmix64).
struct Random(u64);

impl Random {
    fn draw(&mut self, values: &[f64]) -> Vec<f64> {
        let len = values.len() as u64;
        let mut one = || {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % len
        };
        (0..len).map(|_| values[one() as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: Usl = Usl {
        gamma: 30.0,
        sigma: 0.05,
        kappa: 0.002,
    };

    /// Rounds on the law, each off by a fixed pattern of at most `noise`.
    fn measured(counts: &[u32], noise: f64) -> Vec<Measured> {
        let off = [0.3, -1.0, 0.7, -0.2, 1.0, -0.6, 0.1, -0.4, 0.9, -0.8];
        let one = |&threads: &u32| Measured {
            threads,
            rounds: (0..10)
                .map(|r| {
                    LAW.throughput(threads.into())
                        * (1.0 + noise * off[(r + threads as usize) % 10])
                })
                .collect(),
        };
        counts.iter().map(one).collect()
    }

    #[test]
    fn a_law_is_found_again() {
        let fit = fit(&measured(&[1, 2, 4, 8, 16], 0.0)).unwrap().fit;
        assert!((fit.gamma - LAW.gamma).abs() < 1e-6, "{fit:?}");
        assert!((fit.sigma - LAW.sigma).abs() < 1e-6, "{fit:?}");
        assert!((fit.kappa - LAW.kappa).abs() < 1e-8, "{fit:?}");
        let peak = fit.peak().unwrap();
        assert!((peak - (0.95_f64 / 0.002).sqrt()).abs() < 1e-3, "{peak}");
    }

    #[test]
    fn the_band_holds_the_truth_and_widens_outside_what_was_measured() {
        let scaling = fit(&measured(&[1, 2, 4, 8, 16], 0.03)).unwrap();
        for threads in [1.0, 8.0, 64.0, 256.0] {
            let Banded { low, high, .. } = scaling.throughput(threads);
            let truth = LAW.throughput(threads);
            assert!(
                low <= truth && truth <= high,
                "{threads}: {low} {truth} {high}"
            );
        }
        let width = |threads| {
            let banded = scaling.throughput(threads);
            (banded.high - banded.low) / banded.value
        };
        assert!(width(256.0) > 2.0 * width(8.0));
    }

    #[test]
    fn better_than_linear_scaling_is_linear_to_the_law() {
        let one = |threads: u32| Measured {
            threads,
            rounds: vec![f64::from(threads).powf(1.1); 6],
        };
        let fit = fit(&[1, 2, 4, 8].map(one)).unwrap().fit;
        assert_eq!((fit.sigma, fit.kappa), (0.0, 0.0));
        assert_eq!(fit.peak(), None);
    }

    #[test]
    fn too_few_counts_give_no_curve_however_many_rounds() {
        let few = measured(&[1, 2, 2, 4], 0.01);
        assert_eq!(fit(&few).err(), Some(NotFitted::TooFewCounts(3)));
        let mut none = measured(&[1, 2, 4, 8], 0.0);
        none[2].rounds[3] = 0.0;
        assert_eq!(fit(&none).err(), Some(NotFitted::Unusable));
    }
}
