//! A guest that works, and censuses of it.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ::report::{
    schema::Record,
    summary::census::{EVERY_SECOND, HEADS, NOBODY, SPTES},
};
use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    process,
    profile::guest::{TestGuest, Wanted},
};

/// Pages that a sparse VM has mapped.
const FEW_PAGES: u64 = 1 << 14;
/// Time over which passes are counted.
const SPAN: Duration = Duration::from_secs(3);

/// A guest to take censuses of.
pub(super) struct Vm {
    /// Pages it touches.
    pub(super) pages: u64,
    /// Pages it never touches.
    pub(super) spare_pages: u64,
}

impl Vm {
    /// One of `pages` that has few of them mapped.
    pub(super) fn sparse(pages: u64) -> Self {
        let touched = FEW_PAGES.min(pages);
        Self {
            pages: touched,
            spare_pages: pages - touched,
        }
    }

    /// One of `pages` that has all of them mapped.
    pub(super) fn mapped(pages: u64) -> Self {
        Self {
            pages,
            spare_pages: 0,
        }
    }
}

/// What the censuses of one kind took, one value each.
#[derive(Default)]
pub(super) struct Runs {
    pub(super) times_ms: Vec<f64>,
    pub(super) longest_chunks_ms: Vec<f64>,
}

/// What was measured on one guest.
pub(super) struct Measured {
    pub(super) censuses: Vec<(&'static str, Runs)>,
    /// Passes of the guest per second, one value per span.
    pub(super) passes: Vec<(&'static str, Vec<f64>)>,
}

/// Starts the guest and measures everything.
pub(super) fn measure(vm: &Vm, rounds: u32) -> Result<Measured> {
    let profiler = process::build("rmapscope")?;
    let program = process::build("guest")?;
    let wanted = Wanted {
        pages: vm.pages,
        aliases: 1,
        nested: false,
        driver: "none",
        held: false,
    };
    let spare = vm.spare_pages.to_string();
    let flags = ["--on-request", "--idle-us", "0", "--spare-pages", &spare];
    let mut guest = TestGuest::start_with(&program, &wanted, &flags)?;
    let pid = guest.pid();
    let mut measured = Measured {
        censuses: Vec::new(),
        passes: vec![(NOBODY, Vec::new()), (EVERY_SECOND, Vec::new())],
    };
    for (scheme, flags) in [(HEADS, &["--heads-only"][..]), (SPTES, &[])] {
        ::report::say!("{rounds} censuses of {scheme}");
        let runs = censuses(&profiler, pid, flags, rounds)?;
        measured.censuses.push((scheme, runs));
    }
    for round in 1..=rounds {
        ::report::say!("passes without and with a census, {round} of {rounds}");
        // Which comes first changes, so that a drift favours neither.
        let mut order = [0, 1];
        fastrand::shuffle(&mut order);
        for which in order {
            let census = match which {
                0 => None,
                _ => Some(Repeated::start(&profiler, pid)?),
            };
            let rate = passes_per_s(&mut guest)?;
            drop(census);
            measured.passes[which].1.push(rate);
        }
        if process::interrupted() {
            break;
        }
    }
    guest.stop()?;
    Ok(measured)
}

fn passes_per_s(guest: &mut TestGuest) -> Result<f64> {
    let before = guest.ask()?.passes;
    let began = Instant::now();
    thread::sleep(SPAN);
    let after = guest.ask()?.passes;
    Ok((after - before) as f64 / began.elapsed().as_secs_f64())
}

fn census_command(profiler: &Path, pid: u32) -> Result<Command> {
    let mut command = process::as_root(profiler)?;
    command.args(["census", "--json", "--pid", &pid.to_string()]);
    Ok(command)
}

fn censuses(profiler: &Path, pid: u32, flags: &[&str], rounds: u32) -> Result<Runs> {
    let mut command = census_command(profiler, pid)?;
    command.args(flags).args(["--interval", "100ms", "--count"]);
    let text = process::output(command.arg(rounds.to_string()))?;
    let mut by_run: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for line in text.lines() {
        let Record::Census(level) = serde_json::from_str(line)? else {
            continue;
        };
        ensure!(
            level.discarded_chunks == 0,
            "memslots changed under a census"
        );
        let (time, longest) = by_run.entry(level.run).or_default();
        *time += level.elapsed_ms;
        let chunk = level.longest_chunk_ms;
        *longest = chunk
            .context("the census tells no longest chunk")?
            .max(*longest);
    }
    ensure!(by_run.len() == rounds as usize, "{} censuses", by_run.len());
    let mut runs = Runs::default();
    for (time, longest) in by_run.into_values() {
        runs.times_ms.push(time);
        runs.longest_chunks_ms.push(longest);
    }
    Ok(runs)
}

/// A census every second, with SPTEs, until it is dropped.
struct Repeated(Child);

impl Repeated {
    /// Returns once the first was taken.
    fn start(profiler: &Path, pid: u32) -> Result<Self> {
        let mut command = census_command(profiler, pid)?;
        command.args(["--interval", "1s"]).stdout(Stdio::piped());
        let shown = process::shown(&command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start: {shown}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let census = Self(child);
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next().transpose()?;
        ensure!(first.is_some(), "no census from: {shown}");
        // A full pipe would stop it.
        thread::spawn(move || lines.for_each(drop));
        Ok(census)
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}
