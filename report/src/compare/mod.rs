//! Synthetic beside real.
//!
//! The two sides meet in a row of one callback kind, range, chain length and scheme.
//! The synthetic side times one callback (`synthetic.rs`) in up to three states of
//! the caches; the real side (`real.rs`) is the mean cost of a
//! callback of the kernel and the part of it that is spent in the rmap walk.
//! Only the walk has a synthetic counterpart: the rest of a real callback is
//! the notifier list, SRCU and the memslot lookup, which no scheme changes.
//! A figure that one side does not have is a dash, never an estimate.

mod gap;
mod model;
mod pair;
mod profiles;
mod real;
mod records;
mod runs;
mod synthetic;
mod tables;

pub use gap::{Part, Saving};
pub use model::{CostModel, Fitted, Side, TITLE as MODELS};
pub use pair::{Choice, NoScheme, Pair, PairError, read_two};
pub use profiles::{Figure, Measure, ProfileChange, ProfileComparison, compare_profiles};
pub use real::costs as real_costs;
pub use real::{Band, RealCost};
pub use records::cost_records;
pub use runs::{Change, NotComparable, RunComparison, check_host, compare_runs};
pub use synthetic::{Curve, Point};

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    ResultFile,
    schema::{Cache, CallbackKind, Host, Op, Record, ResultKind},
    summary,
    table::count,
};

/// Shares of young SPTEs on the synthetic side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct YoungShares {
    /// For callbacks that clear.
    pub clear: f64,
    /// For callbacks that only look.
    pub test: f64,
}

impl YoungShares {
    /// What they are of, and what that means for a callback that only looks.
    pub(crate) fn note(self) -> String {
        format!(
            "Of the synthetic SPTEs {:.0} % are young, {:.0} % for test_young, which ends at the \
             first young one. A share that was not measured is mixed from all young and all old.",
            self.clear * 100.0,
            self.test * 100.0
        )
    }

    /// One share for all callbacks.
    pub const fn all(share: f64) -> Self {
        Self {
            clear: share,
            test: share,
        }
    }

    /// What the recorded guest's pages were: young while it ran; if it was held
    /// while they were reclaimed, each was asked for twice, young and then old.
    pub fn of_guest(profile: &ResultFile) -> Self {
        let mut guests = profile.records.iter().filter_map(|r| match r {
            Record::Run(run) => run.guest.as_ref().filter(|g| g.driver == "reclaim"),
            _ => None,
        });
        let held = guests.next().is_some_and(|g| g.held) && guests.all(|g| g.held);
        Self {
            clear: if held { 0.5 } else { 1.0 },
            test: 1.0,
        }
    }
}

/// Why two files cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A file is of the other kind than asked for.
    #[error("{path} is a {found} result, a {wanted} result is needed here")]
    Kind {
        /// The file.
        path: std::path::PathBuf,
        /// What it is.
        found: ResultKind,
        /// What was needed.
        wanted: ResultKind,
    },
    /// The two sides have nothing in common.
    #[error(
        "{bench} and {profile} have no chain length in common: {detail}; \
         record longer or measure those lengths"
    )]
    NoOverlap {
        /// The synthetic side.
        bench: std::path::PathBuf,
        /// The real side.
        profile: std::path::PathBuf,
        /// What each has.
        detail: String,
    },
}

/// One callback kind, range, chain length and scheme.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which callback.
    pub kind: CallbackKind,
    /// Pages of the range; the mean where they differ.
    pub pages: f64,
    /// The chain lengths the row is about.
    pub band: Band,
    /// The scheme of the synthetic side.
    pub scheme: String,
    /// Synthetic cost of a callback, by the state of the caches.
    pub synthetic: BTreeMap<Cache, Point>,
    /// The real side.
    pub real: RealCost,
}

impl Row {
    /// The synthetic cost in a state of the caches.
    pub fn at(&self, cache: Cache) -> Option<&Point> {
        self.synthetic.get(&cache)
    }

    /// Whether two rows are of the same real callbacks.
    fn is_beside(&self, other: &Self) -> bool {
        self.kind == other.kind && self.pages == other.pages && self.band == other.band
    }

