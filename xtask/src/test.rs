//! `cargo xtask test`: every check there is, each as a step whose failure does
//! not hide the next one's.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use ::report::table::{Column, Format, Table};
use anyhow::{Context as _, Result};

use crate::{Outcome, process};

/// Tells a live test where to note that it ran or was skipped, and why.
const LIVE_LOG: &str = "RMAPSCOPE_LIVE_LOG";
/// Makes a live test that cannot run a failure.
const REQUIRE_LIVE: &str = "RMAPSCOPE_REQUIRE_LIVE";

/// Unit and property tests, models under loom, live tests against this host's
/// kernel, the committed object and tables. Live tests that cannot run here
/// are skipped and named.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Formatting, clippy and docs too; on a KVM host with root the live
    /// tests must run
    #[arg(long)]
    ci: bool,
}

/// One check.
struct Step {
    name: &'static str,
    command: Command,
}

/// How a step ended.
struct Ended {
    name: &'static str,
    passed: bool,
    seconds: f64,
}

/// Runs all checks and prints a summary.
pub(crate) fn run(options: &Options) -> Outcome {
    let folder = tempfile::Builder::new()
        .prefix("rmapscope-test-")
        .tempdir()?;
    let log = folder.path().join("live.log");
    let require_live = options.ci && live_is_possible();
    let mut ended = Vec::new();
    for step in steps(options.ci, &log, require_live)? {
        ended.push(carry_out(step));
        if process::interrupted() {
            return Ok(ExitCode::from(process::INTERRUPTED));
        }
    }
    println!("\n{}", summary(&ended).render(Format::Text));
    let skipped = live_summary(&log, require_live);
    let failed = ended.iter().filter(|e| !e.passed).count();
    println!(
        "{} passed, {failed} failed, {skipped} skipped",
        ended.len() - failed
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

fn steps(ci: bool, log: &Path, require_live: bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut add = |name, command| steps.push(Step { name, command });
    if ci {
        add("formatting", cargo(&["fmt", "--all", "--check"]));
        add(
            "clippy",
            cargo(&["clippy", "--all-targets", "--", "--deny", "warnings"]),
        );
        let mut doc = cargo(&["doc", "--no-deps", "--document-private-items"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings");
        add("docs", doc);
    }
    // The live tests start these and must not build them half way.
    add(
        "build",
        cargo(&[
            "build",
            "--release",
            "--package",
            "bench",
            "--package",
            "profiler",
            "--package",
            "guest",
        ]),
    );
    let mut tests = cargo(&["test", "--no-fail-fast"]);
    tests.env(LIVE_LOG, log);
    if require_live {
        tests.env(REQUIRE_LIVE, "1");
    }
    add("tests", tests);
    let mut loom = cargo(&["test", "--package", "rmap", "--release", "--test", "loom"]);
    loom.env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target_folder()?.join("loom"));
    add("loom", loom);
    let mut object = Command::new(std::env::current_exe()?);
    object.args(["build-ebpf", "--check"]);
    add("eBPF object", object);
    Ok(steps)
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

fn carry_out(mut step: Step) -> Ended {
    println!("\n=== {}: {}", step.name, process::shown(&step.command));
    let begin = Instant::now();
    let result = process::run(&mut step.command);
    if let Err(error) = &result {
        println!("=== {} FAILED: {error:#}", step.name);
    }
    Ended {
        name: step.name,
        passed: result.is_ok(),
        seconds: begin.elapsed().as_secs_f64(),
    }
}

fn summary(ended: &[Ended]) -> Table {
    let columns = vec![
        Column::text("step"),
        Column::text("result"),
        Column::number("time (s)"),
    ];
    let mut table = Table::new("", columns);
    for step in ended {
        let result = if step.passed { "passed" } else { "FAILED" };
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
