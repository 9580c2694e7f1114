//! `cargo xtask vm-test`: the live tests on stock kernels.
//!
//! Each kernel is booted under QEMU's software emulation, in several KVM
//! configurations, with the very binary a user would copy to a host, and runs
//! the same live tests that run on this host. Counts, ordering and return
//! values mean something there; times do not.

mod initramfs;
mod judge;
mod kernels;
mod modes;
mod peers;
mod plan;
mod qemu;

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use ::report::{
    ResultFile, ResultWriter, host,
    schema::{Disturbance, Outcome as FileOutcome, Record, ResultKind},
};
use anyhow::{Context as _, Result, bail};

use self::{
    initramfs::Content,
    judge::{Judged, judge},
    kernels::{Kernel, STOCK},
    modes::{MODES, Mode},
    plan::{Plan, Selection},
    qemu::{Boot, Machine, Setup},
};
use crate::{Outcome, debian, dist, process, report::Style};

/// A boot that says nothing for this long hangs; no test is silent for a
/// quarter of it on a machine that has nothing else to do.
const SILENCE: Duration = Duration::from_secs(600);
/// A boot that goes on talking is cut after this long.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Programs on the host that unpack packages and prepare a boot.
const NEEDED: [&str; 6] = [
    "apt-get",
    "apt-cache",
    "debugfs",
    "dpkg-deb",
    "mkfs.ext4",
    "xz",
];
/// Of these, the programs that a boot of the user's own kernel needs.
const NEEDED_TO_BOOT: [&str; 2] = ["debugfs", "mkfs.ext4"];

/// Boots stock kernels and runs the live tests on each.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Boot every kernel of the matrix, not only those that CI boots
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// Boot only these kernels of the matrix
    #[arg(long, value_delimiter = ',', value_name = "VERSION,…", conflicts_with_all = ["all", "kernel"])]
    only: Vec<String>,
    /// Boot only these configurations: npt0, tdp, shadow, nested
    #[arg(long, value_delimiter = ',', value_name = "MODE,…")]
    modes: Vec<String>,
    /// Boot this kernel image instead, with NVMe and ext4 built in; where Debian's packages
    /// cannot be fetched, with the QEMU and the static busybox on the search path
    #[arg(long, requires = "modules", value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Folder with that kernel's modules
    #[arg(long, requires = "kernel", value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    tests: String,
    /// Run only the few tests of every configuration that prove most
    #[arg(long, conflicts_with = "tests")]
    quick: bool,
    /// Machines that run at a time [default: one per CPU]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// Where to write the result [default: a new file below results/runs]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the tables to this file as Markdown
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Copy what the tests kept (recordings) into this folder, by kernel and configuration
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print the consoles of successful boots too
    #[arg(long)]
    verbose: bool,
}

/// One boot to be made.
struct Job<'a> {
    kernel: &'a Kernel,
    initramfs: PathBuf,
    mode: &'static Mode,
    plan: Plan,
}

/// Why this host cannot boot the matrix.
///
/// # Errors
/// What it lacks.
pub(crate) fn possible() -> Result<(), String> {
    debian::possible()?;
    has_all(&NEEDED)
}

fn has_all(programs: &[&str]) -> Result<(), String> {
    match programs.iter().find(|program| !process::on_path(program)) {
        Some(program) => Err(format!("there is no {program} on this host")),
        None => Ok(()),
    }
}

