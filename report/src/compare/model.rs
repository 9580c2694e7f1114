//! A cost model of each side: what a callback costs before its first gfn, what each
//! gfn and each SPTE adds.
//!
//! The fixed part of a real callback and of a synthetic one are different
//! things; what one more SPTE adds is the walk in both, so it is what can be held
//! side by side. A callback over one gfn does not tell its fixed cost from that of
//! its gfn: only a side with ranges of several lengths does.

use serde::Serialize;

use super::{Curve, Row, synthetic::op_of};
use crate::{
    Observed,
    schema::{Cache, CallbackKind},
    stats::{Fit, Z95, fit_linear},
    summary::Marks,
    table::{Column, Table, with_interval},
};

/// Points that a model needs beyond its coefficients.
const SPARE: usize = 1;
/// A cost is known to a thousandth at best: rounds that agree further are no proof.
const LEAST_RELATIVE_ERROR: f64 = 1e-3;

/// Whose cost a model is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The rmap part of real callbacks.
    Real,
    /// A scheme's synthetic callbacks in one state of the caches.
    Synthetic(String, Cache),
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Real => f.write_str("real, rmap part"),
            Self::Synthetic(scheme, cache) => write!(f, "{scheme}, {cache}"),
        }
    }
}

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fitted {
    /// The figure, nanoseconds.
    pub ns: f64,
    /// Its 95 % interval.
    pub ci95_ns: (f64, f64),
}

impl Fitted {
    fn of<const N: usize>(fit: &Fit<N>, weights: [f64; N]) -> Self {
        let (ns, half) = fit.value_ci95(weights);
        Self {
            ns,
            ci95_ns: (ns - half, ns + half),
        }
    }
}

impl std::fmt::Display for Fitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&with_interval(self.ns, Some(self.ci95_ns)))
    }
}

/// The costs that callbacks of one kind and side are made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CostModel {
    /// Which callback.
    pub kind: CallbackKind,
    /// Whose cost.
    pub side: Side,
    /// Cost of a callback over one gfn before its first SPTE.
    pub one_gfn: Fitted,
    /// Of it, what the callback costs before its first gfn.
    pub fixed: Observed<Fitted>,
    /// Of it, what each gfn costs.
    pub per_gfn: Observed<Fitted>,
    /// Cost of one more SPTE.
    pub per_spte: Fitted,
    /// Ranges and chain lengths the model is fitted to.
    pub points: u32,
}

/// A range, its SPTEs per gfn, a callback's cost and its standard error.
struct Measured {
    pages: f64,
    len: f64,
    ns: f64,
    se: f64,
}

impl Measured {
    fn new(pages: f64, len: f64, ns: f64, half_width: f64) -> Self {
        let se = (half_width / Z95).max(LEAST_RELATIVE_ERROR * ns);
        Self { pages, len, ns, se }
    }
}

/// Models for every kind and side with enough ranges and chain lengths.
pub(super) fn fit(rows: &[Row], curves: &[Curve]) -> Vec<CostModel> {
    let mut kinds: Vec<CallbackKind> = rows.iter().map(|r| r.kind).collect();
    kinds.dedup();
    let mut models = Vec::new();
    for kind in kinds {
        let walked: Vec<&Row> = rows
            .iter()
            .filter(|r| r.kind == kind && r.band.mean_len > 0.0)
            .collect();
        models.extend(model(kind, &Side::Real, &real(&walked)));
        for curve in curves.iter().filter(|c| c.op == op_of(kind)) {
            for cache in Cache::ALL {
                let side = Side::Synthetic(curve.scheme.clone(), cache);
                models.extend(model(kind, &side, &synthetic(&walked, curve, cache)));
            }
        }
    }
    models
}

fn real(rows: &[&Row]) -> Vec<Measured> {
    let mut seen: Vec<&Row> = Vec::new();
    let mut points = Vec::new();
    for row in rows {
        if seen.iter().any(|other| other.is_beside(row)) {
            continue;
        }
        seen.push(row);
        if let Some(walk) = row.real.walk {
            let half = walk.half_ns();
            points.push(Measured::new(
                row.pages,
                row.band.mean_len,
                walk.mean_ns,
                half,
            ));
        }
    }
    points
}

/// The curve at the chain lengths of the real side; over every range it has, if the real
/// side has several too, so that both sides are fitted to the same.
fn synthetic(rows: &[&Row], curve: &Curve, cache: Cache) -> Vec<Measured> {
    let mut lens: Vec<f64> = rows.iter().map(|r| r.band.mean_len).collect();
    lens.sort_by(f64::total_cmp);
    lens.dedup();
    let mut points = Vec::new();
    let only_one = rows.iter().all(|row| row.pages == 1.0);
    let ranges = curve.ranges(cache).into_iter();
    for pages in ranges.filter(|pages| *pages == 1 || !only_one) {
        for len in &lens {
            if let Some(point) = curve.at(cache, pages as f64, *len)
                && let Some(half) = point.half_width_ns()
            {
                points.push(Measured::new(pages as f64, *len, point.ns, half));
            }
        }
    }
    points
}

