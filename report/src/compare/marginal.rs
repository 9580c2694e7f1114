//! What one more SPTE on a chain costs: a line fitted to cost against chain
//! length, on each side.
//!
//! The fixed part of a real callback and of a synthetic one are different
//! things; the slope is the walk in both, so it is what can be held side by
//! side.

use serde::Serialize;

use super::Row;
use crate::{
    schema::CallbackKind,
    stats::{Line, fit_line},
    table::{Column, Table, with_interval},
};

/// Whose cost a line is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The rmap part of real callbacks.
    Real,
    /// A scheme's synthetic callbacks with hot caches.
    Hot(String),
    /// A scheme's synthetic callbacks with cold caches.
    Cold(String),
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Real => f.write_str("real, rmap part"),
            Self::Hot(scheme) => write!(f, "{scheme}, hot"),
            Self::Cold(scheme) => write!(f, "{scheme}, cold"),
        }
    }
}

/// A fixed cost and a cost per SPTE.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Marginal {
    /// Which callback.
    pub kind: CallbackKind,
    /// Whose cost.
    pub side: Side,
    /// Cost of a callback before its first SPTE, nanoseconds.
    pub fixed_ns: f64,
    /// Its 95 % interval.
    pub fixed_ci95_ns: (f64, f64),
    /// Cost of one more SPTE, nanoseconds.
    pub per_spte_ns: f64,
    /// Its 95 % interval.
    pub per_spte_ci95_ns: (f64, f64),
    /// Chain lengths the line goes through.
    pub points: u32,
}

/// Lines for every kind that was seen at three chain lengths or more.
pub(super) fn fit(rows: &[Row]) -> Vec<Marginal> {
    let mut kinds: Vec<CallbackKind> = rows.iter().map(|r| r.kind).collect();
    kinds.dedup();
    kinds
        .into_iter()
        .flat_map(|kind| fit_kind(kind, rows))
        .collect()
}

fn fit_kind(kind: CallbackKind, rows: &[Row]) -> Vec<Marginal> {
    let walked: Vec<&Row> = rows
        .iter()
        .filter(|r| r.kind == kind && r.band.mean_len > 0.0)
        .collect();
    let mut schemes: Vec<&str> = Vec::new();
    for row in &walked {
        if !schemes.contains(&row.scheme.as_str()) {
            schemes.push(&row.scheme);
        }
    }
    let mut lines = Vec::new();
    let mut add = |side: Side, points: Vec<(f64, f64, f64)>| {
        if points.len() >= 3
            && let Some(line) = fit_line(&points)
        {
            lines.push(marginal(kind, side, line, points.len()));
        }
    };
    if let Some(first) = schemes.first() {
        let real = walked
            .iter()
            .filter(|r| r.scheme == *first)
            .filter_map(|row| {
                let walk = row.real.walk?;
                Some((
                    row.band.mean_len,
                    walk.mean_ns,
                    (walk.high_ns - walk.low_ns) / 3.92,
                ))
            });
        add(Side::Real, real.collect());
    }
    for scheme in schemes {
        let points = |point: fn(&Row) -> Option<&super::Point>| {
            let of_scheme = walked
                .iter()
                .filter(|r| r.scheme == scheme)
                .filter_map(|row| {
                    let point = point(row)?;
                    Some((row.band.mean_len, point.ns, point.half_width_ns()? / 1.96))
                });
            of_scheme.collect()
        };
        add(Side::Hot(scheme.to_owned()), points(|r| r.hot.as_ref()));
        add(Side::Cold(scheme.to_owned()), points(|r| r.cold.as_ref()));
    }
    lines
}

fn marginal(kind: CallbackKind, side: Side, line: Line, points: usize) -> Marginal {
    Marginal {
        kind,
        side,
        fixed_ns: line.intercept,
        fixed_ci95_ns: line.intercept_ci95(),
        per_spte_ns: line.slope,
        per_spte_ci95_ns: line.slope_ci95(),
        points: u32::try_from(points).unwrap_or(u32::MAX),
    }
}

/// The lines as a table.
pub(super) fn table(lines: &[Marginal]) -> Table {
    let mut table = Table::new(
        "What one more SPTE on a chain costs",
        vec![
            Column::text("callback"),
            Column::text("side"),
            Column::number("fixed (ns)"),
            Column::number("per SPTE (ns)"),
            Column::number("chain lengths"),
        ],
    );
    for line in lines {
        table.row(vec![
            line.kind.to_string(),
            line.side.to_string(),
            with_interval(line.fixed_ns, Some(line.fixed_ci95_ns)),
            with_interval(line.per_spte_ns, Some(line.per_spte_ci95_ns)),
            line.points.to_string(),
        ]);
    }
    if !table.is_empty() {
        table.note(
            "A line through cost against chain length, weighted by precision, ± half of the 95 % \
             interval; where the costs lie on no line the interval is wider for it.",
        );
    }
    table
}
