//! `cargo xtask test`: every check there is, each as a step whose failure does
//! not hide the next one's.

mod readers;
mod sanitizers;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use ::report::table::{Column, Format, Table};
use anyhow::{Context as _, Result};

use crate::{Outcome, process, tools::Tool};

/// Tells a live test where to note that it ran or was skipped, and why.
const LIVE_LOG: &str = "RMAPSCOPE_LIVE_LOG";
/// Makes a live test that cannot run a failure.
const REQUIRE_LIVE: &str = "RMAPSCOPE_REQUIRE_LIVE";

/// Unit and property tests, models under loom, live tests against this host's
/// kernel, the committed object and tables. Live tests that cannot run here
/// are skipped and named.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Formatting, clippy and docs, the kernel matrix (a few tests of every mode; all
    /// of it with --only vm-test), ThreadSanitizer and Miri too; on a KVM host with root
    /// the live tests must run
    #[arg(long)]
    ci: bool,
    /// Run this step alone: fmt, clippy, docs, build, tests, loom, shuttle, stress,
    /// ebpf, vm-test, self-test, fleet, fuzz, page, tsan or miri
    #[arg(long, value_name = "STEP", conflicts_with = "ci")]
    only: Option<String>,
}

/// One check.
struct Step {
    name: &'static str,
    check: Check,
}

/// How a check is made.
enum Check {
    /// The command succeeds.
    Succeeds(Command),
    /// The command fails and says why: a negative control of the tool it runs.
    Reports(Command, &'static str),
    /// What [`Succeeds`](Self::Succeeds) needs is installed first; where that cannot be
    /// had, the check cannot be made.
    Prepared(Tool, fn(PathBuf) -> Result<Command>),
    /// It cannot be made on this host.
    Skipped(String),
}

/// How a step ended.
struct Ended {
    name: &'static str,
    result: StepResult,
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StepResult {
    Passed,
    Failed,
    Skipped,
}

/// Runs all checks and prints a summary.
pub(crate) fn run(options: &Options) -> Outcome {
    let folder = tempfile::Builder::new()
        .prefix("rmapscope-test-")
        .tempdir()?;
    let log = folder.path().join("live.log");
    let require_live = options.ci && live_is_possible();
    let mut ended = Vec::new();
    let all = options.ci || options.only.is_some();
    let mut steps = steps(all, options.only.is_some(), &log, require_live)?;
    if let Some(only) = &options.only {
        let known: Vec<_> = steps.iter().map(|step| step.name).collect();
        if !known.contains(&only.as_str()) {
            ::report::say!(
                "error: no step is called {only:?}; steps: {}",
                known.join(", ")
            );
            return Ok(ExitCode::from(2));
        }
        steps.retain(|step| step.name == only);
    }
    for step in steps {
        ended.push(carry_out(step));
        if process::interrupted() {
            return Ok(ExitCode::from(process::INTERRUPTED));
        }
    }
    println!("\n{}", summary(&ended).render(Format::Text));
    let of = |result| ended.iter().filter(|e| e.result == result).count();
    let skipped = live_summary(&log, require_live) + of(StepResult::Skipped);
    let failed = of(StepResult::Failed);
    println!(
        "{} passed, {failed} failed, {skipped} skipped",
        of(StepResult::Passed)
    );
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether this host can run a guest and load eBPF: then CI requires it to.
fn live_is_possible() -> bool {
    process::is_root() && Path::new("/dev/kvm").exists()
}

/// All steps, in the order they run. `named`: one of them was asked for by its name.
fn steps(ci: bool, named: bool, log: &Path, require_live: bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut add = |name, command| {
        let check = Check::Succeeds(command);
        steps.push(Step { name, check });
    };
    if ci {
        add("fmt", cargo(&["fmt", "--all", "--check"]));
        add(
            "clippy",
            cargo(&["clippy", "--all-targets", "--", "--deny", "warnings"]),
        );
        let mut doc = cargo(&["doc", "--no-deps", "--document-private-items"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings");
        add("docs", doc);
    }
    // The live tests start these and must not build them half way.
    add("build", process::programs());
    let mut tests = cargo(&["test", "--no-fail-fast"]);
    tests.env(LIVE_LOG, log);
    if require_live {
        tests.env(REQUIRE_LIVE, "1");
    }
    add("tests", tests);
    add("loom", loom()?);
    let mut shuttle = cargo(&[
        "test",
        "--package",
        "rmap",
        "--release",
        "--test",
        "shuttle",
    ]);
    shuttle
        .env("RUSTFLAGS", "--cfg shuttle")
        .env("CARGO_TARGET_DIR", target_folder()?.join("shuttle"));
    add("shuttle", shuttle);
    let mut stress = Command::new(std::env::current_exe()?);
    stress.args(["stress", "--scheme", "all", "--seconds", "30"]);
    add("stress", stress);
    let mut object = Command::new(std::env::current_exe()?);
    object.args(["build-ebpf", "--check"]);
    add("ebpf", object);
    if ci {
        steps.push(vm_test(named)?);
        steps.push(self_test(&log.with_file_name("self-test.jsonl"))?);
        readers::add(&mut steps)?;
        steps.push(fleet()?);
        sanitizers::add(&mut steps)?;
    }
    Ok(steps)
}

/// The live tests on stock kernels, where their packages can be had: all of them when
/// the step is named. Beside the other steps that takes too long, so there are the few
/// of every mode that prove most.
fn vm_test(named: bool) -> Result<Step> {
    let check = match crate::vm_test::possible() {
        Ok(()) => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("vm-test");
            if !named {
                command.arg("--quick");
            }
            Check::Succeeds(command)
        }
        Err(reason) => Check::Skipped(reason),
    };
    Ok(Step {
        name: "vm-test",
        check,
    })
}

/// The exporter under a real Prometheus.
fn fleet() -> Result<Step> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("fleet-test");
    let check = if live_is_possible() {
        Check::Succeeds(command)
    } else {
        Check::Skipped("needs root and KVM, for a guest to export".to_owned())
    };
    Ok(Step {
        name: "fleet",
        check,
    })
}

/// What the benchmark's statistics see: equal arms at the promised rate, and a
/// slow-down that stands out of the noise of a machine that is not quiet.
fn self_test(output: &Path) -> Result<Step> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "self-test", "--slower", "25", "--output"]);
    command.arg(output);
    Ok(Step {
        name: "self-test",
        check: Check::Succeeds(command),
    })
}

