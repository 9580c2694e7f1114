//! `stress` on the command line.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use report::table::{Column, Format, Table};
use rmap::{LockKind, SchemeInfo};

use super::{Plan, SchemeOutcome, stress};
use crate::{
    mmu_lock,
    plan::{self, PlanError},
    rng::Rng,
    signals::Signals,
};

/// Without `--ops` and `--seconds` a run is this long.
const DEFAULT_TIME: Duration = Duration::from_secs(30);
/// Longest run that can be asked for, seconds.
const LONGEST_S: u64 = 7 * 86_400;
const MOST_THREADS: u16 = 1024;
/// Exit status of a run that left a scheme unchecked.
const TOO_SHORT: u8 = 2;

/// Run every operation at full speed and check the invariants at random moments.
///
/// vCPU threads fault, zap, unmap, write-protect and collapse, agers age and
/// test-age, and a stranger gets the shadow pages that are freed. At random
/// moments all threads stop and I-chain, I-bit, I-zap, I-young and I-life are
/// checked. Exit status: 0 all held, 1 one was broken (the command that repeats
/// the run is printed), 2 bad request or too little time to check every scheme
/// once, 130 interrupted (what was checked is printed).
#[derive(Debug, Args)]
pub struct StressArgs {
    /// Schemes, separated by commas; `all` are those that claim to be sound. A
    /// negative control such as single-recheck must be named, and should fail.
    #[arg(
        long = "scheme",
        visible_alias = "schemes",
        value_delimiter = ',',
        value_name = "NAME,…",
        default_value = "all"
    )]
    schemes: Vec<String>,
    /// Operations of all schemes together, such as 1000000 or 1e9.
    #[arg(long, value_name = "N", value_parser = parse_ops)]
    ops: Option<u64>,
    /// Time for all schemes together; with --ops, whichever comes first.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=LONGEST_S))]
    seconds: Option<u64>,
    /// Threads: one is the stranger, half of the others age; more than there are
    /// CPUs find more, as threads are held up at bad moments.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(3..=i64::from(MOST_THREADS)))]
    threads: Option<u16>,
    /// Seed of what the threads do; a fresh one if not given. How they interleave
    /// is the machine's choice.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Which lock mmu_lock is.
    #[arg(long, value_name = "LOCK", default_value_t, value_parser = mmu_lock::named())]
    mmu_lock: LockKind,
    /// Print one JSON object a scheme instead of the table.
    #[arg(long)]
    json: bool,
}

/// A number of operations, as an integer or in scientific notation.
fn parse_ops(text: &str) -> Result<u64, String> {
    let refused = || format!("{text} is not a positive whole number such as 1000000 or 1e9");
    if let Ok(ops) = text.replace('_', "").parse::<u64>() {
        return if ops > 0 { Ok(ops) } else { Err(refused()) };
    }
    let ops: f64 = text.parse().map_err(|_| refused())?;
    if (1.0..=1e18).contains(&ops) && ops.fract() == 0.0 {
        return Ok(ops as u64);
    }
    Err(refused())
}

impl StressArgs {
    /// Stresses the schemes one after the other and prints how they fared.
    ///
    /// # Errors
    /// An unknown scheme, or an MMU that cannot be built.
    pub fn run(&self) -> Result<ExitCode> {
        let schemes = self.schemes()?;
        let signals = Signals::watch()?;
        let seed = self.seed.unwrap_or_else(Rng::fresh_seed);
        report::say!(
            "seed {seed}; {} threads; mmu_lock: {}",
            self.threads(),
            self.mmu_lock
        );
        let deadline = self.time().map(|time| Instant::now() + time);
        let mut outcomes = Vec::new();
        for (number, scheme) in schemes.iter().enumerate() {
            let plan = self.plan(seed, deadline, schemes.len() - number, schemes.len());
            let outcome = stress(scheme, &plan, &signals);
            outcomes.push(outcome.with_context(|| format!("cannot stress {}", scheme.name))?);
            if signals.came() {
                break;
            }
        }
        self.print(&outcomes)?;
        let broken = outcomes.iter().filter(|one| one.violation.is_some());
        let mut code = ExitCode::SUCCESS;
        for outcome in broken {
            report::say!("to repeat: {}", self.repeat(outcome.scheme, seed));
            code = ExitCode::FAILURE;
        }
        if signals.came() && code == ExitCode::SUCCESS {
            return Ok(signals.exit_code());
        }
        let unchecked = unchecked(&outcomes);
        if code == ExitCode::SUCCESS && !unchecked.is_empty() {
            let names = unchecked.join(", ");
            report::say!("not checked, for want of time: {names}; give more --seconds");
            return Ok(ExitCode::from(TOO_SHORT));
        }
        Ok(code)
    }

