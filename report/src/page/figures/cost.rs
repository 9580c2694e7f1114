//! Cost against chain length: real points over synthetic curves.

use super::super::{
    Figure, PageError, Sources,
    chart::{Axis, Chart, Drawing, Line, Point, REAL, Series},
    marks::Shape,
};
use crate::{
    compare::{self, Band, Curve, RealCost, YoungShares},
    schema::{Cache, CallbackKind},
    table::{count, figure as digits, with_interval},
};

const CAPTION: &str = "One callback over one gfn. Lines: synthetic, median of the rounds, the \
    kernel's own scheme thick; squares are peers, triangles bounds. Diamonds: the part of real callbacks spent in kvm_age_gfn or \
    kvm_test_age_gfn, filed under the chain length found at the callback. Bars are 95 % \
    intervals. A kind of callback of which the recording has too few at every length is not here. \
    A real walk finds its cache lines in some state between hot and cold; swept is a \
    set as large as the recorded guest, llc one that only the last-level cache holds.";

/// One chart per callback kind and cache state.
pub(super) fn figure(sources: &Sources<'_>) -> Result<Figure, PageError> {
    let bench = sources.bench;
    let real = sources.profile.map(compare::real_costs).unwrap_or_default();
    let young = sources
        .profile
        .map_or_else(|| YoungShares::all(1.0), YoungShares::of_guest);
    let mut kinds: Vec<CallbackKind> = real.iter().map(|(kind, ..)| *kind).collect();
    kinds.dedup();
    kinds.retain(|kind| !real_points(&real, *kind).is_empty());
    if kinds.is_empty() {
        kinds = vec![CallbackKind::ClearFlushYoung, CallbackKind::TestYoung];
    }
    let own = sources.comparison.as_ref().and_then(|c| c.kernel_scheme);
    let mut drawings: Vec<Drawing> = Vec::new();
    for kind in kinds {
        let curves = bench
            .map(|b| compare::curves(b, kind, young))
            .unwrap_or_default();
        let points = real_points(&real, kind);
        for cache in Cache::ALL {
            let mut series = synthetic(&curves, cache, own);
            let has_curves = !series.is_empty();
            if !points.is_empty() && (has_curves || cache == Cache::Hot) {
                series.push(Series {
                    name: "real, rmap part".to_owned(),
                    shape: Shape::Diamond,
                    hue: Some(REAL),
                    line: Line::None,
                    points: real_points(&real, kind),
                });
            }
            if series.iter().all(|s| s.points.is_empty()) {
                continue;
            }
            let state = if has_curves {
                format!(", {cache} caches")
            } else {
                String::new()
            };
            let chart = Chart {
                title: format!("{kind}{state}"),
                x: Axis::Numbers("SPTEs on the chain", digits_of),
                y: "ns per callback",
                series,
            };
            drawings.push(chart.draw()?);
        }
    }
    let absent = "no result has callbacks or synthetic costs by chain length";
    Ok(Figure::new(
        "cost",
        "Cost against chain length",
        CAPTION,
        drawings,
        absent,
    ))
}

fn digits_of(value: f64) -> String {
    if value >= 1.0 {
        count(value.round() as u64)
    } else {
        digits(value)
    }
}

fn synthetic(curves: &[Curve], cache: Cache, own: Option<&str>) -> Vec<Series> {
    let line = |scheme: &str| {
        if own == Some(scheme) {
            Line::Thick
        } else {
            Line::Measured
        }
    };
    let series = curves.iter().map(|curve| Series {
        name: curve.scheme.clone(),
        shape: Shape::of(&curve.scheme),
        hue: None,
        line: line(&curve.scheme),
        points: curve
            .points(cache)
            .filter(|(len, _)| *len > 0)
            .map(|(len, point)| Point {
                x: f64::from(len),
                y: point.ns,
                ci95: point.ci95_ns,
                says: format!("{len} SPTEs, {} ns, n = {}", point, point.n),
            })
            .collect(),
    });
    series.filter(|s| !s.points.is_empty()).collect()
}

fn real_points(real: &[(CallbackKind, Band, RealCost)], kind: CallbackKind) -> Vec<Point> {
    let of_kind = real
        .iter()
        .filter(|(k, band, cost)| *k == kind && band.mean_len > 0.0 && cost.is_supported());
    let points = of_kind.filter_map(|(_, band, cost)| {
        let walk = cost.walk?;
        let ci95 = (walk.low_ns, walk.high_ns);
        Some(Point {
            x: band.mean_len,
            y: walk.mean_ns,
            ci95: Some(ci95),
            says: format!(
                "{band} SPTEs, {} ns, {} callbacks, {}",
                with_interval(walk.mean_ns, Some(ci95)),
                count(cost.callbacks),
                cost.mechanism
            ),
        })
    });
    points.collect()
}