/// The model checks.
pub(crate) fn loom() -> Result<Command> {
    let mut command = cargo(&["test", "--package", "rmap", "--release", "--test", "loom"]);
    command
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target_folder()?.join("loom"));
    Ok(command)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = process::cargo();
    command.args(arguments);
    command
}

/// Where cargo puts what it builds.
fn target_folder() -> Result<PathBuf> {
    let mut command = process::cargo();
    command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let out = command.output().with_context(|| process::shown(&command))?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&out.stdout).with_context(|| process::shown(&command))?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo names no target folder")?;
    Ok(PathBuf::from(folder))
}

fn carry_out(step: Step) -> Ended {
    let begin = Instant::now();
    let name = step.name;
    let outcome = match step.check {
        Check::Succeeds(mut command) => {
            println!("\n=== {name}: {}", process::shown(&command));
            process::run(&mut command)
        }
        Check::Reports(mut command, what) => {
            println!("\n=== {name}: {}", process::shown(&command));
            reports(&mut command, what)
        }
        Check::Prepared(tool, command) => {
            let check = match tool.installed().and_then(command) {
                Ok(command) => Check::Succeeds(command),
                Err(reason) => Check::Skipped(format!("{reason:#}")),
            };
            return carry_out(Step { name, check });
        }
        Check::Skipped(reason) => {
            println!("\n=== {name}: SKIPPED: {reason}");
            return Ended {
                name,
                result: StepResult::Skipped,
                seconds: 0.0,
            };
        }
    };
    if let Err(error) = &outcome {
        println!("=== {name} FAILED: {error:#}");
    }
    Ended {
        name,
        result: if outcome.is_ok() {
            StepResult::Passed
        } else {
            StepResult::Failed
        },
        seconds: begin.elapsed().as_secs_f64(),
    }
}

/// Runs a command that must fail and must say `what`.
fn reports(command: &mut Command, what: &str) -> Result<()> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().with_context(|| process::shown(command))?;
    let said = |stream: &[u8]| String::from_utf8_lossy(stream).contains(what);
    if !output.status.success() && (said(&output.stdout) || said(&output.stderr)) {
        println!("reported as it should be: {what}");
        return Ok(());
    }
    anyhow::bail!(
        "the negative control was not caught ({}, expected {what:?}): {}\n{}",
        output.status,
        process::shown(command),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn summary(ended: &[Ended]) -> Table {
    let columns = vec![
        Column::text("step"),
        Column::text("result"),
        Column::number("time (s)"),
    ];
    let mut table = Table::new("", columns);
    for step in ended {
        let result = match step.result {
            StepResult::Passed => "passed",
            StepResult::Failed => "FAILED",
            StepResult::Skipped => "SKIPPED",
        };
        table.row(vec![
            step.name.to_owned(),
            result.to_owned(),
            format!("{:.0}", step.seconds),
        ]);
    }
    table
}

/// Prints which live parts ran and which did not and why; returns how many
/// were skipped.
fn live_summary(log: &Path, required: bool) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    let (skipped, ran): (Vec<&str>, Vec<&str>) = lines
        .into_iter()
        .partition(|line| line.starts_with("SKIPPED"));
    println!(
        "live tests against this host's kernel{}:",
        if required { ", required here" } else { "" }
    );
    for line in ran.iter().chain(&skipped) {
        println!("  {line}");
    }
    if ran.is_empty() {
        println!("  none ran");
    }
    skipped.len()
}
