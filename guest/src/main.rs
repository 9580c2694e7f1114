//! The `guest` binary: one guest, from the command line, with its life's end well kept.
//!
//! Whatever ends it (its time, a signal, a closed stdin, a dead parent, an error), the guest is
//! dropped in the ordinary way, so nothing of it stays behind.

mod cli;
mod run;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

fn main() -> ExitCode {
    let Cli {
        command: Command::Run(args),
    } = Cli::parse();
    match run::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed, too, the exit code has to say it alone.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(run::exit_code(&error))
        }
    }
}
