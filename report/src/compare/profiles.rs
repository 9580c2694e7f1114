//! One profile beside another: two kernels, two hosts, before and after a patch.
//!
//! Rows are callbacks of one kind, over one page or several, at one chain length.
//!
//! - **Means** are held against each other by a two-sided z test. Their error is that
//!   of the timer samples (Poisson) or of the timed calls; where the runs of one file
//!   differ by more than that, it is the error between its runs. One run shows no
//!   difference between runs: record several, and merge them with `--keep-runs`. Sampled
//!   means are those at rate zero where both profiles have samples enough for them at the
//!   same rates, and elsewhere the plain means at the rates both used.
//! - **Quantiles** differ where their 95 % intervals from order statistics do not meet.
//! - **Rates** are counted and not sampled: only a difference between runs tells
//!   chance from change (Mann-Whitney), which needs four on each side.
//!
//! A change is printed only where it is significant; `~` stands elsewhere.

mod figures;

use serde::Serialize;

use self::figures::{Means, mean, means, quantile, rate, rates};
use super::{
    NotComparable,
    real::{Band, Group, RealCost, common_bands, cost_in},
};
use crate::{
    Observed, ResultFile,
    schema::{CallbackKind, ResultKind},
    stats::{LEAST_SAMPLES, SIGNIFICANT, Z95, both_tails, mann_whitney_p},
    table::{Column, Table, count, figure, signed_percent, with_interval},
};

/// What is held against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Mean time of a callback.
    Callback,
    /// Mean time of its rmap part.
    RmapPart,
    /// Median time of a callback.
    P50,
    /// Its 99th percentile.
    P99,
    /// Callbacks per second.
    Rate,
}

impl Measure {
    const ALL: [Self; 5] = [
        Self::Callback,
        Self::RmapPart,
        Self::P50,
        Self::P99,
        Self::Rate,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Callback => "mean of a callback (ns)",
            Self::RmapPart => "rmap part of a callback (ns)",
            Self::P50 => "median of a callback (ns)",
            Self::P99 => "p99 of a callback (ns)",
            Self::Rate => "callbacks per second",
        }
    }

    const fn test(self) -> &'static str {
        match self {
            Self::Callback | Self::RmapPart => {
                "± half of the 95 % interval, from the samples or calls, or from the runs where \
                 they differ by more; p of a two-sided z test; n: samples or calls"
            }
            Self::P50 | Self::P99 => {
                "with 95 % intervals from order statistics; a change is printed where they do not \
                 meet; n: calls"
            }
            Self::Rate => {
                "median over runs; p of a Mann-Whitney test between runs, which can be significant \
                 from four runs on each side; n: runs"
            }
        }
    }
}

/// A figure of one profile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The figure, in the measure's unit.
    pub value: f64,
    /// Its 95 % interval, where there is one.
    pub ci95: Option<(f64, f64)>,
    /// What it is made of: samples, calls or runs.
    pub n: u64,
}

/// One figure in both profiles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileChange {
    /// Which callback.
    pub kind: CallbackKind,
    /// Whether the ranges are longer than one page.
    pub several_pages: bool,
    /// The chain lengths.
    pub band: Band,
    /// What is compared.
    pub measure: Measure,
    /// The older figure.
    pub base: Figure,
    /// The newer figure.
    pub new: Figure,
    /// Probability of such a difference by chance, where a test gives one.
    pub p: Option<f64>,
    /// Whether they differ by more than chance.
    pub significant: bool,
    /// Where the means are plain ones, the sampling rates they are of; too few samples
    /// tell those at rate zero.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plain_at_hz: Vec<u32>,
}

/// Two profiles.
#[derive(Clone, Debug, Serialize)]
pub struct ProfileComparison {
    /// What differs between the hosts: what, there, here.
    pub hosts: Vec<(String, String, String)>,
    /// The figures both have.
    pub changes: Vec<ProfileChange>,
    /// Groups and chain lengths that only one has enough callbacks of.
    pub only_one: usize,
}

