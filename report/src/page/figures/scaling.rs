//! What becomes of a cost or a throughput with more threads.

use std::collections::BTreeMap;

use super::super::{
    Figure, PageError, Sources,
    chart::{Axis, Chart, Drawing, Line, Point, Series},
    marks::Shape,
};
use super::{cells, group};
use crate::{
    schema::{BenchRecord, Params},
    table::{count, with_interval},
};

const CAPTION: &str = "Cells that differ in nothing but their number of threads. Full lines and \
    discs are measured; a dotted line ending in a ring carries the last two points on, along a \
    straight line in this scale, to four times as many threads, and is no measurement.";

/// Thread counts that a curve needs.
const LEAST_POINTS: usize = 3;

/// One chart per workload, operation, metric and set of other parameters.
pub(super) fn figure(sources: &Sources<'_>) -> Result<Figure, PageError> {
    type Curves<'a> = BTreeMap<&'a str, BTreeMap<u32, &'a BenchRecord>>;
    let mut groups: BTreeMap<(String, &str), Curves<'_>> = BTreeMap::new();
    for cell in cells(sources) {
        let Some(threads) = threads(&cell.params) else {
            continue;
        };
        let common = group(&cell.params, |p| (p.agers, p.vcpus) = (None, None));
        let title = format!("{}, {}: {common}", cell.workload, cell.op);
        let curves = groups.entry((title, &cell.metric)).or_default();
        curves
            .entry(&cell.scheme)
            .or_default()
            .insert(threads, cell);
    }
    let mut drawings: Vec<Drawing> = Vec::new();
    for ((title, metric), curves) in groups {
        let mut series = Vec::new();
        for (scheme, points) in curves.iter().filter(|(_, p)| p.len() >= LEAST_POINTS) {
            let measured = measured(scheme, points);
            series.extend(extrapolated(&measured));
            series.push(measured);
        }
        if series.is_empty() {
            continue;
        }
        let chart = Chart {
            title: format!("{title}; {}", metric.replace('_', " ")),
            x: Axis::Numbers("threads", |v| count(v.round() as u64)),
            y: "value",
            series,
        };
        drawings.push(chart.draw()?);
    }
    let absent = "no bench result measured one cell at three numbers of threads or more";
    Ok(Figure::new(
        "scaling",
        "Scaling with threads",
        CAPTION,
        drawings,
        absent,
    ))
}

fn threads(params: &Params) -> Option<u32> {
    match (params.agers, params.vcpus) {
        (None, None) => None,
        (agers, vcpus) => Some(agers.unwrap_or(0) + vcpus.unwrap_or(0)).filter(|n| *n > 0),
    }
}

fn measured(scheme: &str, cells: &BTreeMap<u32, &BenchRecord>) -> Series {
    let points = cells.iter().filter_map(|(threads, cell)| {
        let summary = cell.summary.value()?;
        let ci95 = summary.ci95_low.zip(summary.ci95_high);
        Some(Point {
            x: f64::from(*threads),
            y: summary.median,
            ci95,
            says: format!(
                "{threads} threads, {} {}, n = {}",
                with_interval(summary.median, ci95),
                cell.metric.replace('_', " "),
                summary.n
            ),
        })
    });
    Series {
        name: scheme.to_owned(),
        shape: Shape::Disc,
        line: Line::Measured,
        points: points.collect(),
    }
}

fn extrapolated(measured: &Series) -> Option<Series> {
    let [.., a, b] = measured.points.as_slice() else {
        return None;
    };
    if a.y <= 0.0 || b.y <= 0.0 {
        return None;
    }
    let slope = (b.y / a.y).ln() / (b.x / a.x).ln();
    let x = b.x * 4.0;
    let y = b.y * (x / b.x).powf(slope);
    let point = |x, y, says: String| Point {
        x,
        y,
        ci95: None,
        says,
    };
    Some(Series {
        name: format!("{}, extrapolated", measured.name),
        shape: Shape::Ring,
        line: Line::Extrapolated,
        points: vec![
            point(
                b.x,
                b.y,
                format!("{} threads, the last that was measured", count(b.x as u64)),
            ),
            point(
                x,
                y,
                format!("{} threads, {:.3e}, not measured", count(x as u64), y),
            ),
        ],
    })
}
