//! The figures of one profile: means, quantiles and rates with their errors.

use std::collections::{BTreeMap, BTreeSet};

use super::{Figure, Measure};
use crate::{
    Observed, ResultFile,
    compare::{
        NotComparable,
        real::{Band, Group, RealCost, callbacks_in, cost_in},
    },
    latency::Latency,
    schema::Record,
    stats::{LEAST_SAMPLES, SampledMean, Z95, sampled_mean_ns, t95},
};

/// Which means of two profiles are held against each other.
pub(super) enum Means {
    /// The best that both have: of every call, or at rate zero.
    Best,
    /// Those of the samples with these periods, ns.
    Plain(BTreeSet<u64>),
}

/// The means that two profiles both have.
///
/// # Errors
/// If one was timed and the other sampled, or they were sampled at different rates.
pub(super) fn means(
    (base, old): (&ResultFile, &RealCost),
    (new, now): (&ResultFile, &RealCost),
    group: Group,
    band: &Band,
    measure: Measure,
) -> Result<Means, NotComparable> {
    let apart = |there, here| {
        let base = base.path.clone();
        Err(NotComparable::Mechanism { base, there, here })
    };
    if instrument(old) != instrument(now) {
        return apart(old.mechanism.clone(), now.mechanism.clone());
    }
    let at_zero = |cost: &RealCost| match measure {
        Measure::RmapPart => cost.rate_zero.1.is_some(),
        _ => cost.rate_zero.0.is_some(),
    };
    let periods = [base, new].map(|file| periods(file, group, band));
    let is_sampled = periods.iter().any(|periods| !periods.is_empty());
    if !is_sampled || (periods[0] == periods[1] && at_zero(old) && at_zero(now)) {
        return Ok(Means::Best);
    }
    let common: BTreeSet<u64> = periods[0].intersection(&periods[1]).copied().collect();
    if common.is_empty() {
        let [there, here] = periods.map(|periods| {
            let hz = |period: &u64| format!("{:.0}", 1e9 / *period as f64);
            let rates: Vec<String> = periods.iter().rev().map(hz).collect();
            format!("{} at {} Hz", instrument(old), rates.join(" and "))
        });
        return apart(there, here);
    }
    Ok(Means::Plain(common))
}

/// What observed a cost, whatever was made of it then.
fn instrument(cost: &RealCost) -> &str {
    let name = cost.mechanism.split(", at rate zero").next();
    name.unwrap_or_default()
}

/// Periods of the samples that a profile has of a group's callbacks, where it sampled.
fn periods(file: &ResultFile, group: Group, band: &Band) -> BTreeSet<u64> {
    let records = callbacks_in(file, group, band, None);
    let timed_or = records.map(|record| match (&record.latency, &record.samples) {
        (Observed::Missing(_), Observed::Value(samples)) if record.callbacks > 0 => {
            Some(samples.period_ns)
        }
        _ => None,
    });
    timed_or.flatten().collect()
}

/// The mean of the means at some rates, each as heavy as the others: profiles that spent
/// their time on them differently still compare.
fn plain(
    file: &ResultFile,
    group: Group,
    band: &Band,
    measure: Measure,
    run: Option<u32>,
    of: &BTreeSet<u64>,
) -> Option<(SampledMean, u64)> {
    let mut sums: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for record in callbacks_in(file, group, band, run) {
        if let Observed::Value(samples) = &record.samples
            && of.contains(&samples.period_ns)
        {
            let found = match measure {
                Measure::RmapPart => samples.walk(),
                _ => samples.total(),
            };
            let sum = sums.entry(samples.period_ns).or_default();
            sum.0 = sum.0.saturating_add(found);
            sum.1 = sum.1.saturating_add(record.callbacks);
        }
    }
    let samples = sums.values().map(|(samples, _)| *samples);
    let samples = samples.fold(0, u64::saturating_add);
    let means = sums
        .iter()
        .filter_map(|(period, (samples, callbacks))| sampled_mean_ns(*samples, *period, *callbacks))
        .collect::<Vec<_>>();
    if means.is_empty() {
        return None;
    }
    let rates = means.len() as f64;
    let mean_ns = means.iter().map(|mean| mean.mean_ns).sum::<f64>() / rates;
    let square = |mean: &SampledMean| mean.half_ns().powi(2);
    let half_ns = means.iter().map(square).sum::<f64>().sqrt() / rates;
    let mean = SampledMean {
        mean_ns,
        low_ns: mean_ns - half_ns,
        high_ns: mean_ns + half_ns,
    };
    Some((mean, samples))
}

/// A mean with the wider of the errors within and between runs.
pub(super) fn mean(
    file: &ResultFile,
    group: Group,
    band: &Band,
    measure: Measure,
    how: &Means,
) -> Option<Figure> {
    let pick = |run| -> Option<(SampledMean, u64)> {
        if let Means::Plain(periods) = how {
            return plain(file, group, band, measure, run, periods);
        }
        let cost = cost_in(file, group, band, run);
        let mean = match measure {
            Measure::RmapPart => cost.walk,
            _ => cost.total,
        };
        Some((mean?, cost.samples.unwrap_or(cost.callbacks)))
    };
    let (all, n) = pick(None)?;
    if matches!(how, Means::Plain(_)) && n < LEAST_SAMPLES {
        return None;
    }
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
    Some(t95(runs.len() - 1) * (variance / n).sqrt())
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
    let half = Z95 * (share * (1.0 - share) / n.max(1) as f64).sqrt();
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
