//! `cargo xtask vm-test`: the live tests on stock kernels.
//!
//! Each kernel is booted under QEMU's software emulation, in several KVM
//! configurations, with the very binary a user would copy to a host, and runs
//! the same live tests that run on this host. Counts, ordering and return
//! values mean something there; times do not.

mod initramfs;
mod kernels;
mod qemu;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use ::report::table::{Column, Format, Table};
use anyhow::{Context as _, Result, bail};

use self::{
    kernels::{Kernel, STOCK},
    qemu::{Boot, Machine, Setup},
};
use crate::{Outcome, dist, process};

/// A boot that says nothing for this long hangs; no test is silent for a
/// quarter of it on a machine that has nothing else to do.
const SILENCE: Duration = Duration::from_secs(600);
/// A boot that goes on talking is cut after this long.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Boots stock kernels and runs the live tests on each.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Boot only these kernels of the matrix
    #[arg(long, value_delimiter = ',', value_name = "VERSION,…")]
    only: Vec<String>,
    /// Boot only these configurations: shadow, tdp, npt0
    #[arg(long, value_delimiter = ',', value_name = "MODE,…")]
    modes: Vec<String>,
    /// Boot this kernel image instead
    #[arg(long, requires = "modules", value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Folder with that kernel's modules
    #[arg(long, requires = "kernel", value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    tests: String,
    /// Write the table to this file as Markdown
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Print the consoles of successful boots too
    #[arg(long)]
    verbose: bool,
}

/// A KVM configuration.
struct Mode {
    name: &'static str,
    kvm: &'static str,
    amd: &'static str,
}

/// Two-dimensional paging without and with rmaps, and shadow paging, where
/// chains can be long.
const MODES: [Mode; 3] = [
    Mode {
        name: "tdp",
        kvm: "tdp_mmu=1",
        amd: "",
    },
    Mode {
        name: "shadow",
        kvm: "tdp_mmu=0",
        amd: "",
    },
    Mode {
        name: "npt0",
        kvm: "tdp_mmu=0",
        amd: "npt=0",
    },
];

/// How the live tests of one boot ended.
struct BootResult {
    kernel: String,
    mode: &'static str,
    passed: u32,
    failed: u32,
    skipped: u32,
    seconds: f64,
    problem: Option<String>,
}

