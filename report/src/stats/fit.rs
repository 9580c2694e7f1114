//! Linear models of measured costs, each measurement weighted by its precision.

use super::{Z95, t95};

/// A linear model of `N` regressors, with the covariance of its coefficients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit<const N: usize> {
    /// One coefficient per regressor.
    pub coefficients: [f64; N],
    /// Variances on the diagonal, covariances beside it.
    pub covariance: [[f64; N]; N],
    /// Where the scatter of the points made the variances, how many degrees of freedom it
    /// had; none where the errors of the points did.
    pub scatter: Option<usize>,
}

impl<const N: usize> Fit<N> {
    /// The value of a combination of the coefficients and its standard error.
    #[must_use]
    pub fn value(&self, weights: [f64; N]) -> (f64, f64) {
        let value = dot(&weights, &self.coefficients);
        let terms = self.covariance.iter().zip(weights);
        let variance: f64 = terms.map(|(row, w)| w * dot(row, &weights)).sum();
        (value, variance.max(0.0).sqrt())
    }

    /// The same value with half of its 95 % interval: an error that was estimated from the
    /// scatter of a few points is itself uncertain, which Student's t allows for.
    #[must_use]
    pub fn value_ci95(&self, weights: [f64; N]) -> (f64, f64) {
        let (value, se) = self.value(weights);
        (value, se * self.scatter.map_or(Z95, t95))
    }
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The model that fits `(regressors, y, standard error of y)` best, each point
/// weighted by its precision. Where the points scatter more than their errors
/// explain, because the truth is not linear, the errors of the coefficients are
/// widened to match. `None` where the points do not tell the coefficients apart, or
/// without errors.
pub fn fit_linear<const N: usize>(points: &[([f64; N], f64, f64)]) -> Option<Fit<N>> {
    let usable = |(x, y, se): &([f64; N], f64, f64)| {
        x.iter().all(|x| x.is_finite()) && y.is_finite() && se.is_finite() && *se > 0.0
    };
    if points.len() < N || !points.iter().all(usable) {
        return None;
    }
    let mut normal = [[0.0; N]; N];
    let mut moment = [0.0; N];
    for (x, y, se) in points {
        let weight = 1.0 / (se * se);
        for row in 0..N {
            moment[row] += weight * x[row] * y;
            for column in 0..N {
                normal[row][column] += weight * x[row] * x[column];
            }
        }
    }
    let mut covariance = inverse(normal)?;
    let coefficients = covariance.map(|row| dot(&row, &moment));
    let misfit: f64 = points
        .iter()
        .map(|(x, y, se)| ((y - dot(x, &coefficients)) / se).powi(2))
        .sum();
    let freedom = points.len() - N;
    let widen = misfit / freedom as f64;
    let scatter = (freedom > 0 && widen > 1.0).then_some(freedom);
    if scatter.is_some() {
        covariance.iter_mut().flatten().for_each(|c| *c *= widen);
    }
    Some(Fit {
        coefficients,
        covariance,
        scatter,
    })
}

/// The inverse by elimination with pivots; `None` if there is none.
fn inverse<const N: usize>(mut matrix: [[f64; N]; N]) -> Option<[[f64; N]; N]> {
    let mut inverse = [[0.0; N]; N];
    for (index, row) in inverse.iter_mut().enumerate() {
        row[index] = 1.0;
    }
    let scale: [f64; N] = std::array::from_fn(|index| matrix[index][index]);
    for column in 0..N {
        let size = |row: usize| matrix[row][column].abs() / scale[row];
        let pivot = (column..N).max_by(|a, b| size(*a).total_cmp(&size(*b)))?;
        // What rounding leaves of two regressors that say the same.
        if size(pivot).is_nan() || size(pivot) < 1e-9 {
            return None;
        }
        matrix.swap(column, pivot);
        inverse.swap(column, pivot);
        let divisor = matrix[column][column];
        for at in 0..N {
            matrix[column][at] /= divisor;
            inverse[column][at] /= divisor;
        }
        for row in (0..N).filter(|row| *row != column) {
            let factor = matrix[row][column];
            for at in 0..N {
                matrix[row][at] -= factor * matrix[column][at];
                inverse[row][at] -= factor * inverse[column][at];
            }
        }
    }
    Some(inverse)
}

/// The straight line that fits `(x, y, standard error of y)` best, as [`fit_linear`] does:
/// its value at x = 0, and its slope.
pub fn fit_line(points: &[(f64, f64, f64)]) -> Option<Fit<2>> {
    let points: Vec<_> = points
        .iter()
        .map(|(x, y, se)| ([1.0, *x], *y, *se))
        .collect();
    fit_linear(&points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_with_the_errors_of_its_points() {
        let exact = [(1.0, 13.0, 1.0), (4.0, 22.0, 1.0), (16.0, 58.0, 1.0)];
        let line = fit_line(&exact).unwrap();
        let [intercept, slope] = line.coefficients;
        assert!((slope - 3.0).abs() < 1e-9 && (intercept - 10.0).abs() < 1e-9);
        // 1 / sqrt(sum (x - mean)²) for equal errors of 1.
        let (_, se) = line.value([0.0, 1.0]);
        assert!((se - 1.0 / 126.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(line.value_ci95([0.0, 1.0]).1, 1.96 * se);
        let bent = [(1.0, 13.0, 1.0), (4.0, 122.0, 1.0), (16.0, 58.0, 1.0)];
        let bent = fit_line(&bent).unwrap();
        let (_, bent_se) = bent.value([0.0, 1.0]);
        assert!(bent_se > 10.0 * se);
        // One degree of freedom: the scatter may be anything.
        assert_eq!(bent.value_ci95([0.0, 1.0]).1, 12.706 * bent_se);
        assert_eq!(fit_line(&exact[..1]), None);
        assert_eq!(fit_line(&[(1.0, 1.0, 1.0), (1.0, 2.0, 1.0)]), None);
        assert_eq!(fit_line(&[(1.0, 1.0, 0.0), (2.0, 2.0, 1.0)]), None);
    }

    #[test]
    fn three_costs_are_told_apart_where_ranges_and_chains_differ() {
        let cost = |pages: f64, len: f64| 100.0 + 7.0 * pages + 3.0 * pages * len;
        let point = |pages: f64, len: f64| ([1.0, pages, pages * len], cost(pages, len), 1.0);
        let points = [
            point(1.0, 1.0),
            point(1.0, 16.0),
            point(64.0, 1.0),
            point(64.0, 4.0),
        ];
        let fit = fit_linear(&points).unwrap();
        for (found, is) in fit.coefficients.iter().zip([100.0, 7.0, 3.0]) {
            assert!((found - is).abs() < 1e-6, "{fit:?}");
        }
        let one_range = [
            point(1.0, 1.0),
            point(1.0, 4.0),
            point(1.0, 16.0),
            point(1.0, 64.0),
        ];
        assert_eq!(
            fit_linear(&one_range),
            None,
            "a callback and its gfn are one"
        );
        // The sum of two coefficients has a smaller error than they have apart.
        let (sum, se) = fit.value([1.0, 1.0, 0.0]);
        assert!((sum - 107.0).abs() < 1e-6);
        assert!(
            se < fit
                .value([1.0, 0.0, 0.0])
                .1
                .hypot(fit.value([0.0, 1.0, 0.0]).1)
        );
    }
}
