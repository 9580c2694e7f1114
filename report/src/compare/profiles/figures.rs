//! The figures of one profile: means, quantiles and rates with their errors.

use super::{Figure, Measure};
use crate::{
    Observed, ResultFile,
    compare::real::{Band, Group, callbacks_in, cost_in},
    latency::Latency,
    schema::Record,
    stats::SampledMean,
};

/// A mean with the wider of the errors within and between runs.
pub(super) fn mean(
    file: &ResultFile,
    group: Group,
    band: &Band,
    measure: Measure,
) -> Option<Figure> {
    let pick = |run| -> Option<(SampledMean, u64)> {
        let cost = cost_in(file, group, band, run);
        let mean = match measure {
            Measure::RmapPart => cost.walk,
            _ => cost.total,
        };
        Some((mean?, cost.samples.unwrap_or(cost.callbacks)))
    };
    let (all, n) = pick(None)?;
    let within = all.half_ns();
    let runs: Vec<f64> = runs(file)
        .filter_map(|(run, _)| Some(pick(Some(run))?.0.mean_ns))
        .collect();
    let half = within.max(between(&runs).unwrap_or(0.0));
    Some(Figure {
        value: all.mean_ns,
        ci95: Some((all.mean_ns - half, all.mean_ns + half)),
        n,
    })
}

/// Half of the 95 % interval of a mean over runs, from how they differ. `None` with
/// fewer than three, which say nothing about it.
fn between(runs: &[f64]) -> Option<f64> {
    if runs.len() < 3 {
        return None;
    }
    let n = runs.len() as f64;
    let mean = runs.iter().sum::<f64>() / n;
    let variance = runs.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some(1.96 * (variance / n).sqrt())
}

pub(super) fn quantile(
    file: &ResultFile,
    group: Group,
    band: &Band,
    measure: Measure,
) -> Option<Figure> {
    let mut all: Option<Latency> = None;
    for record in callbacks_in(file, group, band, None) {
        if let Observed::Value(latency) = &record.latency {
            all.get_or_insert_default().merge(latency);
        }
    }
    let latency = all?;
    let n = latency.count();
    let share = if measure == Measure::P50 { 0.5 } else { 0.99 };
    let half = 1.96 * (share * (1.0 - share) / n.max(1) as f64).sqrt();
    // The upper rank is missing where there are too few calls above the quantile.
    let ends = (share - half > 0.0 && share + half < 1.0).then(|| {
        let at = |q| latency.quantile_ns(q) as f64;
        (at(share - half), at(share + half))
    });
    Some(Figure {
        value: latency.quantile_ns(share) as f64,
        ci95: ends,
        n,
    })
}

/// The runs of a profile and their length, seconds.
fn runs(file: &ResultFile) -> impl Iterator<Item = (u32, f64)> {
    file.records.iter().filter_map(|record| match record {
        Record::Run(run) if run.duration_s > 0.0 => Some((run.run, run.duration_s)),
        _ => None,
    })
}

/// Callbacks per second of every run that has any.
pub(super) fn rates(file: &ResultFile, group: Group, band: &Band) -> Vec<f64> {
    let per_s = |(run, seconds): (u32, f64)| {
        let records = callbacks_in(file, group, band, Some(run));
        let callbacks = records.fold(0_u64, |sum, r| sum.saturating_add(r.callbacks));
        (callbacks > 0).then_some(callbacks as f64 / seconds)
    };
    runs(file).filter_map(per_s).collect()
}

pub(super) fn rate(rates: &[f64]) -> Option<Figure> {
    Some(Figure {
        value: crate::stats::median(rates)?,
        ci95: crate::stats::median_ci95(rates),
        n: rates.len() as u64,
    })
}
