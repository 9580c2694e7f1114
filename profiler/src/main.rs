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
/// `compare` needs none of that.
#[derive(Debug, Parser)]
#[command(name = "rmapscope", version, max_term_width = 100)]
#[command(after_help = EXAMPLES, after_long_help = [EXAMPLES, TERMS].concat())]
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
      one VM, sampled less often if observing costs more than half a percent of the host's CPU
      time; what runs at every callback goes on
  sudo rmapscope census --heads-only --interval 1s
      how long the rmap chains are, every second, without any of KVM's locks
  sudo rmapscope top --sort callbacks
  sudo rmapscope exporter --listen 127.0.0.1:9847

Root is what has all of these: CAP_BPF and CAP_PERFMON load eBPF programs, CAP_SYSLOG reads
kernel addresses where they are hidden, CAP_SYS_ADMIN lets --max-overhead measure.

Exit codes: 0 done, 1 something failed or the recorded VM ended, 2 wrong usage, 128 plus the
signal that ended it.";

const TERMS: &str = "

Terms:
  SPTE            entry of a page table that KVM keeps for a guest: maps one of its pages
  gfn             number of a page of guest memory
  rmap head       where KVM keeps, for a gfn, which SPTEs map it
  chain length    SPTEs behind one rmap head: 1 unless nesting or shadow paging map a page twice
  young           used since its SPTE's Accessed bit was last cleared
  aging callback  the kernel asks KVM whether pages are young, through an MMU notifier; clearing
                  (clear_young, clear_flush_young) or only looking (test_young)
  caller          who asked: memcg, reclaim of a cgroup that is full; kswapd and direct, reclaim of
                  the host; mglru and lookaround, the multi-generational LRU; damon, a monitor of
                  memory; khugepaged, which makes huge pages
  rung            how callbacks are observed: exact, each is timed; sampled, each is counted and a
                  timer samples what they cost
  rate zero       what a cost is without samples, which slow down what they meet: a straight line
                  through the costs at several sampling rates says so";

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
    /// Compare two recordings, or one with a result of rmapscope-bench
    ///
    /// Of two recordings, such as before and after a change: which costs and rates differ by
    /// more than chance. With a bench result in the place of one: synthetic costs beside
    /// recorded ones. Neither measures nor needs root.
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

    #[test]
    fn the_help_explains_its_words_and_promises_no_bound() {
        let help = Cli::command().render_long_help().to_string();
        for term in [
            "SPTE",
            "gfn",
            "rmap head",
            "chain length",
            "young",
            "rung",
            "rate zero",
        ] {
            assert!(help.contains(&format!("\n  {term} ")), "{term}: {help}");
        }
        assert!(!help.contains("at most half a percent"), "{help}");
    }

    #[test]
    fn every_number_has_the_type_it_is_taken_as() {
        for line in [
            "record --pid 1 --rate 1,2 --stack-every 1 --event-every 0",
            "top --count 1",
            "census --pid 1 --interval 1s --count 1",
            "exporter --listen [::1]:1",
        ] {
            let words = line.split(' ');
            let parsed = Cli::try_parse_from(std::iter::once("rmapscope").chain(words));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }
}
