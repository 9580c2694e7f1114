//! One bench run beside another of the same host.
//!
//! Rows are cells with the same workload, scheme, operation, metric and
//! parameters; what only one run has is counted and left out. A change is given as
//! a figure only where the rounds of the two runs differ by more than chance
//! (Mann-Whitney, p ≤ 0.05); elsewhere `~` is printed. Runs of two hosts are not
//! compared: their ratio would be one of machines.

use serde::Serialize;

use super::NoScheme;
use crate::{
    ResultFile,
    schema::{BenchRecord, Context, Op, Record, ResultKind, Summary},
    stats::{SIGNIFICANT, geometric_mean, mann_whitney_p},
    summary::describe,
    table::{Column, Table, signed_percent, with_interval},
};

/// Why two runs are not compared.
#[derive(Debug, thiserror::Error)]
pub enum NotComparable {
    /// A file is of another kind than the one it is compared with.
    #[error("{path} is a {found} result: a {wanted} result is compared with a {wanted} result")]
    Kind {
        /// The file.
        path: std::path::PathBuf,
        /// What it is.
        found: ResultKind,
        /// What was needed.
        wanted: ResultKind,
    },
    /// Two profiles were measured in different ways.
    #[error(
        "{base} was measured by {there}, the other profile by {here}: their times do not compare; \
         record both in the same way"
    )]
    Mechanism {
        /// The older profile.
        base: std::path::PathBuf,
        /// What measured it.
        there: String,
        /// What measured the newer one.
        here: String,
    },
    /// A profile is too short for any mean.
    #[error(
        "{path} has too few samples for a mean: at most {samples} of one kind and chain length \
         ({of}), and {least} are needed; record longer"
    )]
    TooFew {
        /// The profile.
        path: std::path::PathBuf,
        /// What it has most samples of.
        of: String,
        /// How many.
        samples: u64,
        /// How many a mean needs.
        least: u64,
    },
    /// The runs are of two hosts, or of one that was changed.
    #[error(
        "{base} was measured elsewhere: its {what} is {there}, here it is {here}; \
         measure a baseline on this host"
    )]
    Host {
        /// The older run.
        base: std::path::PathBuf,
        /// What differs.
        what: &'static str,
        /// Its value in the older run.
        there: String,
        /// Its value in the newer run.
        here: String,
    },
    /// No cell is in both.
    #[error(
        "{base} and {new} have nothing in common that both measured often enough: make them in \
         the same way (the baseline's command was: {command})"
    )]
    NothingInCommon {
        /// The older run.
        base: std::path::PathBuf,
        /// The newer run.
        new: std::path::PathBuf,
        /// How the older run was made.
        command: String,
    },
}

/// One cell in both runs.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The workload.
    pub workload: String,
    /// The scheme, peer or limit.
    pub scheme: String,
    /// What was timed.
    pub op: Op,
    /// What the figures are.
    pub metric: String,
    /// The parameters, in words.
    pub params: String,
    /// The older figure.
    pub base: Summary,
    /// The newer figure.
    pub new: Summary,
    /// Newer over older median.
    pub ratio: f64,
    /// Probability of such a difference by chance.
    pub p: f64,
    /// Whether either figure is marked as spoiled.
    pub spoiled: bool,
}

impl Change {
    /// Whether the runs differ by more than chance.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.p <= SIGNIFICANT
    }

    /// Whether the newer run is slower by more than `percent`, and not by chance.
    #[must_use]
    pub fn is_slower_by(&self, percent: f64) -> bool {
        let slower = self
            .times_slower()
            .is_some_and(|t| t > 1.0 + percent / 100.0);
        slower && self.is_significant()
    }

    /// How many times as slow the newer run is; `None` of what is no time and no throughput.
    /// A metric's name says what it is, as docs/results.md has it.
    fn times_slower(&self) -> Option<f64> {
        let metric = self.metric.as_str();
        let is_time = ["ns_", "s_per_"].iter().any(|s| metric.starts_with(s))
            || ["_ns", "_s"].iter().any(|s| metric.ends_with(s));
        let is_throughput = metric.ends_with("_per_us");
        match (is_time, is_throughput) {
            (true, _) => Some(self.ratio),
            (_, true) => Some(self.ratio.recip()),
            _ => None,
        }
    }

    fn describe(&self) -> String {
        format!(
            "{} {} {}, {}",
            self.workload, self.scheme, self.op, self.params
        )
    }
}

