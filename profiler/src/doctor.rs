//! `rmapscope doctor`: what this host offers, and how to get the rest.

use std::process::ExitCode;

use anyhow::Result;
use report::{
    letter,
    table::{Column, Table},
};

use crate::{
    ladder::{Attempt, Ladder, Rung, Signal},
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
        report::out!("{}", letter::on_terminal(&table(&ladder.signals)))?;
        report::out!("{}", verdict(&ladder))?;
    }
    Ok(match ladder.rung {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

fn verdict(ladder: &Ladder) -> &'static str {
    match ladder.rung {
        Some(Rung::Exact) if ladder.inner.is_err() => {
            "A profile can be recorded here, with every callback timed, but without chain lengths \
             and waits."
        }
        Some(Rung::Exact) => "A profile can be recorded here, with every callback timed.",
        Some(Rung::Sampled) => {
            "A profile can be recorded here: every callback is counted, its cost is sampled."
        }
        None => "No profile can be recorded here.",
    }
}

fn table(signals: &[Signal]) -> Table {
    let columns = [
        "signal",
        "mechanism",
        "here",
        "why not, and what would help",
    ];
    let columns = columns.map(Column::text).to_vec();
    let mut table = Table::new("what can be observed on this host", columns);
    for signal in signals {
        for (position, attempt) in signal.attempts.iter().enumerate() {
            let name = if position == 0 { signal.name } else { "" };
            let (here, help) = words(attempt);
            let help = help.map_or_else(String::new, |help| table.numbered(&help));
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

/// Whether it works here, and if not why, and what would help.
fn words(attempt: &Attempt) -> (&'static str, Option<String>) {
    match &attempt.refused {
        None if attempt.exact => ("yes", None),
        None => ("yes, sampled", None),
        Some(reason) => ("no", Some(format!("{reason} (needs {})", attempt.advice))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_holds_for_several_mechanisms_is_told_once() {
        let attempt = Attempt {
            mechanism: "fentry",
            rung: None,
            exact: true,
            refused: Some("EPERM".to_owned()),
            advice: "a kernel that lets it",
        };
        let signal = |name| Signal {
            name,
            attempts: vec![attempt.clone()],
        };
        let table = table(&[signal("callbacks"), signal("latency")]);
        let text = table.render(report::table::Format::Text);
        assert_eq!(
            text.matches("EPERM (needs a kernel that lets it)").count(),
            1
        );
        assert_eq!(text.matches("[1]").count(), 3, "{text}");
    }
}
