//! Synthetic beside real.
//!
//! The two sides meet in a row of one callback kind, chain length and scheme.
//! The synthetic side times one callback over one gfn (`synthetic.rs`), with
//! hot and with cold caches; the real side (`real.rs`) is the mean cost of a
//! callback of the kernel and the part of it that is spent in the rmap walk.
//! Only the walk has a synthetic counterpart: the rest of a real callback is
//! the notifier list, SRCU and the memslot lookup, which no scheme changes.
//! A figure that one side does not have is a dash, never an estimate.

mod gap;
mod marginal;
mod real;
mod records;
mod runs;
mod synthetic;

pub use gap::{Part, Saving};
pub use marginal::{Marginal, Side};
pub use real::costs as real_costs;
pub use real::{Band, RealCost};
pub use records::cost_records;
pub use runs::{Change, NotComparable, RunComparison, check_host, compare_runs};
pub use synthetic::{Curve, Point};

use serde::Serialize;

use crate::{
    ResultFile,
    schema::{Cache, CallbackKind, Host, Op, Record, ResultKind},
    stats::SampledMean,
    table::{Column, Table, count, figure, with_interval},
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

/// One callback kind, chain length and scheme.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which callback.
    pub kind: CallbackKind,
    /// The chain lengths the row is about.
    pub band: Band,
    /// The scheme of the synthetic side.
    pub scheme: String,
    /// Synthetic cost of a callback with hot caches.
    pub hot: Option<Point>,
    /// Synthetic cost of a callback with cold caches.
    pub cold: Option<Point>,
    /// The real side.
    pub real: RealCost,
}