    /// Real walk cost over the synthetic one, with its interval.
    pub fn ratio(&self, cache: Cache) -> Option<(f64, (f64, f64))> {
        let point = self.at(cache)?;
        let walk = self.real.walk?;
        if point.ns <= 0.0 || walk.mean_ns <= 0.0 {
            return None;
        }
        let ratio = walk.mean_ns / point.ns;
        // Relative half widths of independent estimates add in quadrature.
        let real = walk.half_ns() / walk.mean_ns;
        let synthetic = point.half_width_ns().unwrap_or(0.0) / point.ns;
        let relative = real.hypot(synthetic);
        Some((ratio, (ratio * (1.0 - relative), ratio * (1.0 + relative))))
    }
}

/// The comparison of a bench result and a profile.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The synthetic side's host.
    pub bench_host: Host,
    /// The real side's host.
    pub profile_host: Host,
    /// Shares of young SPTEs on the synthetic side.
    pub young: YoungShares,
    /// The scheme the recorded kernel itself uses, if known.
    pub kernel_scheme: Option<&'static str>,
    /// Schemes that are cheap because they pass over chains they should look at.
    pub pass_over_chains: Vec<String>,
    /// Schemes whose aging takes no mmu_lock.
    pub age_without_mmu_lock: Vec<String>,
    /// Mean time a recorded callback waited for mmu_lock, nanoseconds, all kinds together;
    /// none where that was not observed.
    pub lock_wait_ns: Option<f64>,
    /// The rows, by kind, chain length, scheme.
    pub rows: Vec<Row>,
    /// Sampling rate of the real side, if sampled.
    pub rate_hz: Option<f64>,
    /// Real callbacks at chain lengths too rare for a mean.
    pub callbacks_left_out: u64,
    /// Real callbacks over ranges or chains that no synthetic cell covers.
    pub callbacks_alone: u64,
    /// A cost model of each side.
    pub models: Vec<CostModel>,
    /// Where the time of a real callback goes.
    pub parts: Vec<Part>,
    /// What each scheme could save or add.
    pub changes: Vec<Saving>,
    /// How fast the cores were while each side was measured, as far as it was watched.
    pub cores: Vec<String>,
    /// What measured each side, when, and in which file.
    pub sources: Vec<String>,
}

/// The scheme a kernel's own aging corresponds to.
pub fn kernel_scheme(host: &Host) -> Option<&'static str> {
    match host.kvm.lockless_aging.value() {
        Some(true) => Some("bitlock"),
        Some(false) => Some("rwlock-write"),
        None => None,
    }
}

/// What the looks at the cores said on both sides.
fn cores(bench: &ResultFile, profile: &ResultFile) -> Vec<String> {
    [("synthetic", bench), ("real", profile)]
        .into_iter()
        .filter_map(|(side, file)| {
            let looks = summary::cores(&file.end.disturbance)?;
            Some(format!("cores of the {side} side: {looks}."))
        })
        .chain(disturbed(bench))
        .collect()
}

/// How many of the cells that are compared, or could be, other work had disturbed.
fn disturbed(bench: &ResultFile) -> Option<String> {
    let (mut all, mut spoiled) = (0_u64, 0_u64);
    for cell in synthetic::cells(bench) {
        all += 1;
        spoiled += u64::from(cell.spoiled.is_some());
    }
    (spoiled > 0).then(|| {
        format!(
            "{} of the {} synthetic cells of walks, used here or not, were disturbed in more than \
             a quarter of their rounds and are not left out; the bench result's own tables mark \
             them with an exclamation mark.",
            count(spoiled),
            count(all)
        )
    })
}

/// Where each side comes from.
fn sources(bench: &ResultFile, profile: &ResultFile) -> Vec<String> {
    [("synthetic", bench), ("real", profile)]
        .into_iter()
        .map(|(side, file)| {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            let revision = file.context.tool.git_revision.value();
            format!(
                "{side} side: {name}, {}, by rmapscope {} ({}): {}.",
                file.context.created_utc,
                file.context.tool.version,
                revision.map_or("unknown revision", String::as_str),
                file.context.command.join(" ")
            )
        })
        .collect()
}

