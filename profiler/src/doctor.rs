//! `rmapscope doctor`: what this host offers, and how to get the rest.

use std::process::ExitCode;

use anyhow::Result;
use report::table::{Column, Format, Table};

use crate::{
    ladder::{Attempt, Ladder, Rung},
    object::Kernel,
    privileges,
};

/// Options of `rmapscope doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the ladder. Succeeds if a profile can be recorded.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    privileges::check()?;
    let ladder = Ladder::probe(&Kernel::read()?)?;
    if options.json {
        report::out!("{}", serde_json::to_string(&ladder)?)?;
    } else {
        report::out!("{}", table(&ladder).render(Format::Text))?;
        report::out!("{}", verdict(&ladder))?;
    }
    Ok(match ladder.rung {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

fn verdict(ladder: &Ladder) -> &'static str {
    match ladder.rung {
        Some(Rung::Exact) => "A profile can be recorded here, with every callback timed.",
        Some(Rung::Sampled) => {
            "A profile can be recorded here: every callback is counted, its cost is sampled."
        }
        None => "No profile can be recorded here.",
    }
}

fn table(ladder: &Ladder) -> Table {
    let columns = [
        "signal",
        "mechanism",
        "here",
        "why not, and what would help",
    ];
    let columns = columns.map(Column::text).to_vec();
    let mut table = Table::new("what can be observed on this host", columns);
    for signal in &ladder.signals {
        for (position, attempt) in signal.attempts.iter().enumerate() {
            let name = if position == 0 { signal.name } else { "" };
            let (here, help) = words(attempt);
            table.row(vec![
                name.to_owned(),
                attempt.mechanism.to_owned(),
                here.to_owned(),
                help,
            ]);
        }
    }
    table
}

fn words(attempt: &Attempt) -> (&'static str, String) {
    match &attempt.refused {
        None if attempt.exact => ("yes", String::new()),
        None => ("yes, sampled", String::new()),
        Some(reason) => ("no", format!("{reason} (needs {})", attempt.advice)),
    }
}