fn model(kind: CallbackKind, side: &Side, points: &[Measured]) -> Option<CostModel> {
    let made = |one_gfn, fixed, per_gfn, per_spte, points: usize| CostModel {
        kind,
        side: side.clone(),
        one_gfn,
        fixed,
        per_gfn,
        per_spte,
        points: u32::try_from(points).unwrap_or(u32::MAX),
    };
    let terms: Vec<_> = points
        .iter()
        .map(|p| ([1.0, p.pages, p.pages * p.len], p.ns, p.se))
        .collect();
    if points.len() >= 3 + SPARE
        && let Some(fit) = fit_linear(&terms)
    {
        let part = |weights| Fitted::of(&fit, weights);
        let (fixed, per_gfn) = (part([1.0, 0.0, 0.0]), part([0.0, 1.0, 0.0]));
        let one_gfn = part([1.0, 1.0, 0.0]);
        let per_spte = part([0.0, 0.0, 1.0]);
        let (fixed, per_gfn) = (Observed::Value(fixed), Observed::Value(per_gfn));
        return Some(made(one_gfn, fixed, per_gfn, per_spte, points.len()));
    }
    let terms: Vec<_> = points
        .iter()
        .filter(|p| p.pages == 1.0)
        .map(|p| ([1.0, p.len], p.ns, p.se))
        .collect();
    if terms.len() < 2 + SPARE {
        return None;
    }
    let fit = fit_linear(&terms)?;
    let apart = || {
        Observed::missing("its callbacks were over one gfn only, which does not tell the two apart")
    };
    let (one_gfn, per_spte) = (Fitted::of(&fit, [1.0, 0.0]), Fitted::of(&fit, [0.0, 1.0]));
    Some(made(one_gfn, apart(), apart(), per_spte, terms.len()))
}

/// The title of the table of models.
pub const TITLE: &str = "What one more SPTE on a chain costs, and what a callback costs without";

/// A side under its name, marked as in the other tables.
fn named(side: &Side, marks: Marks<'_>) -> String {
    match side {
        Side::Real => side.to_string(),
        Side::Synthetic(scheme, cache) => {
            format!("{}, {cache}", marks.named(scheme))
        }
    }
}

fn of_fewer(points: u32, most: u32) -> String {
    if points == most {
        String::new()
    } else {
        format!(" ({points} points)")
    }
}

/// The models as a table.
pub(super) fn table(models: &[CostModel], marks: Marks<'_>) -> Table {
    let mut columns = vec![
        Column::text("callback"),
        Column::text("side"),
        Column::number("per SPTE (ns)"),
        Column::number("one gfn (ns)"),
    ];
    let most = models.iter().map(|model| model.points).max().unwrap_or(0);
    let are_told_apart = models.iter().any(|model| model.fixed.value().is_some());
    if are_told_apart {
        columns.extend(["fixed (ns)", "per gfn (ns)"].map(Column::number));
    }
    let mut table = Table::new(TITLE, columns);
    let mut reasons: Vec<String> = Vec::new();
    for model in models {
        let part = |part: &Observed<Fitted>| match part {
            Observed::Value(part) => part.to_string(),
            Observed::Missing(_) => "-".to_owned(),
        };
        if let Observed::Missing(reason) = &model.fixed {
            let note = format!("fixed and per gfn of {}: {reason}.", model.side);
            if !reasons.contains(&note) && model.side == Side::Real {
                reasons.push(note);
            }
        }
        let mut row = vec![
            model.kind.to_string(),
            named(&model.side, marks) + &of_fewer(model.points, most),
            model.per_spte.to_string(),
            model.one_gfn.to_string(),
        ];
        if are_told_apart {
            row.extend([part(&model.fixed), part(&model.per_gfn)]);
        }
        table.row(row);
    }
    if !table.is_empty() {
        table.note(format!(
            "A linear model of the cost of a callback: fixed, plus per gfn times the pages of its \
             range, plus per SPTE times the SPTEs on their chains; one gfn is fixed and per gfn \
             together. Fitted to ranges and chain lengths of the real side, {most} points or as many \
             as stand in brackets, weighted by precision, ± half of the 95 % interval; where the costs are \
             not linear the interval is wider for it, and a negative cost says that they are not: \
             read the single rows then.",
        ));
        reasons.into_iter().for_each(|reason| table.note(reason));
    }
    table
}
