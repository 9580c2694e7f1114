//! `rmapscope census`: the chain lengths of the host's VMs, once or again and
//! again.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use profiler_common::census::Enumeration;
use report::{
    Observed, letter,
    schema::{CensusRecord, LossRecord, Record, TdpTables, VmRecord},
    table::{Column, Table, count, figure},
    terminal::reader_is_gone,
};
use tokio::time::MissedTickBehavior;

use crate::{
    census::{LevelCensus, Scanner},
    object::{Kernel, Settings},
    observe::{Signals, whole},
    privileges,
    record::parse_duration,
    tables::Walker,
    vms::{FindError, Finder, Registry, Tracked},
};

/// Times a VM is read again because its memslots changed.
const TRIES: u32 = 3;

/// Options of `rmapscope census`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only the VMs of this process
    #[arg(long, value_parser = whole(1_u32.., "4711"))]
    pid: Option<u32>,
    /// Read heads only, not SPTEs: much faster, without the Accessed share
    #[arg(long)]
    heads_only: bool,
    /// Count again and again, such as every 1s or 500ms, until interrupted
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Stop after this many counts
    #[arg(long, value_name = "N", requires = "interval", value_parser = whole(1_u64.., "10"))]
    count: Option<u64>,
    /// Print JSON lines instead of tables; every count is a run of its own
    #[arg(long)]
    json: bool,
}

/// Counts and prints. Without VMs it says so and succeeds, for there is
/// nothing that was not counted; a process that is none, or has no VM, is an error.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    privileges::check()?;
    if let Some(pid) = options.pid {
        check_process(pid)?;
    }
    let kernel = Kernel::read()?;
    let mut counter = Counter::new(options, &kernel)?;
    let Some(interval) = options.interval else {
        counter.count(0)?;
        return Ok(ExitCode::SUCCESS);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(repeat(options, &mut counter, interval))
}

/// Counts once per `interval`, measured from beginning to beginning.
async fn repeat(
    options: &Options,
    counter: &mut Counter<'_>,
    interval: Duration,
) -> Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut run = 0;
    while options.count.is_none_or(|wanted| u64::from(run) < wanted) && !reader_is_gone() {
        tokio::select! {
            biased;
            number = signals.next() => return Ok(ExitCode::from(128 + number)),
            _ = ticks.tick() => {}
        }
        if !counter.kernel.has_same_kvm() {
            bail!("KVM was unloaded, and what was known about it with it; start again");
        }
        counter.count(run)?;
        run += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// The programs of a census, and the VMs seen by it.
struct Counter<'a> {
    options: &'a Options,
    kernel: &'a Kernel,
    /// Holds the maps that the programs share.
    _ebpf: Ebpf,
    finder: Finder,
    scanner: Scanner,
    walker: Walker,
    registry: Registry,
    started: Instant,
}

impl<'a> Counter<'a> {
    fn new(options: &'a Options, kernel: &'a Kernel) -> Result<Self> {
        let mut ebpf = kernel.prepare(&Settings::CENSUS)?;
        Ok(Self {
            options,
            kernel,
            finder: Finder::new(&mut ebpf, &kernel.btf)?,
            scanner: Scanner::new(&mut ebpf, &kernel.btf)?,
            walker: Walker::new(&mut ebpf, kernel),
            _ebpf: ebpf,
            registry: Registry::default(),
            started: Instant::now(),
        })
    }

    /// Finds the VMs, reads each and prints what it has.
    fn count(&mut self, run: u32) -> Result<()> {
        let inventory = self.finder.find(self.options.pid)?;
        let missed = inventory.totals;
        let now_s = self.started.elapsed().as_secs_f64();
        self.registry.update(inventory, now_s);
        if self.registry.alive().next().is_none() {
            if self.options.pid.is_some() && run == 0 {
                bail!(
                    "no VM of KVM is running{}; --pid takes the process that runs the VM",
                    of_process(self.options.pid)
                );
            }
            if !self.options.json {
                report::out!("No VM of KVM is running.")?;
            }
        }
        let read_sptes = !self.options.heads_only;
        for tracked in self.registry.alive_mut() {
            let levels = self.walker.walk(&tracked.found).and_then(|tables| {
                tracked.tdp = tables;
                scan(&mut self.finder, &mut self.scanner, tracked, read_sptes)
            });
            match levels {
                Ok(levels) => print(run, tracked, &levels, self.options.json)?,
                Err(error @ FindError::Gone(_)) => report::say!("{error}"),
                Err(error) => return Err(error.into()),
            }
        }
        print_missed(run, &missed, self.options.json)
    }
}

/// Says what was not found; JSON lines say it also where that is nothing.
fn print_missed(run: u32, missed: &Enumeration, json: bool) -> Result<()> {
    let causes = [
        ("VMs or memslots beyond the tables", missed.did_not_fit),
        ("kernel memory could not be read", missed.faults),
        ("memslots changed while they were read", missed.changed),
    ];
    for (cause, lost) in causes {
        if json {
            let loss = LossRecord {
                run,
                signal: "VM".to_owned(),
                cause: cause.to_owned(),
                count: Observed::Value(lost),
                at_s: None,
            };
            report::out!("{}", serde_json::to_string(&Record::Loss(loss))?)?;
        } else if lost > 0 {
            report::out!("VM: {} lost, {cause}", count(lost))?;
        }
    }
    Ok(())
}

/// Fails if there is no such process.
pub(crate) fn check_process(pid: u32) -> Result<()> {
    if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
        bail!("there is no process {pid}; --pid takes the process that runs the VM");
    }
    Ok(())
}