/// Two runs of one host.
#[derive(Clone, Debug, Serialize)]
pub struct RunComparison {
    /// The cells both runs have.
    pub changes: Vec<Change>,
    /// Cells that only one of them has.
    pub only_one: usize,
}

/// Checks that a run was made on this host, and with this mmu_lock.
///
/// # Errors
/// Names the first thing that differs.
pub fn check_host(base: &ResultFile, here: &Context) -> Result<(), NotComparable> {
    if base.context.kind != ResultKind::Bench {
        let (path, found) = (base.path.clone(), base.context.kind);
        return Err(bench_is_wanted(path, found));
    }
    let lock = |context: &Context| context.mmu_lock.clone().unwrap_or_default();
    let locks = ("mmu_lock", lock(&base.context), lock(here));
    let (there, here) = (&base.context.host, &here.host);
    let told = |o: &crate::Observed<String>| o.value().cloned().unwrap_or_default();
    let facts = [
        ("CPU model", told(&there.cpu_model), told(&here.cpu_model)),
        (
            "number of CPUs",
            there.cpus_online.to_string(),
            here.cpus_online.to_string(),
        ),
        (
            "kernel",
            there.kernel_release.clone(),
            here.kernel_release.clone(),
        ),
        (
            "hypervisor",
            told(&there.hypervisor),
            told(&here.hypervisor),
        ),
        locks,
    ];
    match facts.into_iter().find(|(_, there, here)| there != here) {
        None => Ok(()),
        Some((what, there, here)) => Err(NotComparable::Host {
            base: base.path.clone(),
            what,
            there,
            here,
        }),
    }
}

/// Compares a run with an older one of the same host.
///
/// # Errors
/// [`NotComparable`], in one sentence.
pub fn compare_runs(base: &ResultFile, new: &ResultFile) -> Result<RunComparison, NotComparable> {
    if new.context.kind != ResultKind::Bench {
        let (path, found) = (new.path.clone(), new.context.kind);
        return Err(bench_is_wanted(path, found));
    }
    check_host(base, &new.context)?;
    let (old, cells) = (cells(base), cells(new));
    let mut changes = Vec::new();
    for cell in &cells {
        let before = old.iter().find(|before| same(before, cell));
        changes.extend(before.and_then(|before| change(before, cell)));
    }
    if changes.is_empty() {
        return Err(NotComparable::NothingInCommon {
            base: base.path.clone(),
            new: new.path.clone(),
            command: base.context.command.join(" "),
        });
    }
    // An edited file may list a cell twice.
    let only_one = (old.len() + cells.len()).saturating_sub(2 * changes.len());
    Ok(RunComparison { changes, only_one })
}

fn bench_is_wanted(path: std::path::PathBuf, found: ResultKind) -> NotComparable {
    NotComparable::Kind {
        path,
        found,
        wanted: ResultKind::Bench,
    }
}

fn cells(file: &ResultFile) -> Vec<&BenchRecord> {
    let records = file.records.iter();
    records
        .filter_map(|record| match record {
            Record::Bench(cell) => Some(&**cell),
            _ => None,
        })
        .collect()
}

/// Whether two cells measured the same thing.
fn same(a: &BenchRecord, b: &BenchRecord) -> bool {
    a.scheme == b.scheme && a.is_same_but_for_scheme(b)
}

fn change(base: &BenchRecord, new: &BenchRecord) -> Option<Change> {
    let (before, after) = (base.summary.value()?, new.summary.value()?);
    let p = mann_whitney_p(&base.rounds, &new.rounds)?;
    Some(Change {
        workload: new.workload.clone(),
        scheme: new.scheme.clone(),
        op: new.op,
        metric: new.metric.clone(),
        params: describe(&new.params),
        base: before.clone(),
        new: after.clone(),
        ratio: after.median / before.median,
        p,
        spoiled: base.spoiled.is_some() || new.spoiled.is_some(),
    })
}