/// Boots all, collects all failures, then fails.
pub(crate) fn run(options: &Options) -> Outcome {
    let has_packages = possible();
    let needed = match &options.kernel {
        Some(_) => has_all(&NEEDED_TO_BOOT),
        None => has_packages.clone(),
    };
    if let Err(reason) = needed {
        bail!("the kernel matrix cannot be booted: {reason}");
    }
    let modes = modes(options)?;
    let kernels = kernels(options)?;
    let output = options.output.clone();
    let output = output.unwrap_or_else(|| host::default_output(ResultKind::Matrix));
    let writer = ResultWriter::create(&output, process::own_context(ResultKind::Matrix))?;
    // A distribution other than Debian has to have QEMU and busybox installed, and does
    // without the tools of others.
    let (machine, peers) = match has_packages {
        Ok(()) => (Machine::fetch()?, peers::fetch()?),
        Err(_) => (Machine::of_host()?, Vec::new()),
    };
    let selection = match options.quick {
        true => Selection::Quick,
        false => Selection::Containing(options.tests.clone()),
    };
    let content = content(&machine, peers, &selection)?;
    let folder = tempfile::Builder::new().prefix("rmapscope-vm-").tempdir()?;
    let jobs = jobs(&kernels, &modes, &content, &selection, folder.path())?;
    let mut judged = carry_out(&machine, &jobs, options)?;
    let place = |j: &Judged| kernels.iter().position(|k| k.version == j.boot.kernel);
    judged.sort_by_key(place);
    let bad = judged.iter().filter(|j| j.boot.problem.is_some()).count();
    let interrupted = process::interrupted();
    if interrupted && judged.is_empty() {
        return Ok(ExitCode::from(process::INTERRUPTED));
    }
    let reason =
        interrupted.then(|| format!("interrupted after {} of {} boots", judged.len(), jobs.len()));
    let written = write(writer, judged, reason)?;
    show(&written, options.summary.as_deref())?;
    Ok(if interrupted {
        ExitCode::from(process::INTERRUPTED)
    } else if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn wanted(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|n| n == name)
}

/// The modes asked for.
fn modes(options: &Options) -> Result<Vec<&'static Mode>> {
    let known: Vec<&str> = MODES.iter().map(|mode| mode.name).collect();
    if let Some(name) = options.modes.iter().find(|n| !known.contains(&n.as_str())) {
        bail!("--modes {name}: the matrix has {}", known.join(", "));
    }
    let modes = MODES.iter().filter(|m| wanted(&options.modes, m.name));
    Ok(modes.collect())
}

fn kernels(options: &Options) -> Result<Vec<Kernel>> {
    if let (Some(image), Some(modules)) = (&options.kernel, &options.modules) {
        return Ok(vec![Kernel::of_user(image, modules)?]);
    }
    let known: Vec<&str> = STOCK.iter().map(|s| s.version).collect();
    if let Some(name) = options.only.iter().find(|n| !known.contains(&n.as_str())) {
        bail!("--only {name}: the matrix has {}", known.join(", "));
    }
    STOCK
        .iter()
        .filter(|s| match options.only.is_empty() {
            true => options.all || s.is_always,
            false => wanted(&options.only, s.version),
        })
        .map(kernels::Stock::fetch)
        .collect()
}

/// The programs under test and the tests, statically linked, and what else a
/// kernel needs.
fn content(machine: &Machine, peers: peers::Files, selection: &Selection) -> Result<Content> {
    let tests = [
        "test",
        "--no-run",
        "--package",
        "profiler",
        "--package",
        "guest",
        // Not the unit tests, each with a whole program compiled again.
        "--test",
        "live*",
    ];
    let mut programs: Vec<(String, PathBuf)> = dist::build(&tests)?
        .into_iter()
        .filter(|(name, _)| name.starts_with("live"))
        .collect();
    plan::check(&programs)?;
    let binaries = dist::build(&["build", "--package", "profiler", "--package", "guest"])?;
    for name in ["rmapscope", "guest"] {
        let path = binaries
            .get(name)
            .with_context(|| format!("cargo built no {name}"))?;
        programs.push((name.to_owned(), path.clone()));
    }
    let scripts = MODES.iter();
    Ok(Content {
        busybox: machine.busybox().to_owned(),
        programs,
        files: peers,
        scripts: scripts
            .map(|mode| (mode.name, Plan::new(mode, selection).script()))
            .collect(),
    })
}

/// The boots, those of the mode that takes longest first.
fn jobs<'a>(
    kernels: &'a [Kernel],
    modes: &[&'static Mode],
    content: &Content,
    selection: &Selection,
    folder: &Path,
) -> Result<Vec<Job<'a>>> {
    let initramfs = |kernel: &Kernel| folder.join(format!("{}.cpio", kernel.version));
    for kernel in kernels {
        initramfs::write(kernel, content, &initramfs(kernel))?;
    }
    let mut jobs = Vec::new();
    for mode in modes.iter().copied() {
        for kernel in kernels {
            let plan = Plan::new(mode, selection);
            if plan.tests() == 0 {
                continue;
            }
            jobs.push(Job {
                kernel,
                initramfs: initramfs(kernel),
                mode,
                plan,
            });
        }
    }
    if jobs.is_empty() {
        bail!("no test of these modes has that in its name");
    }
    Ok(jobs)
}