/// The words that restrict a message to a process.
pub(crate) fn of_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" in process {pid}"))
}

/// Reads a VM; again, from its present memslots, if they changed meanwhile.
fn scan(
    finder: &mut Finder,
    scanner: &mut Scanner,
    tracked: &Tracked,
    read_sptes: bool,
) -> Result<Vec<LevelCensus>, FindError> {
    let mut levels = scanner.scan(&tracked.found, read_sptes)?;
    for _ in 1..TRIES {
        if levels.iter().all(LevelCensus::is_whole) {
            break;
        }
        let vm = tracked.found.vm;
        let again = finder.find(Some(vm.tgid))?;
        let Some(found) = again.vms.iter().find(|found| found.vm.kvm == vm.kvm) else {
            return Err(FindError::Gone(vm.tgid));
        };
        levels = scanner.scan(found, read_sptes)?;
    }
    Ok(levels)
}

/// The record of a VM in a result file.
pub(crate) fn vm_record(run: u32, tracked: &Tracked) -> VmRecord {
    VmRecord {
        run,
        vm: u32::from(tracked.number),
        pid: tracked.found.vm.tgid,
        comm: Observed::from(tracked.comm.clone()),
        cgroup: Observed::from(tracked.cgroup.clone()),
        memslots: tracked.found.vm.slots,
        pages: tracked.pages,
        has_rmaps: tracked.has_rmaps,
        tdp: tracked.tdp.clone(),
        seen_s: tracked.seen_s,
        gone_s: tracked.gone_s,
    }
}

fn print(run: u32, tracked: &Tracked, levels: &[LevelCensus], json: bool) -> Result<()> {
    let vm = vm_record(run, tracked);
    let censuses = levels.iter().map(|level| level.record(run, vm.vm));
    if json {
        report::out!("{}", serde_json::to_string(&Record::Vm(vm.clone()))?)?;
        for census in censuses {
            report::out!("{}", serde_json::to_string(&Record::Census(census))?)?;
        }
        return Ok(());
    }
    let comm = report::terminal::harmless(vm.comm.value().map_or("?", String::as_str));
    let title = format!(
        "VM of process {} ({comm}), {} pages",
        vm.pid,
        count(vm.pages)
    );
    let tdp = tdp_note(&vm.tdp);
    if !vm.has_rmaps {
        report::out!("{title}: no rmaps, all of it is in the TDP MMU.\n{tdp}\n")?;
        return Ok(());
    }
    let mut table = table(&title, censuses);
    table.note(tdp);
    report::out!("{}", letter::on_terminal(&table))?;
    Ok(())
}

/// What the TDP MMU holds, in one sentence.
fn tdp_note(tdp: &Observed<TdpTables>) -> String {
    let tables = match tdp {
        Observed::Value(tables) => tables,
        Observed::Missing(reason) => return format!("TDP MMU: not known, {reason}"),
    };
    let accessed = match tables.accessed_share() {
        Some(share) => format!("{} % Accessed", figure(100.0 * share)),
        None => "Accessed share not known".to_owned(),
    };
    format!(
        "TDP MMU: {} SPTEs ({accessed}), of these {} of 2M and {} of 1G, {} ms",
        count(tables.sptes()),
        count(tables.sptes_2m),
        count(tables.sptes_1g),
        figure(tables.elapsed_ms),
    )
}

fn table(title: &str, censuses: impl Iterator<Item = CensusRecord>) -> Table {
    let mut columns = vec![Column::text("level"), Column::text("chain length")];
    columns.extend(["gfns", "share of mapped"].map(Column::number));
    let mut table = Table::new(title, columns);
    for census in censuses {
        let level = ["4K", "2M", "1G"]
            .get(usize::from(census.level) - 1)
            .unwrap_or(&"?");
        let exact = census.lengths.iter().filter(|(length, _)| **length > 0);
        let mapped = exact.map(|(_, heads)| heads).sum::<u64>() + census.longer;
        for (length, heads) in census.lengths.iter().filter(|(length, _)| **length > 0) {
            let share = format!("{} %", figure(100.0 * *heads as f64 / mapped.max(1) as f64));
            table.row(vec![
                (*level).to_owned(),
                length.to_string(),
                count(*heads),
                share,
            ]);
        }
        table.note(note(level, &census, mapped));
    }
    table
}

fn note(level: &str, census: &CensusRecord, mapped: u64) -> String {
    let accessed = match &census.accessed {
        Observed::Value(accessed) => {
            let share = 100.0 * *accessed as f64 / census.sptes.max(1) as f64;
            format!("{} % Accessed", figure(share))
        }
        Observed::Missing(reason) => reason.clone(),
    };
    let one = census.lengths.get(&1).copied().unwrap_or(0);
    let one = figure(100.0 * one as f64 / mapped.max(1) as f64);
    let whole = match census.discarded_chunks {
        0 => "",
        _ => "NOT WHOLE, memslots changed: ",
    };
    format!(
        "{level}: {whole}{} of {} gfns mapped by {} SPTEs ({accessed}), {one} % of them by exactly \
         one, {} KiB of descriptors, {} heads locked, {} unreadable, {} chunks discarded, {} ms, \
         longest chunk {} ms",
        count(mapped),
        count(census.heads),
        count(census.sptes),
        figure(census.descriptor_bytes.unwrap_or(0) as f64 / 1024.0),
        count(census.locked),
        count(census.corrupt + census.faults),
        census.discarded_chunks,
        figure(census.elapsed_ms),
        figure(census.longest_chunk_ms.unwrap_or(f64::NAN)),
    )
}