impl RunComparison {
    /// The cells that are slower by more than `percent`, and not by chance.
    pub fn slower(&self, percent: f64) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |c| c.is_slower_by(percent))
    }

    /// One sentence that names them, or `None` if there are none.
    #[must_use]
    pub fn verdict(&self, percent: f64) -> Option<String> {
        let slower: Vec<_> = self.slower(percent).collect();
        let times = |change: &Change| change.times_slower().unwrap_or(1.0);
        let worst = slower.iter().max_by(|a, b| times(a).total_cmp(&times(b)))?;
        let disturbed = match slower.iter().filter(|change| change.spoiled).count() {
            0 => String::new(),
            n => format!("; {n} of them were disturbed while they were measured"),
        };
        Some(format!(
            "{} of {} cells are slower than the baseline by more than {percent} %, the worst by \
             {} ({}){disturbed}",
            slower.len(),
            self.changes.len(),
            if times(worst).is_finite() {
                format!("{:.1} %", (times(worst) - 1.0) * 100.0)
            } else {
                "all of it, from 0".to_owned()
            },
            worst.describe()
        ))
    }

    /// Keeps only the named schemes; all if none is named.
    ///
    /// # Errors
    /// Names one of which both runs have no cell.
    pub fn keep_schemes(&mut self, names: &[String]) -> Result<(), NoScheme> {
        NoScheme::check(names, self.changes.iter().map(|change| &change.scheme))?;
        if !names.is_empty() {
            self.changes.retain(|change| names.contains(&change.scheme));
        }
        Ok(())
    }

    /// One table per workload, operation and metric, each with its geometric mean.
    #[must_use]
    pub fn tables(&self) -> Vec<Table> {
        let mut tables = Vec::new();
        let group = |a: &Change, b: &Change| {
            a.workload == b.workload && a.op == b.op && a.metric == b.metric
        };
        let mut done: Vec<&Change> = Vec::new();
        for first in &self.changes {
            if done.iter().any(|other| group(other, first)) {
                continue;
            }
            done.push(first);
            let rows: Vec<_> = self.changes.iter().filter(|c| group(c, first)).collect();
            tables.push(table(&rows, first));
        }
        if self.only_one > 0
            && let Some(last) = tables.last_mut()
        {
            last.note(format!("{} cells are in one run only.", self.only_one));
        }
        tables
    }
}

fn table(rows: &[&Change], first: &Change) -> Table {
    let unit = first.metric.replace('_', " ");
    let columns = vec![
        Column::text("parameters"),
        Column::text("scheme"),
        Column::number("baseline"),
        Column::number("now"),
        Column::number("change"),
        Column::number("p"),
        Column::number("n"),
    ];
    let title = format!(
        "{}: {}, {unit}, against the baseline",
        first.workload, first.op
    );
    let mut table = Table::new(title, columns);
    for row in rows {
        let mark = if row.spoiled { " (spoiled)" } else { "" };
        table.row(vec![
            row.params.clone(),
            format!("{}{mark}", row.scheme),
            median(&row.base),
            median(&row.new),
            if row.is_significant() {
                percent(row.ratio)
            } else {
                "~".to_owned()
            },
            format!("{:.3}", row.p),
            format!("{}+{}", row.base.n, row.new.n),
        ]);
    }
    let ratios: Vec<f64> = rows.iter().map(|row| row.ratio).collect();
    let mean = geometric_mean(&ratios).map_or_else(|| "-".to_owned(), percent);
    let blank = String::new;
    let last = ["geometric mean".to_owned(), blank(), blank(), blank(), mean];
    table.row(last.into_iter().chain([blank(), blank()]).collect());
    table.note("Medians with 95 % intervals; `~`: no difference at p ≤ 0.05 (Mann-Whitney).");
    table
}

fn percent(ratio: f64) -> String {
    signed_percent(ratio - 1.0, 1.0)
}

fn median(summary: &Summary) -> String {
    with_interval(summary.median, summary.ci95_low.zip(summary.ci95_high))
}