    /// The time for all schemes together; `None` if only operations count.
    fn time(&self) -> Option<Duration> {
        match (self.seconds, self.ops) {
            (Some(seconds), _) => Some(Duration::from_secs(seconds)),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TIME),
        }
    }

    /// An even share of the operations and of the time that is left.
    fn plan(&self, seed: u64, deadline: Option<Instant>, left: usize, all: usize) -> Plan {
        let time = deadline.map_or(Duration::from_secs(LONGEST_S), |deadline| {
            deadline.saturating_duration_since(Instant::now()) / left as u32
        });
        Plan {
            threads: self.threads(),
            ops: self.ops.map_or(u64::MAX, |ops| ops.div_ceil(all as u64)),
            time,
            seed,
            lock: self.mmu_lock,
        }
    }

    fn threads(&self) -> usize {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or((2 * cpus).clamp(6, 64), usize::from)
    }

    fn schemes(&self) -> Result<Vec<&'static SchemeInfo>, PlanError> {
        if self.schemes.iter().any(|name| name == "all") {
            return Ok(rmap::schemes().iter().filter(|s| s.sound).collect());
        }
        let known: Vec<_> = rmap::schemes().iter().map(|s| s.name).collect();
        let named =
            plan::select(&self.schemes, &known).map_err(|name| PlanError::UnknownScheme {
                name,
                known: known.join(", "),
            })?;
        let schemes = rmap::schemes().iter();
        Ok(schemes.filter(|s| named.contains(&s.name)).collect())
    }

    /// The command that does the same to one scheme.
    fn repeat(&self, scheme: &str, seed: u64) -> String {
        let mut command = format!(
            "cargo xtask stress --scheme {scheme} --seed {seed} --threads {} --mmu-lock {}",
            self.threads(),
            self.mmu_lock
        );
        if let Some(ops) = self.ops {
            command.push_str(&format!(" --ops {ops}"));
        }
        if let Some(seconds) = self.seconds {
            command.push_str(&format!(" --seconds {seconds}"));
        }
        command
    }

    fn print(&self, outcomes: &[SchemeOutcome]) -> Result<()> {
        if !self.json {
            return crate::cli::print(&table(outcomes).render(Format::Text));
        }
        let lines: String = outcomes.iter().map(|one| json(one) + "\n").collect();
        crate::cli::print(&lines)
    }
}

fn table(outcomes: &[SchemeOutcome]) -> Table {
    let mut columns = vec![Column::text("scheme")];
    let numbers = [
        "operations",
        "callbacks",
        "installed",
        "recycled",
        "zapped",
        "protected",
        "collapsed",
        "pages reused",
        "checks",
        "time (s)",
    ];
    columns.extend(numbers.map(Column::number));
    columns.push(Column::text("invariants"));
    let mut table = Table::new("", columns);
    for one in outcomes {
        let tally = one.tally;
        let mut row = vec![one.scheme.to_owned()];
        let counts = [
            one.ops,
            tally.callbacks,
            tally.installed,
            tally.recycled,
            tally.zapped,
            tally.protected,
            tally.collapsed,
            tally.reused,
            one.checks,
        ];
        row.extend(counts.map(|count| count.to_string()));
        row.push(format!("{:.1}", one.elapsed.as_secs_f64()));
        row.push(invariants(one));
        table.row(row);
    }
    table
}

/// How the invariants fared, in words.
fn invariants(one: &SchemeOutcome) -> String {
    let held = match (one.checks, one.interrupted) {
        (0, _) => "not checked",
        (_, true) => "held (interrupted)",
        (_, false) => "held",
    };
    one.violation.clone().unwrap_or_else(|| held.to_owned())
}

/// The schemes that had no time for a single check.
fn unchecked(outcomes: &[SchemeOutcome]) -> Vec<&'static str> {
    let unchecked = outcomes.iter().filter(|one| one.checks == 0);
    unchecked.map(|one| one.scheme).collect()
}

fn json(one: &SchemeOutcome) -> String {
    let tally = one.tally;
    serde_json::json!({
        "scheme": one.scheme,
        "operations": one.ops,
        "callbacks": tally.callbacks,
        "installed": tally.installed,
        "recycled": tally.recycled,
        "zapped": tally.zapped,
        "protected": tally.protected,
        "collapsed": tally.collapsed,
        "pages_reused": tally.reused,
        "checks": one.checks,
        "seconds": one.elapsed.as_secs_f64(),
        "interrupted": one.interrupted,
        "violation": one.violation,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_that_was_never_checked_did_not_hold() {
        let outcome = |scheme, checks| SchemeOutcome {
            scheme,
            ops: 0,
            checks,
            tally: super::super::Tally::default(),
            elapsed: Duration::ZERO,
            violation: None,
            interrupted: false,
        };
        let outcomes = [outcome("checked", 1), outcome("unchecked", 0)];
        assert_eq!(outcomes.each_ref().map(invariants), ["held", "not checked"]);
        assert_eq!(unchecked(&outcomes), ["unchecked"]);
    }

    #[test]
    fn operations_are_whole_numbers_in_any_notation() {
        assert_eq!(parse_ops("1e9"), Ok(1_000_000_000));
        assert_eq!(parse_ops("2.5e3"), Ok(2_500));
        assert_eq!(parse_ops("1_000"), Ok(1_000));
        for bad in ["0", "-1", "1e-3", "1.5", "1e40", "nan", "inf", "many", ""] {
            assert!(parse_ops(bad).is_err(), "{bad}");
        }
    }
}