/// Compares a profile with an older one.
///
/// # Errors
/// [`NotComparable`] when a file is no profile, the two were measured in different
/// ways, or have no callback at a common chain length.
pub fn compare_profiles(
    base: &ResultFile,
    new: &ResultFile,
) -> Result<ProfileComparison, NotComparable> {
    for file in [base, new] {
        if file.context.kind != ResultKind::Profile {
            let (path, found) = (file.path.clone(), file.context.kind);
            return Err(NotComparable::Kind {
                path,
                found,
                wanted: ResultKind::Profile,
            });
        }
    }
    let (mut changes, mut only_one) = (Vec::new(), 0);
    let bands = common_bands(base, new);
    for (group, band) in &bands {
        let [old, now] = [base, new].map(|file| cost_in(file, *group, band, None));
        if !old.is_supported() || !now.is_supported() {
            only_one += 1;
            continue;
        }
        let of = |measure| change((base, &old), (new, &now), *group, band, measure);
        for measure in Measure::ALL {
            changes.extend(of(measure)?);
        }
    }
    if changes.is_empty()
        && let Some(too_few) = [base, new].into_iter().find_map(|f| too_few(f, &bands))
    {
        return Err(too_few);
    }
    if changes.is_empty() {
        return Err(NotComparable::NothingInCommon {
            base: base.path.clone(),
            new: new.path.clone(),
            command: base.context.command.join(" "),
        });
    }
    Ok(ProfileComparison {
        hosts: differences(base, new),
        changes,
        only_one,
    })
}

/// What a profile has too few samples of, if no band has enough.
fn too_few(file: &ResultFile, bands: &[(Group, Band)]) -> Option<NotComparable> {
    let costs = bands
        .iter()
        .map(|(group, band)| (group, band, cost_in(file, *group, band, None)));
    let costs: Vec<_> = costs.collect();
    let is_enough = |cost: &RealCost| cost.is_supported() || cost.samples.is_none();
    let has_any = |cost: &RealCost| cost.callbacks > 0;
    if costs
        .iter()
        .any(|(_, _, cost)| has_any(cost) && is_enough(cost))
    {
        return None;
    }
    let (group, band, cost) = costs
        .into_iter()
        .max_by_key(|(_, _, cost)| (cost.samples, cost.callbacks))?;
    Some(NotComparable::TooFew {
        path: file.path.clone(),
        of: format!("{} at {band} SPTEs, {} callbacks", group.0, cost.callbacks),
        samples: cost.samples.unwrap_or(0),
        least: LEAST_SAMPLES,
    })
}

fn change(
    (base, base_cost): (&ResultFile, &RealCost),
    (new, new_cost): (&ResultFile, &RealCost),
    group: Group,
    band: &Band,
    measure: Measure,
) -> Result<Option<ProfileChange>, NotComparable> {
    let mut plain_at_hz = Vec::new();
    let found = match measure {
        Measure::Callback | Measure::RmapPart => {
            let how = means((base, base_cost), (new, new_cost), group, band, measure)?;
            if let Means::Plain(periods) = &how {
                let hz = |period: &u64| (1e9 / *period as f64).round() as u32;
                plain_at_hz = periods.iter().rev().map(hz).collect();
            }
            let of = |file| mean(file, group, band, measure, &how);
            of(base).zip(of(new)).map(by_z_test)
        }
        Measure::P50 | Measure::P99 => {
            let of = |file| quantile(file, group, band, measure);
            of(base).zip(of(new)).and_then(by_intervals)
        }
        Measure::Rate => by_rank([base, new].map(|file| rates(file, group, band))),
    };
    Ok(found.map(|(base, new, p, significant)| ProfileChange {
        kind: group.0,
        several_pages: group.1,
        band: band.clone(),
        measure,
        base,
        new,
        p,
        significant,
        plain_at_hz,
    }))
}

/// Two figures, the probability of their difference by chance, and whether it is significant.
type Tested = (Figure, Figure, Option<f64>, bool);

fn by_z_test((old, now): (Figure, Figure)) -> Tested {
    let half = |f: &Figure| f.ci95.map_or(0.0, |(low, high)| (high - low) / 2.0);
    let se = half(&old).hypot(half(&now)) / Z95;
    let p = both_tails((now.value - old.value).abs() / se.max(f64::MIN_POSITIVE));
    (old, now, Some(p), p <= SIGNIFICANT)
}

fn by_intervals((old, now): (Figure, Figure)) -> Option<Tested> {
    let ((a, b), (c, d)) = (old.ci95?, now.ci95?);
    Some((old, now, None, b < c || d < a))
}