/// Boots all, collects all failures, then fails.
pub(crate) fn run(options: &Options) -> Outcome {
    let machine = Machine::fetch()?;
    let kernels = kernels(options)?;
    let programs = programs()?;
    let tests: Vec<String> = programs
        .iter()
        .map(|(n, _)| n.clone())
        .filter(|n| n.starts_with("live"))
        .collect();
    let folder = tempfile::Builder::new().prefix("rmapscope-vm-").tempdir()?;
    let mut results = Vec::new();
    for kernel in &kernels {
        let initramfs = folder.path().join(format!("{}.cpio", kernel.version));
        initramfs::write(kernel, &machine.busybox(), &programs, &initramfs)?;
        for mode in MODES.iter().filter(|m| wanted(&options.modes, m.name)) {
            eprintln!("Linux {} with {} {}", kernel.version, mode.kvm, mode.amd);
            let setup = Setup {
                kernel,
                initramfs: &initramfs,
                kvm_parameters: mode.kvm,
                amd_parameters: mode.amd,
                tests: &tests,
                filter: &options.tests,
                log: &process::workspace()
                    .join("target/vm-test")
                    .join(format!("{}-{}.log", kernel.version, mode.name)),
                silence: SILENCE,
                timeout: TIMEOUT,
            };
            let boot = boot(&machine, &setup)?;
            let result = judge(&kernel.version, mode.name, &boot, tests.len());
            if options.verbose || result.problem.is_some() {
                println!("{}", boot.console.join("\n"));
            }
            results.push(result);
        }
    }
    println!("{}", table(&results).render(Format::Text));
    if let Some(path) = &options.summary {
        std::fs::write(path, table(&results).render(Format::Markdown))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bad = results.iter().filter(|r| r.problem.is_some()).count();
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn wanted(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|n| n == name)
}

fn kernels(options: &Options) -> Result<Vec<Kernel>> {
    if let (Some(image), Some(modules)) = (&options.kernel, &options.modules) {
        return Ok(vec![Kernel::of_user(image, modules)?]);
    }
    for name in &options.only {
        if !STOCK.iter().any(|s| s.version == name) {
            let known: Vec<&str> = STOCK.iter().map(|s| s.version).collect();
            bail!("--only {name}: the matrix has {}", known.join(", "));
        }
    }
    STOCK
        .iter()
        .filter(|s| wanted(&options.only, s.version))
        .map(kernels::Stock::fetch)
        .collect()
}

/// The programs under test and the tests, statically linked.
fn programs() -> Result<Vec<(String, PathBuf)>> {
    let mut programs: Vec<(String, PathBuf)> = dist::build(&[
        "test",
        "--no-run",
        "--package",
        "profiler",
        "--package",
        "guest",
    ])?
    .into_iter()
    .filter(|(name, _)| name.starts_with("live"))
    .collect();
    let binaries = dist::build(&["build", "--package", "profiler", "--package", "guest"])?;
    for name in ["rmapscope", "guest"] {
        let path = binaries
            .get(name)
            .with_context(|| format!("cargo built no {name}"))?;
        programs.push((name.to_owned(), path.clone()));
    }
    Ok(programs)
}

/// Boots; once more if the machine died before a test began (emulated SVM is
/// not perfect).
fn boot(machine: &Machine, setup: &Setup<'_>) -> Result<Boot> {
    let boot = machine.boot(setup)?;
    if boot.finished
        || boot
            .console
            .iter()
            .any(|line| line.starts_with("MATRIX begin"))
    {
        return Ok(boot);
    }
    eprintln!("  died before the first test, once more");
    machine.boot(setup)
}

fn judge(kernel: &str, mode: &'static str, boot: &Boot, tests: usize) -> BootResult {
    let mut result = BootResult {
        kernel: kernel.to_owned(),
        mode,
        passed: 0,
        failed: 0,
        skipped: 0,
        seconds: boot.elapsed.as_secs_f64(),
        problem: None,
    };
    let mut suites = 0;
    for line in &boot.console {
        if let Some(rest) = line.strip_prefix("test result: ") {
            suites += 1;
            result.passed += number_before(rest, " passed");
            result.failed += number_before(rest, " failed");
        } else if line.starts_with("MATRIX live SKIPPED") {
            result.skipped += 1;
        }
    }
    // A skipped test counts as passed in the harness's own line.
    result.passed = result.passed.saturating_sub(result.skipped);
    result.problem = if !boot.finished {
        Some("did not power off by itself".to_owned())
    } else if suites != tests {
        Some(format!(
            "{suites} of {tests} test programs came to their end"
        ))
    } else if result.failed > 0 {
        Some("tests failed".to_owned())
    } else if result.passed == 0 {
        Some("no test ran".to_owned())
    } else {
        None
    };
    result
}

fn number_before(text: &str, word: &str) -> u32 {
    let before = text.split(word).next().unwrap_or_default();
    before
        .rsplit(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn table(results: &[BootResult]) -> Table {
    let mut table = Table::new(
        "Live tests on stock kernels, emulated",
        vec![
            Column::text("kernel"),
            Column::text("KVM"),
            Column::number("passed"),
            Column::number("failed"),
            Column::number("skipped"),
            Column::number("time (s)"),
            Column::text("problem"),
        ],
    );
    for result in results {
        table.row(vec![
            result.kernel.clone(),
            result.mode.to_owned(),
            result.passed.to_string(),
            result.failed.to_string(),
            result.skipped.to_string(),
            format!("{:.0}", result.seconds),
            result.problem.clone().unwrap_or_default(),
        ]);
    }
    table
}