/// Carries the jobs out, some at a time.
fn carry_out(machine: &Machine, jobs: &[Job<'_>], options: &Options) -> Result<Vec<Judged>> {
    let at_a_time = options
        .jobs
        .or_else(|| thread::available_parallelism().ok());
    let at_a_time = at_a_time.map_or(1, NonZero::get).min(jobs.len());
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Judged>> {
        let mut judged = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match carry_out_one(machine, job, options) {
                // What was finished until then is kept.
                Err(_) if process::interrupted() => break,
                one => judged.push(one?),
            }
        }
        Ok(judged)
    };
    let done: Vec<Result<Vec<Judged>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|end| end.unwrap_or_else(|_| bail!("a thread of the kernel matrix panicked")))
            .collect()
    });
    let done: Vec<Vec<Judged>> = done.into_iter().collect::<Result<_>>()?;
    Ok(done.into_iter().flatten().collect())
}

fn carry_out_one(machine: &Machine, job: &Job<'_>, options: &Options) -> Result<Judged> {
    let (version, mode) = (&job.kernel.version, job.mode);
    eprintln!("Linux {version} {}: {} …", mode.name, mode.parameters());
    let log = process::workspace().join("target/vm-test");
    let setup = Setup {
        kernel: job.kernel,
        initramfs: &job.initramfs,
        mode,
        keep: options
            .keep
            .as_ref()
            .map(|folder| folder.join(format!("{version}-{}", mode.name))),
        log: &log.join(format!("{version}-{}.log", mode.name)),
        silence: SILENCE,
        timeout: TIMEOUT,
    };
    let boot = boot(machine, &setup)?;
    let judged = judge(job.kernel, mode, &job.plan, &boot);
    let result = &judged.boot;
    if options.verbose || result.problem.is_some() {
        println!("{}", boot.console.join("\n"));
    }
    eprintln!(
        "Linux {version} {}: {} passed, {} failed, {} skipped, {:.0} s{}",
        mode.name,
        result.passed,
        result.failed,
        result.skipped.len(),
        result.elapsed_s,
        result
            .problem
            .iter()
            .map(|p| format!(": {p}"))
            .collect::<String>(),
    );
    Ok(judged)
}

/// Boots; once more if the machine died before a test began (emulated SVM is
/// not perfect).
fn boot(machine: &Machine, setup: &Setup<'_>) -> Result<Boot> {
    let boot = machine.boot(setup)?;
    let has_begun = |line: &String| line.starts_with("MATRIX begin");
    if boot.finished || boot.console.iter().any(has_begun) {
        return Ok(boot);
    }
    eprintln!("  died before the first test, once more");
    machine.boot(setup)
}

/// Writes the result, with the reason why it is a part where it is, and reads it back.
fn write(
    mut writer: ResultWriter,
    judged: Vec<Judged>,
    partial: Option<String>,
) -> Result<ResultFile> {
    for Judged { boot, witnesses } in judged {
        writer.push(&Record::Boot(boot))?;
        for witness in witnesses {
            writer.push(&Record::Witness(witness))?;
        }
    }
    let unwatched = Disturbance::unwatched("the machines are emulated: times mean nothing");
    let outcome = match partial {
        None => FileOutcome::Complete,
        Some(_) => FileOutcome::Partial,
    };
    let path = writer.finish(outcome, partial, unwatched)?;
    Ok(ResultFile::read(&path)?)
}

fn show(file: &ResultFile, summary: Option<&Path>) -> Result<()> {
    crate::report::print(file, Style::Text)?;
    ::report::say!("the result is {}", file.path.display());
    if let Some(path) = summary {
        let tables = ::report::summary::tables(file);
        let tables: Vec<String> = tables
            .iter()
            .map(|table| crate::report::rendered(table, Style::Markdown))
            .collect();
        std::fs::write(path, tables.join("\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