fn by_rank([before, after]: [Vec<f64>; 2]) -> Option<Tested> {
    let p = mann_whitney_p(&before, &after)?;
    Some((rate(&before)?, rate(&after)?, Some(p), p <= SIGNIFICANT))
}

fn differences(base: &ResultFile, new: &ResultFile) -> Vec<(String, String, String)> {
    let (there, here) = (&base.context.host, &new.context.host);
    let told = |o: &Observed<String>| o.value().cloned().unwrap_or_else(|| "unknown".into());
    let aging = |host: &crate::schema::Host| match host.kvm.lockless_aging.value() {
        Some(lockless) => lockless.to_string(),
        None => "unknown".to_owned(),
    };
    [
        (
            "kernel",
            there.kernel_release.clone(),
            here.kernel_release.clone(),
        ),
        (
            "kernel build",
            there.kernel_version.clone(),
            here.kernel_version.clone(),
        ),
        ("lockless aging", aging(there), aging(here)),
        ("CPU", told(&there.cpu_model), told(&here.cpu_model)),
        (
            "CPUs",
            there.cpus_online.to_string(),
            here.cpus_online.to_string(),
        ),
        ("KVM", told(&there.kvm.backend), told(&here.kvm.backend)),
    ]
    .into_iter()
    .filter(|(_, there, here)| there != here)
    .map(|(what, there, here)| (what.to_owned(), there, here))
    .collect()
}

impl ProfileComparison {
    /// One table per kind, range and measure.
    #[must_use]
    pub fn tables(&self) -> Vec<Table> {
        let key = |c: &ProfileChange| (c.kind, c.several_pages, c.measure);
        let mut tables: Vec<Table> = Vec::new();
        let mut done: Vec<(CallbackKind, bool, Measure)> = Vec::new();
        for first in &self.changes {
            if done.contains(&key(first)) {
                continue;
            }
            done.push(key(first));
            let rows = self.changes.iter().filter(|c| key(c) == key(first));
            tables.push(table(first, rows));
        }
        if let Some(last) = tables.last_mut() {
            for (what, there, here) in &self.hosts {
                last.note(format!("{what}: baseline {there}, now {here}."));
            }
            if self.only_one > 0 {
                last.note(format!(
                    "{} chain lengths are left out: one side has too few callbacks or samples at \
                     them.",
                    self.only_one
                ));
            }
        }
        tables
    }
}

fn table<'a>(first: &ProfileChange, rows: impl Iterator<Item = &'a ProfileChange>) -> Table {
    let range = if first.several_pages {
        "several gfns"
    } else {
        "one gfn"
    };
    let title = format!("{} over {range}: {}", first.kind, first.measure.name());
    let columns = vec![
        Column::text("SPTEs"),
        Column::number("baseline"),
        Column::number("now"),
        Column::number("change"),
        Column::number("p"),
        Column::number("n"),
    ];
    let mut table = Table::new(title, columns);
    let shown = |f: &Figure| with_interval(f.value, f.ci95);
    let mut plain_at_hz: Vec<u32> = Vec::new();
    for row in rows {
        plain_at_hz.extend(&row.plain_at_hz);
        let mark = if row.plain_at_hz.is_empty() { "" } else { " *" };
        let change = row.new.value - row.base.value;
        let percent = signed_percent(change, row.base.value);
        table.row(vec![
            format!("{}{mark}", row.band),
            shown(&row.base),
            shown(&row.new),
            if row.significant {
                let sign = if change < 0.0 { "-" } else { "+" };
                format!("{sign}{} ({percent})", figure(change.abs()))
            } else {
                "~".to_owned()
            },
            row.p.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}")),
            format!("{}+{}", count(row.base.n), count(row.new.n)),
        ]);
    }
    table.note(format!(
        "{}; ~: no difference at p ≤ 0.05.",
        first.measure.test()
    ));
    plain_at_hz.sort_unstable();
    plain_at_hz.dedup();
    if !plain_at_hz.is_empty() {
        let rates: Vec<String> = plain_at_hz.iter().map(u32::to_string).collect();
        table.note(format!(
            "*: plain means, of both at {} Hz; sampling makes them higher than they are without. \
             For the mean at rate zero one of the two has too few samples, or was sampled at \
             other rates: record longer, in the same way.",
            rates.join(" and ")
        ));
    }
    table
}
