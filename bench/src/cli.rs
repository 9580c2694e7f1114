//! The command line.
//!
//! Exit status: 0 when all was measured, 2 when the request cannot be carried
//! out as asked, 130 or 143 when a signal ended the run (what was measured is
//! kept and marked partial), 1 for any other failure.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::cpus::CpuError;
use crate::memory::TooLarge;
use crate::plan::PlanError;
use crate::run::run;
use crate::run_args::RunArgs;
use crate::self_test::{self, SelfTestArgs};
use crate::stress::StressArgs;
use crate::subject;
use crate::workload::WORKLOADS;

/// Benchmarks of KVM's reverse map under competing lock schemes.
#[derive(Debug, Parser)]
#[command(name = "rmapscope-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure workloads and write a result file.
    Run(RunArgs),
    /// Show what the test of significance sees: equal things, and one made slower.
    SelfTest(SelfTestArgs),
    Stress(StressArgs),
    /// Replay a recorded host's aging under every scheme.
    Replay(crate::replay::ReplayArgs),
}

/// A failure and the exit status that goes with it.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub error: anyhow::Error,
    /// Exit status.
    pub code: u8,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let badly_asked = error
            .chain()
            .any(|e| e.is::<PlanError>() || e.is::<CpuError>() || e.is::<TooLarge>());
        Self {
            error,
            code: if badly_asked { 2 } else { 1 },
        }
    }
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// A sentence for the user and an exit status.
    pub fn execute(self) -> Result<ExitCode, Failure> {
        let args = match self.command {
            Command::Run(args) => args,
            Command::Stress(args) => return Ok(args.run()?),
            Command::SelfTest(args) => return Ok(self_test::run(&args)?),
            Command::Replay(args) => return Ok(crate::replay::run(&args)?),
        };
        if args.list {
            return Ok(list()?);
        }
        Ok(run(&args)?)
    }
}

fn list() -> Result<ExitCode> {
    let mut text = String::from("workloads:\n");
    for workload in WORKLOADS {
        text.push_str(&format!(
            "  {:<12} {}\n",
            workload.name(),
            workload.summary()
        ));
    }
    text.push_str("schemes, peers and limits:\n");
    for subject in subject::subjects() {
        let note = if subject.ablation { "ablation: " } else { "" };
        text.push_str(&format!(
            "  {:<20} {note}{}\n",
            subject.name, subject.summary
        ));
    }
    text.push_str(&format!(
        "  {:<20} a cache line handed from one CPU to another (agers)\n",
        subject::TRANSFER
    ));
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints to stdout. A reader that has gone away is not an error: the results
/// are in the file.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(e).context("cannot print the tables")
        }
        _ => Ok(()),
    }
}
