//! `cargo xtask bench`: builds the benchmark and runs it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::Result;

use crate::{Outcome, process};

/// Everything after `bench` is the benchmark's own: see `cargo xtask bench --help`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Workloads and flags, e.g. `--quick`, `walk --schemes bitlock,rcu`, `--list`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs the benchmark with the arguments given.
pub(crate) fn run(options: &Options) -> Outcome {
    let mut command = command()?;
    command.args(&options.arguments);
    let status = process::status(&mut command)?;
    let code = status
        .code()
        .and_then(|c| u8::try_from(c).ok())
        .unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// Runs the quick suite into a new result file, without printing its tables.
pub(crate) fn quick(output: &Path) -> Result<PathBuf> {
    let mut command = command()?;
    command
        .arg("--quick")
        .arg("--output")
        .arg(output)
        .stdout(Stdio::null());
    process::run(&mut command)?;
    Ok(output.to_owned())
}

fn command() -> Result<Command> {
    let mut command = Command::new(process::build("bench", "rmapscope-bench")?);
    command
        .arg("run")
        .env(::report::host::REVISION_VARIABLE, process::git_revision());
    Ok(command)
}