/// Compares a bench result with a profile.
///
/// `young` chooses the synthetic cells, because the real side does not always
/// know its own; `None` takes [`YoungShares::of_guest`].
///
/// # Errors
/// [`CompareError::Kind`] when a file is of the wrong kind,
/// [`CompareError::NoOverlap`] when there would be no row.
pub fn compare(
    bench: &ResultFile,
    profile: &ResultFile,
    young: Option<YoungShares>,
) -> Result<Comparison, CompareError> {
    require(bench, ResultKind::Bench)?;
    require(profile, ResultKind::Profile)?;
    let young = young.unwrap_or_else(|| YoungShares::of_guest(profile));
    let mut curves = synthetic::curves(bench, young.clear, Op::Age);
    curves.extend(synthetic::curves(bench, young.test, Op::TestAge));
    let costs = real::costs(profile);
    let mut rows = Vec::new();
    let (mut callbacks_left_out, mut callbacks_alone) = (0_u64, 0_u64);
    for (kind, band, real) in &costs {
        if !real.is_supported() {
            callbacks_left_out = callbacks_left_out.saturating_add(real.callbacks);
            continue;
        }
        let before = rows.len();
        for curve in curves.iter().filter(|c| c.op == synthetic::op_of(*kind)) {
            let pages = real.mean_pages();
            let of_state = |cache| Some((cache, curve.at(cache, pages, band.mean_len)?));
            let synthetic: BTreeMap<_, _> = Cache::ALL.into_iter().filter_map(of_state).collect();
            if synthetic.is_empty() {
                continue;
            }
            rows.push(Row {
                kind: *kind,
                pages,
                band: band.clone(),
                scheme: curve.scheme.clone(),
                synthetic,
                real: real.clone(),
            });
        }
        if rows.len() == before {
            callbacks_alone = callbacks_alone.saturating_add(real.callbacks);
        }
    }
    if rows.is_empty() {
        let detail = format!(
            "the bench has {} walk curves with that share of young SPTEs, the profile has {} \
             chain lengths",
            curves.len(),
            costs.len()
        );
        let (bench, profile) = (bench.path.clone(), profile.path.clone());
        return Err(CompareError::NoOverlap {
            bench,
            profile,
            detail,
        });
    }
    Ok(Comparison {
        bench_host: bench.context.host.clone(),
        profile_host: profile.context.host.clone(),
        young,
        kernel_scheme: kernel_scheme(&profile.context.host),
        pass_over_chains: bench.context.pass_over_chains.clone(),
        age_without_mmu_lock: bench.context.age_without_mmu_lock.clone(),
        lock_wait_ns: gap::lock_wait_ns(profile),
        models: model::fit(&rows, &curves),
        parts: gap::parts(profile, &rows),
        changes: gap::changes(&rows, kernel_scheme(&profile.context.host)),
        cores: cores(bench, profile),
        sources: sources(bench, profile),
        rows,
        rate_hz: real::rate_hz(profile),
        callbacks_left_out,
        callbacks_alone,
    })
}

/// The synthetic costs of callbacks of one kind against chain length, a curve
/// per scheme.
pub fn curves(bench: &ResultFile, kind: CallbackKind, young: YoungShares) -> Vec<Curve> {
    let share = if kind.clears() {
        young.clear
    } else {
        young.test
    };
    synthetic::curves(bench, share, synthetic::op_of(kind))
}

fn require(file: &ResultFile, wanted: ResultKind) -> Result<(), CompareError> {
    let found = file.context.kind;
    if found == wanted {
        return Ok(());
    }
    Err(CompareError::Kind {
        path: file.path.clone(),
        found,
        wanted,
    })
}

impl Comparison {
    /// Keeps only the named schemes; all if none is named.
    ///
    /// # Errors
    /// Names one that has no row.
    pub fn keep_schemes(&mut self, names: &[String]) -> Result<(), NoScheme> {
        NoScheme::check(names, self.rows.iter().map(|row| &row.scheme))?;
        if names.is_empty() {
            return Ok(());
        }
        self.rows.retain(|row| names.contains(&row.scheme));
        self.models.retain(|model| match &model.side {
            Side::Real => true,
            Side::Synthetic(scheme, _) => names.contains(scheme),
        });
        self.changes.retain(|change| names.contains(&change.scheme));
        Ok(())
    }
}
