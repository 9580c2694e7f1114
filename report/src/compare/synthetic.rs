//! The synthetic side: cost of one callback against chain length, per scheme
//! and operation.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    ResultFile,
    schema::{BenchRecord, Cache, CallbackKind, Op, Record},
    stats,
    table::with_interval,
};

/// The workload whose cells are compared.
const WORKLOAD: &str = "walk";
/// The metric of those cells.
const METRIC: &str = "ns_per_callback";

/// The operation a real callback corresponds to.
pub(super) const fn op_of(kind: CallbackKind) -> Op {
    if kind.clears() { Op::Age } else { Op::TestAge }
}

/// A synthetic cost at one chain length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Median cost of a callback, nanoseconds.
    pub ns: f64,
    /// Its 95 % interval, if there were rounds enough.
    pub ci95_ns: Option<(f64, f64)>,
    /// Rounds.
    pub n: u32,
    /// Whether the cost lies on the line between two measured chain lengths.
    pub interpolated: bool,
}

impl Point {
    fn mixed_with(&self, other: &Self, share: f64) -> Self {
        let ns = share * self.ns + (1.0 - share) * other.ns;
        let half = self
            .half_width_ns()
            .zip(other.half_width_ns())
            .map(|(a, b)| {
                // Independent estimates: their errors add in quadrature.
                (share * a).hypot((1.0 - share) * b)
            });
        Self {
            ns,
            ci95_ns: half.map(|half| (ns - half, ns + half)),
            n: self.n.min(other.n),
            interpolated: self.interpolated || other.interpolated,
        }
    }

    /// Half the width of the interval, nanoseconds.
    pub fn half_width_ns(&self) -> Option<f64> {
        self.ci95_ns.map(|(low, high)| (high - low) / 2.0)
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&with_interval(self.ns, self.ci95_ns))
    }
}

/// Cost against chain length of one scheme and operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The scheme.
    pub scheme: String,
    /// The operation.
    pub op: Op,
    hot: BTreeMap<u32, Point>,
    cold: BTreeMap<u32, Point>,
}

impl Curve {
    /// The curve of callbacks of which a share costs as on this curve and the
    /// rest as on `other`. Lengths that one side does not cover are left out.
    fn mixed_with(&self, other: &Self, share: f64) -> Self {
        let mix = |cache, points: &BTreeMap<u32, Point>| {
            let mixed = points.iter().filter_map(|(len, point)| {
                let old = other.at(cache, f64::from(*len))?;
                Some((*len, point.mixed_with(&old, share)))
            });
            mixed.collect()
        };
        Self {
            scheme: self.scheme.clone(),
            op: self.op,
            hot: mix(Cache::Hot, &self.hot),
            cold: mix(Cache::Cold, &self.cold),
        }
    }

    /// The measured chain lengths and their costs.
    pub fn points(&self, cache: Cache) -> impl Iterator<Item = (u32, &Point)> {
        let points = match cache {
            Cache::Hot => &self.hot,
            Cache::Cold => &self.cold,
        };
        points.iter().map(|(len, point)| (*len, point))
    }

    /// The cost at a chain length: measured there, or on the line between the
    /// measured lengths around it; `None` outside of them.
    pub fn at(&self, cache: Cache, len: f64) -> Option<Point> {
        let points = match cache {
            Cache::Hot => &self.hot,
            Cache::Cold => &self.cold,
        };
        let line = |f: &dyn Fn(&Point) -> f64| {
            let line: Vec<(f64, f64)> = points.iter().map(|(l, p)| (f64::from(*l), f(p))).collect();
            stats::interpolate(&line, len)
        };
        let ns = line(&|p| p.ns)?;
        let exact = points
            .iter()
            .find(|(l, _)| f64::from(**l) == len)
            .map(|(_, p)| p);
        if let Some(point) = exact {
            return Some(point.clone());
        }
        let low = line(&|p| p.ci95_ns.map_or(f64::NAN, |i| i.0)).filter(|v| v.is_finite());
        let high = line(&|p| p.ci95_ns.map_or(f64::NAN, |i| i.1)).filter(|v| v.is_finite());
        let n = points.values().map(|p| p.n).min().unwrap_or(0);
        Some(Point {
            ns,
            ci95_ns: low.zip(high),
            n,
            interpolated: true,
        })
    }
}

/// The curves of an operation in a bench result at one share of young SPTEs, in the order the
/// schemes first appear: as measured at that share, or mixed from all young and
/// all old.
pub(super) fn curves(bench: &ResultFile, young_share: f64, op: Op) -> Vec<Curve> {
    let measured = measured(bench, young_share, op);
    if measured
        .iter()
        .any(|curve| curve.hot.keys().chain(curve.cold.keys()).any(|l| *l > 0))
    {
        return measured;
    }
    let (young, old) = (
        self::measured(bench, 1.0, op),
        self::measured(bench, 0.0, op),
    );
    let pairs = young.iter().filter_map(|y| {
        let old = old.iter().find(|o| o.scheme == y.scheme)?;
        Some(y.mixed_with(old, young_share))
    });
    pairs.collect()
}

fn measured(bench: &ResultFile, young_share: f64, op: Op) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for record in &bench.records {
        let Record::Bench(cell) = record else {
            continue;
        };
        if cell.op != op {
            continue;
        }
        let Some((len, cache, point)) = point(cell, young_share) else {
            continue;
        };
        let known = curves
            .iter()
            .position(|c| c.scheme == cell.scheme && c.op == cell.op);
        let index = known.unwrap_or_else(|| {
            let scheme = cell.scheme.clone();
            curves.push(Curve {
                scheme,
                op: cell.op,
                hot: BTreeMap::new(),
                cold: BTreeMap::new(),
            });
            curves.len() - 1
        });
        let side = match cache {
            Cache::Hot => &mut curves[index].hot,
            Cache::Cold => &mut curves[index].cold,
        };
        side.insert(len, point);
    }
    curves
}

/// The cell's chain length, cache state and cost, if it is one of those that
/// a single real callback can be held against.
fn point(cell: &BenchRecord, young_share: f64) -> Option<(u32, Cache, Point)> {
    let params = &cell.params;
    let comparable = cell.workload == WORKLOAD
        && cell.metric == METRIC
        && params.range_pages.is_none_or(|p| p == 1)
        && params.level.is_none_or(|l| l == 1)
        && (params.chain_len == Some(0)
            || params
                .young_share
                .is_none_or(|y| (y - young_share).abs() < 1e-6));
    if !comparable {
        return None;
    }
    let summary = cell.summary.value()?;
    let point = Point {
        ns: summary.median,
        ci95_ns: summary.ci95_low.zip(summary.ci95_high),
        n: summary.n,
        interpolated: false,
    };
    Some((params.chain_len?, params.cache.unwrap_or(Cache::Hot), point))
}