impl Row {
    /// Real walk cost over the synthetic one, with its interval.
    pub fn ratio(&self, cache: Cache) -> Option<(f64, (f64, f64))> {
        let point = match cache {
            Cache::Hot => self.hot.as_ref(),
            Cache::Cold => self.cold.as_ref(),
        }?;
        let walk = self.real.walk?;
        if point.ns <= 0.0 || walk.mean_ns <= 0.0 {
            return None;
        }
        let ratio = walk.mean_ns / point.ns;
        // Relative half widths of independent estimates add in quadrature.
        let real = (walk.high_ns - walk.low_ns) / 2.0 / walk.mean_ns;
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
    /// The rows, by kind, chain length, scheme.
    pub rows: Vec<Row>,
    /// Sampling rate of the real side, if sampled.
    pub rate_hz: Option<f64>,
    /// Real callbacks at chain lengths too rare for a mean.
    pub callbacks_left_out: u64,
    /// What one more SPTE on a chain costs, on each side.
    pub marginal: Vec<Marginal>,
    /// Where the time of a real callback goes.
    pub parts: Vec<Part>,
    /// What each scheme could save or add.
    pub changes: Vec<Saving>,
}

/// The scheme a kernel's own aging corresponds to.
pub fn kernel_scheme(host: &Host) -> Option<&'static str> {
    match host.kvm.lockless_aging.value() {
        Some(true) => Some("bitlock"),
        Some(false) => Some("rwlock-write"),
        None => None,
    }
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
    let mut callbacks_left_out = 0;
    for (kind, band, real) in &costs {
        if !real.is_supported() {
            callbacks_left_out += real.callbacks;
            continue;
        }
        for curve in curves.iter().filter(|c| c.op == synthetic::op_of(*kind)) {
            let hot = curve.at(Cache::Hot, band.mean_len);
            let cold = curve.at(Cache::Cold, band.mean_len);
            if hot.is_none() && cold.is_none() {
                continue;
            }
            let (band, real) = (band.clone(), real.clone());
            rows.push(Row {
                kind: *kind,
                band,
                scheme: curve.scheme.clone(),
                hot,
                cold,
                real,
            });
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
        marginal: marginal::fit(&rows),
        parts: gap::parts(profile, &rows),
        changes: gap::changes(&rows, kernel_scheme(&profile.context.host)),
        rows,
        rate_hz: real::rate_hz(profile),
        callbacks_left_out,
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
    /// The schemes that have rows.
    pub fn schemes(&self) -> Vec<&String> {
        let mut schemes: Vec<&String> = Vec::new();
        for row in &self.rows {
            if !schemes.contains(&&row.scheme) {
                schemes.push(&row.scheme);
            }
        }
        schemes
    }

    /// Keeps only the named schemes; all if none is named.
    pub fn keep_schemes(&mut self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        self.rows.retain(|row| names.contains(&row.scheme));
        self.marginal = marginal::fit(&self.rows);
        self.changes.retain(|change| names.contains(&change.scheme));
    }

    /// One table per callback kind; what their columns mean stands below the
    /// last.
    pub fn tables(&self) -> Vec<Table> {
        let mut kinds: Vec<CallbackKind> = self.rows.iter().map(|r| r.kind).collect();
        kinds.dedup();
        let mut tables: Vec<Table> = kinds.into_iter().map(|kind| self.table(kind)).collect();
        let others = [
            marginal::table(&self.marginal),
            gap::parts_table(&self.parts),
            gap::changes_table(&self.changes, self.kernel_scheme),
        ];
        tables.extend(others.into_iter().filter(|table| !table.is_empty()));
        if let Some(last) = tables.last_mut() {
            self.notes().into_iter().for_each(|note| last.note(note));
        }
        tables
    }

    fn table(&self, kind: CallbackKind) -> Table {
        let mut table = Table::new(
            format!("{kind}: one callback, synthetic beside real"),
            vec![
                Column::text("SPTEs"),
                Column::text("scheme"),
                Column::number("hot (ns)"),
                Column::number("cold (ns)"),
                Column::number("hot/SPTE"),
                Column::number("real (ns)"),
                Column::number("rmap part (ns)"),
                Column::number("part/SPTE"),
                Column::number("part/hot"),
                Column::number("part/cold"),
                Column::number("callbacks"),
                Column::number("samples"),
            ],
        );
        for row in self.rows.iter().filter(|r| r.kind == kind) {
            table.row(self.cells(row));
        }
        table
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let mark = if Some(row.scheme.as_str()) == self.kernel_scheme {
            " *"
        } else {
            ""
        };
        let per_spte = |ns: f64| match row.band.mean_len {
            len if len > 0.0 => figure(ns / len),
            _ => dash(),
        };
        let ratio = |cache| {
            row.ratio(cache)
                .map_or_else(dash, |(r, i)| with_interval(r, Some(i)))
        };
        vec![
            row.band.to_string(),
            format!("{}{mark}", row.scheme),
            row.hot.as_ref().map_or_else(dash, Point::to_string),
            row.cold.as_ref().map_or_else(dash, Point::to_string),
            row.hot.as_ref().map_or_else(dash, |p| per_spte(p.ns)),
            sampled(row.real.total),
            sampled(row.real.walk),
            row.real.walk.map_or_else(dash, |w| per_spte(w.mean_ns)),
            ratio(Cache::Hot),
            ratio(Cache::Cold),
            count(row.real.callbacks),
            row.real.samples.map_or_else(dash, count),
        ]
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "SPTEs: chain length seen at the callback; a range is shown with its mean. hot, cold: \
             median time of one synthetic callback over one gfn, {:.0} % of SPTEs young ({:.0} % for \
             test_young), ± half of its 95 % interval. real: mean time of a real callback; rmap part: its time inside \
             kvm_age_gfn or kvm_test_age_gfn; both ± half of the 95 % interval. part/hot, \
             part/cold: real rmap part over synthetic callback.",
            self.young.clear * 100.0,
            self.young.test * 100.0
        )];
        if let Some(row) = self.rows.first() {
            let rate = self
                .rate_hz
                .map_or_else(String::new, |hz| format!(", {hz:.0} Hz per CPU"));
            notes.push(format!(
                "real side measured by {}{rate}.",
                row.real.mechanism
            ));
        }
        if self.callbacks_left_out > 0 {
            notes.push(format!(
                "{} real callbacks at chain lengths too rare for a mean are left out.",
                count(self.callbacks_left_out)
            ));
        }
        if let Some(scheme) = self.kernel_scheme
            && self.rows.iter().any(|row| row.scheme == scheme)
        {
            notes.push(format!("* {scheme} is what the recorded kernel does."));
        }
        if self.bench_host.label == self.profile_host.label {
            notes.push(format!("host of both sides: {}.", self.bench_host.label));
        } else {
            notes.push(format!("synthetic host: {}.", self.bench_host.label));
            notes.push(format!("recorded host: {}.", self.profile_host.label));
            notes.push("two hosts: absolute times do not compare.".to_owned());
        }
        notes.extend(self.profile_host.unusual.iter().map(|u| format!("{u}.")));
        notes
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn sampled(mean: Option<SampledMean>) -> String {
    mean.map_or_else(dash, |m| {
        with_interval(m.mean_ns, Some((m.low_ns, m.high_ns)))
    })
}
