//! rmapscope's entry points. Each subcommand is a module with its `Options`
//! and one `run`; xtask itself measures nothing, it builds and starts the
//! programs that do.

#![forbid(unsafe_code)]

mod bench;
mod build_ebpf;
mod census_cost;
mod compare;
mod debian;
mod dist;
mod fleet_test;
mod page_test;
mod process;
mod profile;
mod profiler_cost;
mod report;
mod results;
mod stress;
mod test;
mod tools;
mod verdicts;
mod vm_test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// rmapscope: what aging costs in KVM's reverse map, synthetic beside real.
///
/// Start with `cargo xtask compare`: it measures every lock scheme on this
/// host, profiles the kernel's own aging callbacks on a test guest, and prints
/// one beside the other.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure the synthetic cost of aging under every lock scheme.
    Bench(bench::Options),
    /// Record the real aging callbacks of this host.
    Profile(profile::Options),
    /// Print synthetic costs beside real ones; with no arguments, measure both.
    Compare(compare::Options),
    /// Render tables from results, or check the committed ones.
    Report(report::Options),
    /// Run every operation at full speed and check the invariants.
    Stress(stress::Options),
    /// List, show, check and merge result files.
    Results(results::Options),
    /// Test every claim that was made about aging without mmu_lock.
    Verdicts(verdicts::Options),
    /// Look at the page of `report --html` in a real browser.
    PageTest(page_test::Options),
    /// Run the tests.
    Test(test::Options),
    /// Run the live tests on stock kernels under emulation.
    VmTest(vm_test::Options),
    /// Check the exporter and the rules for fleets with a real Prometheus.
    FleetTest(fleet_test::Options),
    /// Build the profiler as one static file.
    Dist(dist::Options),
    /// Rebuild the eBPF object from source, or check the committed one.
    BuildEbpf(build_ebpf::Options),
}

/// What a subcommand that did its job, or did not, tells the shell.
pub(crate) type Outcome = Result<ExitCode>;

fn run(task: Task) -> Outcome {
    process::catch_signals()?;
    match task {
        Task::Bench(options) => bench::run(&options),
        Task::Profile(options) => profile::run(&options),
        Task::Compare(options) => compare::run(&options),
        Task::Report(options) => report::run(&options),
        Task::Verdicts(options) => verdicts::run(&options),
        Task::Stress(options) => stress::run(&options),
        Task::Results(options) => results::run(&options),
        Task::PageTest(options) => page_test::run(&options),
        Task::Test(options) => test::run(&options),
        Task::VmTest(options) => vm_test::run(&options),
        Task::FleetTest(options) => fleet_test::run(&options),
        Task::Dist(options) => dist::run(&options),
        Task::BuildEbpf(options) => build_ebpf::run(&options).map(|()| ExitCode::SUCCESS),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(_) if process::interrupted() => ExitCode::from(process::INTERRUPTED),
        Ok(code) => code,
        Err(_) if process::interrupted() => {
            ::report::say!("interrupted");
            ExitCode::from(process::INTERRUPTED)
        }
        Err(error) => {
            // It may quote what a result file or another program says.
            let error = ::report::terminal::harmless_lines(&format!("{error:#}"));
            ::report::say!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
