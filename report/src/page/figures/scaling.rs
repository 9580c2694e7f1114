//! What becomes of a cost or a throughput with more threads.

use std::collections::BTreeMap;

use super::super::{
    Figure, PageError, Sources,
    chart::{Axis, Chart, Drawing, Line, Point, Series},
    marks::Shape,
};
use super::{Group, cells};
use crate::{
    schema::{BenchRecord, Op, Params},
    table::{count, with_interval},
    usl::{self, Measured},
};

const CAPTION: &str = "Cells that differ in nothing but their number of threads. Full lines and \
    discs are measured; dotted lines and rings carry a throughput on to four times as many threads \
    by the universal scalability law fitted to the rounds, and are no measurement.";

/// Thread counts that a curve needs.
const LEAST_POINTS: usize = 3;

/// One chart per workload, operation, metric and set of other parameters.
pub(super) fn figure(sources: &Sources<'_>) -> Result<Figure, PageError> {
    type Curves<'a> = BTreeMap<&'a str, BTreeMap<u32, &'a BenchRecord>>;
    let mut groups: BTreeMap<(Group, Op, &str), Curves<'_>> = BTreeMap::new();
    for cell in cells(sources) {
        let Some(threads) = threads(&cell.params) else {
            continue;
        };
        let common = Group::of(cell, |p| (p.agers, p.vcpus) = (None, None));
        let of = (common, cell.op, cell.metric.as_str());
        let curves = groups.entry(of).or_default();
        curves
            .entry(&cell.scheme)
            .or_default()
            .insert(threads, cell);
    }
    let mut drawings: Vec<Drawing> = Vec::new();
    for ((common, op, metric), curves) in groups {
        let mut series = Vec::new();
        for (scheme, points) in curves.iter().filter(|(_, p)| p.len() >= LEAST_POINTS) {
            let measured = measured(scheme, points);
            series.extend(extrapolated(scheme, points));
            series.push(measured);
        }
        if series.is_empty() {
            continue;
        }
        let chart = Chart {
            title: format!(
                "{}, {op}: {}; {}",
                common.workload,
                common.words,
                metric.replace('_', " ")
            ),
            x: Axis::Numbers("threads", |v| count(v.round() as u64)),
            y: "value",
            series,
        };
        drawings.push(chart.draw()?);
    }
    let absent = "no bench result measured one cell at three numbers of threads or more (cargo xtask bench does, where there are as many CPUs)";
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
        (agers, vcpus) => {
            let threads = agers.unwrap_or(0).saturating_add(vcpus.unwrap_or(0));
            (threads > 0).then_some(threads)
        }
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
        hue: None,
        line: Line::Measured,
        points: points.collect(),
    }
}

/// The fitted law beyond what was measured, where the metric is a throughput.
fn extrapolated(name: &str, cells: &BTreeMap<u32, &BenchRecord>) -> Option<Series> {
    let (last, cell) = cells.last_key_value()?;
    if !["_per_s", "_per_us"]
        .iter()
        .any(|unit| cell.metric.ends_with(unit))
    {
        return None;
    }
    let measured: Vec<Measured> = cells
        .iter()
        .map(|(threads, cell)| Measured {
            threads: *threads,
            rounds: cell.rounds.clone(),
        })
        .collect();
    let law = usl::fit(&measured).ok()?;
    let points = [1, 2, 4].map(|times| {
        let threads = f64::from(*last) * f64::from(times);
        let banded = law.throughput(threads);
        let ci95 = (banded.low, banded.high);
        Point {
            x: threads,
            y: banded.value,
            ci95: Some(ci95),
            says: format!(
                "{} threads, {}, not measured",
                count(threads as u64),
                with_interval(banded.value, Some(ci95))
            ),
        }
    });
    Some(Series {
        name: format!("{name}, extrapolated"),
        shape: Shape::Ring,
        hue: None,
        line: Line::Extrapolated,
        points: points.into(),
    })
}
