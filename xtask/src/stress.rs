//! `cargo xtask stress`: builds the benchmark and runs its stress.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
};

use crate::{Outcome, process};

/// Everything after `stress` is the program's own: see `cargo xtask stress --help`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Flags, e.g. `--scheme all --ops 1e9`, `--scheme bitlock,rcu --seconds 60`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the benchmark and runs its stress with the arguments given.
pub(crate) fn run(options: &Options) -> Outcome {
    let mut command = Command::new(process::build("rmapscope-bench")?);
    command.arg("stress").args(&options.arguments);
    let status = process::status(&mut command)?;
    let code = status
        .code()
        .and_then(|c| u8::try_from(c).ok())
        .unwrap_or(1);
    Ok(ExitCode::from(code))
}
