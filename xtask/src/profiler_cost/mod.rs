//! `cargo xtask bench profiler-cost`: what watching a host's aging costs it.
//!
//! The kernel reclaims a test guest's memory, pass by pass, while nobody watches,
//! while rmapscope does and while the tools do that a host's owner would take
//! instead. The watchers take turns in an order drawn anew every round, so that
//! what slows the machine for a while slows all of them.
//!
//! | module | what it does |
//! |---|---|
//! | `watcher` | starts and ends a watcher |
//! | `seen` | what a watcher says it saw and lost |
//! | `rounds` | lets them take turns |
//! | `records` | turns the rounds into result records |

mod records;
mod rounds;
mod seen;
mod watcher;

use std::{ffi::OsString, path::PathBuf};

use ::report::{
    ResultWriter, host,
    schema::{Disturbance, Outcome as JobOutcome, ResultKind},
};
use anyhow::{Result, ensure};
use clap::Parser;

use self::{rounds::Rounds, watcher::Watcher};
use crate::{Outcome, process, report::finished};

/// Measures what watching aging callbacks costs: rmapscope, bpftrace and perf, side
/// by side on the reclaim of a test guest.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench profiler-cost",
    bin_name = "cargo xtask bench profiler-cost"
)]
struct Options {
    /// Rounds; each has every watcher once
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Timed passes per watcher and round
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    passes: u32,
    /// Pages of the test guest
    #[arg(long, default_value_t = 8192, value_name = "N")]
    guest_pages: u64,
    /// Virtual aliases per guest page: the chain lengths
    #[arg(long, default_value_t = 1, value_name = "K")]
    guest_aliases: u32,
    /// Only these watchers, beside nobody
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…")]
    watchers: Vec<Watcher>,
    /// Result file [default: results/runs/profiler-cost-TIME.jsonl]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures, writes the result file and prints its tables.
pub(crate) fn run(arguments: &[OsString]) -> Outcome {
    let program = OsString::from("profiler-cost");
    let options = Options::parse_from(std::iter::once(&program).chain(arguments));
    let output = options.output.clone();
    let output = output.unwrap_or_else(|| host::default_output_named("profiler-cost"));
    let writer = ResultWriter::create(&output, process::own_context(ResultKind::Bench))?;
    let rounds = measure(&options)?;
    ensure!(
        rounds.done() > 0,
        "interrupted before the first round was done"
    );
    let partial = process::interrupted();
    let (outcome, reason) = match partial {
        true => (JobOutcome::Partial, Some("interrupted".to_owned())),
        false => (JobOutcome::Complete, None),
    };
    let mut writer = writer;
    for record in records::of(&rounds) {
        writer.push(&record)?;
    }
    let unwatched = Disturbance::unwatched("every round has all watchers, which shows it");
    finished(&writer.finish(outcome, reason, unwatched)?)
}

fn measure(options: &Options) -> Result<Rounds> {
    let mut rounds = Rounds::prepare(options)?;
    for round in 1..=options.rounds {
        if process::interrupted() {
            break;
        }
        ::report::say!("round {round} of {}", options.rounds);
        match rounds.round(options.passes) {
            // The guest and the watchers were told as well; whole rounds are kept.
            Err(_) if process::interrupted() => break,
            done => done?,
        }
    }
    rounds.end()
}
