//! Latency distributions: of callbacks, real and synthetic on one axis, and of
//! faults with and without aging.

use std::collections::BTreeMap;

use super::super::{
    Figure, PageError, Sources,
    chart::{Axis, Chart, Line, Point, Series},
    marks::Shape,
    name,
};
use super::{Group, cells};
use crate::{
    Observed,
    latency::Latency,
    schema::{BenchRecord, Op, Record, ResultKind},
    table::count,
};

/// Quantiles that are drawn, as one in how many is slower.
const ONE_IN: [f64; 10] = [1.25, 2.0, 4.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4, 1e5];

/// Durations of callbacks, real and synthetic.
pub(super) fn callbacks(sources: &Sources<'_>) -> Result<Figure, PageError> {
    let mut real: BTreeMap<String, Latency> = BTreeMap::new();
    let mut reason = "no profile was named".to_owned();
    let mut elsewhere = Vec::new();
    for file in sources.of_kind(ResultKind::Profile) {
        if !sources.has_host_of(file) {
            elsewhere.push(name(file));
            continue;
        }
        for record in &file.records {
            let Record::Callbacks(cell) = record else {
                continue;
            };
            match &cell.latency {
                Observed::Value(latency) => real
                    .entry(format!("real {}", cell.kind))
                    .or_default()
                    .merge(latency),
                Observed::Missing(why) => reason.clone_from(why),
            }
        }
    }
    let no_real = real.is_empty();
    let mut series: Vec<Series> = real
        .iter()
        .map(|(name, latency)| quantiles(name.clone(), latency, Shape::Diamond))
        .collect();
    let mut synthetic: BTreeMap<String, Latency> = BTreeMap::new();
    for cell in cells(sources).filter(|c| matches!(c.op, Op::Age | Op::TestAge)) {
        if let Some(latency) = &cell.latency {
            let name = format!("{} {}, {}", cell.scheme, cell.op, cell.workload);
            synthetic.entry(name).or_default().merge(latency);
        }
    }
    let no_synthetic = synthetic.is_empty();
    series.extend(
        synthetic
            .iter()
            .map(|(n, l)| quantiles(n.clone(), l, Shape::of(n))),
    );
    let mut caption = "How long the slowest one in so many callbacks took: 2 is the median, 100 \
        is p99, 1,000 is p99.9."
        .to_owned();
    if no_real {
        caption.push_str(&format!(" The real side is not here: {reason}."));
    }
    if !elsewhere.is_empty() {
        caption.push_str(&format!(
            " Left out, because it is of another host: {}.",
            elsewhere.join(", ")
        ));
    }
    if no_synthetic {
        caption.push_str(" The synthetic side is not here: no bench cell timed single callbacks.");
    }
    let drawings = if series.is_empty() {
        Vec::new()
    } else {
        vec![tail("Duration of a callback", series).draw()?]
    };
    let absent = format!(
        "real: {reason}; synthetic: no bench cell timed single callbacks (cargo xtask bench hold does)"
    );
    Ok(Figure::new(
        "latency",
        "Latency distributions of callbacks",
        &caption,
        drawings,
        &absent,
    ))
}

fn tail(title: &str, series: Vec<Series>) -> Chart {
    Chart {
        title: title.to_owned(),
        x: Axis::Numbers("the slowest one in", |v| count(v.round() as u64)),
        y: "ns",
        series,
    }
}

fn quantiles(name: String, latency: &Latency, shape: Shape) -> Series {
    let n = latency.count();
    let known = ONE_IN.iter().filter(|one_in| **one_in <= n as f64);
    let points = known.map(|one_in| {
        let ns = latency.quantile_ns(1.0 - 1.0 / one_in);
        Point {
            x: *one_in,
            y: ns as f64,
            ci95: None,
            says: format!(
                "p{}, {} ns, n = {}",
                percentile(*one_in),
                count(ns),
                count(n)
            ),
        }
    });
    Series {
        name,
        shape,
        hue: None,
        line: Line::Measured,
        points: points.collect(),
    }
}

fn percentile(one_in: f64) -> String {
    let text = format!("{:.3}", 100.0 - 100.0 / one_in);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

const FAULTS: &str = "What a vCPU's fault takes while others age (discs) and while nobody does \
    (rings), by scheme, in three quantiles of all rounds together, which have no intervals: where \
    rings and discs of one quantile lie among each other over all schemes, aging made no \
    difference that these rounds show; a ring far above its disc is a disturbance that its rounds \
    met. Closed loop: a fault begins when the last one has ended. Paced: it is due at a set time \
    and counted from then, so that whatever holds one up is in every fault that comes late for it.";

/// Faults with and without aging.
pub(super) fn faults(sources: &Sources<'_>) -> Result<Figure, PageError> {
    let mut groups: BTreeMap<(Group, bool), Vec<&BenchRecord>> = BTreeMap::new();
    for cell in cells(sources).filter(|c| c.op == Op::Fault && c.latency.is_some()) {
        let common = Group::of(cell, |p| {
            (p.aging, p.agers, p.vcpus) = (None, None, None);
        });
        let from_due = cell.metric.starts_with("due_");
        groups.entry((common, from_due)).or_default().push(cell);
    }
    let mut drawings = Vec::new();
    for ((common, from_due), cells) in groups {
        let from = if from_due {
            ", counted from when it was due"
        } else {
            ""
        };
        let title = format!("{}: {}{from}", common.workload, common.words);
        let aging = cells.iter().any(|c| is_aged(c));
        let quiet = cells.iter().any(|c| !is_aged(c));
        if aging && quiet {
            drawings.push(by_scheme(title, &cells).draw()?);
        }
    }
    let absent = "no bench cell timed faults both with and without aging (cargo xtask bench interference does)";
    Ok(Figure::new(
        "faults",
        "Fault latency with and without aging",
        FAULTS,
        drawings,
        absent,
    ))
}

fn is_aged(cell: &BenchRecord) -> bool {
    cell.params.agers.is_none_or(|n| n > 0) && cell.params.aging.as_deref() != Some("none")
}

fn by_scheme(title: String, cells: &[&BenchRecord]) -> Chart {
    let mut schemes: Vec<String> = Vec::new();
    for cell in cells {
        if !schemes.contains(&cell.scheme) {
            schemes.push(cell.scheme.clone());
        }
    }
    let mut series = Vec::new();
    let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
    for (hue, (name, quantile)) in quantiles.into_iter().enumerate() {
        for aged in [true, false] {
            let points = cells
                .iter()
                .filter(|c| is_aged(c) == aged)
                .filter_map(|cell| {
                    let latency = cell.latency.as_ref()?;
                    let place = schemes.iter().position(|s| *s == cell.scheme)?;
                    let ns = latency.quantile_ns(quantile);
                    let n = count(latency.count());
                    Some(Point {
                        x: place as f64,
                        y: ns as f64,
                        ci95: None,
                        says: format!("{}, {} ns, n = {n}", cell.scheme, count(ns)),
                    })
                });
            let (state, shape) = if aged {
                ("with aging", Shape::Disc)
            } else {
                ("without", Shape::Ring)
            };
            series.push(Series {
                name: format!("{name} {state}"),
                shape,
                hue: Some(hue),
                line: Line::None,
                points: points.collect(),
            });
        }
    }
    Chart {
        title,
        x: Axis::Names(schemes),
        y: "ns",
        series,
    }
}
