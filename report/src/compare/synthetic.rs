//! The synthetic side: cost of one callback against chain length and range, per
//! scheme and operation.

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

/// The operation a real callback corresponds to.
pub(super) const fn op_of(kind: CallbackKind) -> Op {
    if kind.clears() { Op::Age } else { Op::TestAge }
}

/// A synthetic cost at one chain length and range.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Median cost of a callback, nanoseconds.
    pub ns: f64,
    /// Its 95 % interval, if there were rounds enough.
    pub ci95_ns: Option<(f64, f64)>,
    /// Rounds.
    pub n: u32,
    /// Whether the cost lies on the line between two that were measured.
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

    /// The point at `x`: one of `points`, or on the line between the two around it;
    /// `None` outside of them.
    fn between(points: &[(f64, Self)], x: f64) -> Option<Self> {
        let line = |of: &dyn Fn(&Self) -> f64| {
            let line: Vec<(f64, f64)> = points.iter().map(|(x, p)| (*x, of(p))).collect();
            stats::interpolate(&line, x)
        };
        let ns = line(&|p| p.ns)?;
        if let Some((_, point)) = points.iter().find(|(at, _)| *at == x) {
            return Some(point.clone());
        }
        let low = line(&|p| p.ci95_ns.map_or(f64::NAN, |i| i.0)).filter(|v| v.is_finite());
        let high = line(&|p| p.ci95_ns.map_or(f64::NAN, |i| i.1)).filter(|v| v.is_finite());
        Some(Self {
            ns,
            ci95_ns: low.zip(high),
            n: points.iter().map(|(_, p)| p.n).min().unwrap_or(0),
            interpolated: true,
        })
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&with_interval(self.ns, self.ci95_ns))
    }
}

/// Costs by pages of the range, then by chain length.
type Costs = BTreeMap<u64, BTreeMap<u32, Point>>;

/// Cost of one scheme and operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The scheme.
    pub scheme: String,
    /// The operation.
    pub op: Op,
    states: BTreeMap<Cache, Costs>,
}

impl Curve {
    /// The curve of callbacks of which a share costs as on this curve and the
    /// rest as on `other`. What one side does not cover is left out.
    fn mixed_with(&self, other: &Self, share: f64) -> Self {
        let mut states: BTreeMap<Cache, Costs> = BTreeMap::new();
        for (cache, pages, len, point) in self.measured() {
            if let Some(old) = other.on_range(cache, pages, f64::from(len)) {
                let costs = states.entry(cache).or_default().entry(pages).or_default();
                costs.insert(len, point.mixed_with(&old, share));
            }
        }
        Self {
            scheme: self.scheme.clone(),
            op: self.op,
            states,
        }
    }

    fn measured(&self) -> impl Iterator<Item = (Cache, u64, u32, &Point)> {
        let states = self.states.iter();
        states.flat_map(|(cache, costs)| {
            costs.iter().flat_map(|(pages, points)| {
                let points = points.iter();
                points.map(|(len, point)| (*cache, *pages, *len, point))
            })
        })
    }

    /// The measured chain lengths and their costs over one page.
    pub fn points(&self, cache: Cache) -> impl Iterator<Item = (u32, &Point)> {
        let costs = self.states.get(&cache).and_then(|costs| costs.get(&1));
        costs.into_iter().flatten().map(|(len, p)| (*len, p))
    }

    /// The ranges measured in this state, pages.
    pub fn ranges(&self, cache: Cache) -> Vec<u64> {
        let costs = self.states.get(&cache);
        costs.map_or_else(Vec::new, |costs| costs.keys().copied().collect())
    }

    fn on_range(&self, cache: Cache, pages: u64, len: f64) -> Option<Point> {
        let points = self.states.get(&cache)?.get(&pages)?;
        let points: Vec<_> = points
            .iter()
            .map(|(len, point)| (f64::from(*len), point.clone()))
            .collect();
        Point::between(&points, len)
    }

    /// The cost of a callback over a range at a chain length: measured there, or on
    /// the line between what was measured around it; `None` outside.
    pub fn at(&self, cache: Cache, pages: f64, len: f64) -> Option<Point> {
        let costs = self.states.get(&cache)?;
        let points: Vec<_> = costs
            .keys()
            .filter_map(|pages| Some((*pages as f64, self.on_range(cache, *pages, len)?)))
            .collect();
        Point::between(&points, pages)
    }
}

/// The curves of an operation in a bench result at one share of young SPTEs, in the order the
/// schemes first appear: as measured at that share, or mixed from all young and
/// all old.
pub(super) fn curves(bench: &ResultFile, young_share: f64, op: Op) -> Vec<Curve> {
    let curves = measured(bench, young_share, op);
    if curves
        .iter()
        .any(|curve| curve.measured().any(|(_, _, len, _)| len > 0))
    {
        return curves;
    }
    let (young, old) = (measured(bench, 1.0, op), measured(bench, 0.0, op));
    let pairs = young.iter().filter_map(|y| {
        let old = old.iter().find(|o| o.scheme == y.scheme)?;
        Some(y.mixed_with(old, young_share))
    });
    pairs.collect()
}

/// The cells that costs are taken from.
pub(super) fn cells(bench: &ResultFile) -> impl Iterator<Item = &BenchRecord> {
    bench.records.iter().filter_map(|record| match record {
        Record::Bench(cell) if cell.workload == WORKLOAD => Some(&**cell),
        _ => None,
    })
}

fn measured(bench: &ResultFile, young_share: f64, op: Op) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for cell in cells(bench).filter(|cell| cell.op == op) {
        let Some((cache, pages, len, point)) = point(cell, young_share) else {
            continue;
        };
        let known = curves.iter().position(|c| c.scheme == cell.scheme);
        let index = known.unwrap_or_else(|| {
            curves.push(Curve {
                scheme: cell.scheme.clone(),
                op,
                states: BTreeMap::new(),
            });
            curves.len() - 1
        });
        let costs = curves[index].states.entry(cache).or_default();
        costs.entry(pages).or_default().insert(len, point);
    }
    curves
}

/// The cell's cache state, range, chain length and cost, if it is one of those that
/// a real callback can be held against.
fn point(cell: &BenchRecord, young_share: f64) -> Option<(Cache, u64, u32, Point)> {
    let params = &cell.params;
    let comparable = params.level.is_none_or(|l| l == 1)
        && (params.chain_len == Some(0)
            || params
                .young_share
                .is_none_or(|y| (y - young_share).abs() < 1e-6));
    if !comparable {
        return None;
    }
    let pages = params.range_pages.unwrap_or(1);
    let times = match cell.metric.as_str() {
        "ns_per_callback" => 1.0,
        "ns_per_gfn" => pages as f64,
        _ => return None,
    };
    let summary = cell.summary.value()?;
    let interval = summary.ci95_low.zip(summary.ci95_high);
    let point = Point {
        ns: summary.median * times,
        ci95_ns: interval.map(|(low, high)| (low * times, high * times)),
        n: summary.n,
        interpolated: false,
    };
    let cache = params.cache.unwrap_or(Cache::Hot);
    Some((cache, pages, params.chain_len?, point))
}
