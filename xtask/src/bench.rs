//! `cargo xtask bench`: builds the benchmark and runs it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::Result;

use crate::{Outcome, census_cost, process, profiler_cost};

/// The program's own subcommand for showing what its statistics see.
const SELF_TEST: &str = "self-test";

/// The program's own subcommand for a recorded host under every scheme.
const REPLAY: &str = "replay";

/// What watching this host's aging costs it; xtask's own, for it starts other programs.
const PROFILER_COST: &str = "profiler-cost";

/// What reading a VM's rmap heads costs it; xtask's own too.
const CENSUS_COST: &str = "census-cost";

/// Printed before the program's own help, which a first build may keep waiting for.
const HELP: &str = "\
cargo xtask bench [WORKLOAD]… [OPTION]…  measure workloads (all, if none is named)
cargo xtask bench self-test              show what the statistics see
cargo xtask bench replay                 a recorded host under every scheme
cargo xtask bench profiler-cost          what watching a host costs it
cargo xtask bench census-cost            what a census costs a guest
Each has its own --help. That of the benchmark itself, built first if need be:
";

/// Everything after `bench` is the benchmark's own: see `cargo xtask bench --help`,
/// `cargo xtask bench replay --help` for a recorded host under every scheme,
/// `cargo xtask bench profiler-cost --help` for what watching a host costs it, and
/// `cargo xtask bench census-cost --help` for what a census costs a guest.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Workloads and flags, e.g. `--quick`, `walk --schemes bitlock,rcu`, `--list`,
    /// `--baseline FILE --fail-if-slower 10`; `self-test` shows what the statistics see
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs the benchmark with the arguments given.
pub(crate) fn run(options: &Options) -> Outcome {
    match options.arguments.split_first() {
        Some((first, rest)) if first == PROFILER_COST => return profiler_cost::run(rest),
        Some((first, rest)) if first == CENSUS_COST => return census_cost::run(rest),
        _ => {}
    }
    let (subcommand, arguments) = match options.arguments.split_first() {
        Some((first, rest)) if first == SELF_TEST => (SELF_TEST, rest),
        Some((first, rest)) if first == REPLAY => (REPLAY, rest),
        _ => ("run", options.arguments.as_slice()),
    };
    if arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        println!("{HELP}");
    }
    let mut command = command(subcommand)?;
    command.args(arguments);
    let status = process::status(&mut command)?;
    let code = status
        .code()
        .and_then(|c| u8::try_from(c).ok())
        .unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// Runs some workloads of the quick suite into a new result file, without printing
/// its tables; in the suite's own number of rounds unless another is asked for.
pub(crate) fn quick(workloads: &[&str], rounds: Option<u32>, output: &Path) -> Result<PathBuf> {
    let mut command = command("run")?;
    command
        .args(workloads)
        .arg("--quick")
        .arg("--output")
        .arg(output)
        .stdout(Stdio::null());
    if let Some(rounds) = rounds {
        command.arg("--rounds").arg(rounds.to_string());
    }
    process::run(&mut command)?;
    Ok(output.to_owned())
}

fn command(subcommand: &str) -> Result<Command> {
    let mut command = Command::new(process::build("rmapscope-bench")?);
    command
        .arg(subcommand)
        .env(::report::host::REVISION_VARIABLE, process::git_revision());
    Ok(command)
}
