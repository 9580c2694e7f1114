//! rmapscope: profiles KVM page aging on a live host.

mod census;
mod census_command;
mod compare;
mod doctor;
mod exporter;
mod hooks;
mod intervals;
mod iterator;
mod kernel;
mod ladder;
mod logger;
mod object;
mod observe;
mod privileges;
mod programs;
mod record;
mod tables;
mod vms;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Who ages the pages of this host's VMs, how long their rmap chains are, and
/// what that costs.
///
/// Start with `rmapscope doctor`, then `rmapscope record`. Needs root, or
/// CAP_BPF, CAP_PERFMON and CAP_SYSLOG; what observing does not need is given up
/// once it has begun. Nothing is installed, written to the kernel or left behind.
#[derive(Debug, Parser)]
#[command(name = "rmapscope", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rmapscope doctor
      what can be observed on this host, how, and what is missing for more
  sudo rmapscope record --duration 30s
      every aging callback of every VM: who asked, over which chain lengths, at what cost
  sudo rmapscope record --pid 4711 --max-overhead 0.5 --output vm.jsonl
      one VM, in at most half a percent of the host's CPU time
  sudo rmapscope census --heads-only --interval 1s
      how long the rmap chains are, every second, without any of KVM's locks
  sudo rmapscope top --sort callbacks
  sudo rmapscope exporter --listen 127.0.0.1:9847

Root is needed to load eBPF programs, to read kernel addresses, and to find the VMs of
every user.

Exit codes: 0 done, 1 something failed or the recorded VM ended, 2 wrong usage, 128 plus the
signal that ended it.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what can be observed on this host, and how to get the rest
    Doctor(doctor::Options),
    /// Record the aging callbacks of this host's VMs
    Record(record::Options),
    /// Show who is aged now and what it costs, VM by VM, refreshed in place
    Top(watch::top::Options),
    /// Answer Prometheus with the same signals
    Exporter(exporter::Options),
    /// Count the rmap chain lengths of this host's VMs, once or at intervals
    Census(census_command::Options),
    /// Print synthetic costs beside recorded ones
    Compare(compare::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Doctor(options) => doctor::run(&options),
        Command::Record(options) => record::run(&options),
        Command::Top(options) => watch::top::run(&options),
        Command::Exporter(options) => exporter::run(&options),
        Command::Census(options) => census_command::run(&options),
        Command::Compare(options) => compare::run(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // It may quote what a result file or another program says.
            let error = report::terminal::harmless_lines(&format!("{error:#}"));
            report::say!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_program_calls_itself_by_the_name_it_is_run_by() {
        let version = Cli::command().render_version();
        assert!(version.starts_with("rmapscope "), "{version}");
    }
}
