//! `rmapscope census`: the chain lengths of the host's VMs, once.

use std::process::ExitCode;

use anyhow::{Result, bail};
use report::{
    Observed,
    schema::{CensusRecord, Record, VmRecord},
    table::{Column, Format, Table, count, figure},
};

use crate::{
    census::{LevelCensus, Scanner},
    object::{Kernel, Settings},
    privileges,
    vms::{FindError, Finder, Registry, Tracked},
};

/// Times a VM is read again because its memslots changed.
const TRIES: u32 = 3;

/// Options of `rmapscope census`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only the VMs of this process
    #[arg(long)]
    pid: Option<u32>,
    /// Read heads only, not SPTEs: much faster, without the Accessed share
    #[arg(long)]
    heads_only: bool,
    /// Print JSON lines instead of tables
    #[arg(long)]
    json: bool,
}

/// Counts and prints. Without VMs it says so and succeeds, for there is
/// nothing that was not counted; an unknown process is an error.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    privileges::check()?;
    if let Some(pid) = options.pid {
        check_process(pid)?;
    }
    let kernel = Kernel::read()?;
    let mut ebpf = kernel.prepare(&Settings::CENSUS)?;
    let mut finder = Finder::new(&mut ebpf, &kernel.btf)?;
    let mut scanner = Scanner::new(&mut ebpf, &kernel.btf)?;
    let mut registry = Registry::default();
    registry.update(finder.find(options.pid)?, 0.0);
    if registry.all().is_empty() && !options.json {
        report::out!("No VM of KVM is running{}.", of_process(options.pid))?;
    }
    for tracked in registry.all() {
        let levels = match scan(&mut finder, &mut scanner, tracked, !options.heads_only) {
            Ok(levels) => levels,
            Err(error @ FindError::Gone(_)) => {
                report::say!("{error}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        print(tracked, &levels, options.json)?;
    }
    Ok(ExitCode::SUCCESS)
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
        pages: tracked.found.pages(),
        has_rmaps: tracked.found.has_rmaps(),
        seen_s: tracked.seen_s,
        gone_s: tracked.gone_s,
    }
}

fn print(tracked: &Tracked, levels: &[LevelCensus], json: bool) -> Result<()> {
    let vm = vm_record(0, tracked);
    let censuses = levels.iter().map(|level| level.record(0, vm.vm));
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
    if !vm.has_rmaps {
        report::out!("{title}: no rmaps, all of it is in the TDP MMU.\n")?;
        return Ok(());
    }
    report::out!("{}", table(&title, censuses).render(Format::Text))?;
    Ok(())
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
    format!(
        "{level}: {} of {} gfns mapped by {} SPTEs ({accessed}), {} heads locked, {} unreadable, \
         {} chunks discarded, {} ms",
        count(mapped),
        count(census.heads),
        count(census.sptes),
        count(census.locked),
        count(census.corrupt + census.faults),
        census.discarded_chunks,
        figure(census.elapsed_ms),
    )
}
