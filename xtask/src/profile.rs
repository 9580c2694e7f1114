//! `cargo xtask profile`: records the aging callbacks of this host, of its own
//! VMs or of a test guest that the kernel is made to age.

pub(crate) mod guest;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use ::report::{
    Observed, ResultFile, ResultWriter, host,
    schema::{Disturbance, GuestRun, Outcome as JobOutcome, Record, ResultKind},
};
use anyhow::{Context as _, Result, bail};

use self::guest::{TestGuest, Wanted};
use crate::{Outcome, process};

/// Records VMs that run on this host; with none, starts a test guest and makes
/// the kernel age it, once per chain length.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Virtual aliases per guest page, one recording each: the chain lengths
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,4,16,64",
        value_name = "K,…"
    )]
    guest_aliases: Vec<u32>,
    /// Pages of the test guest
    #[arg(long, default_value_t = 2048, value_name = "N")]
    guest_pages: u64,
    /// Start the test guest even if the host has VMs
    #[arg(long, conflicts_with = "pid")]
    test_guest: bool,
    /// Let the test guest run while its pages are reclaimed: vCPU faults meet
    /// aging, and chains collapse to any length
    #[arg(long)]
    running_guest: bool,
    /// Make the test guest an L1 whose L2 uses the pages: the aliases are those of
    /// L1's nested page table (SVM with kvm_amd nested=1)
    #[arg(long, conflicts_with = "pid")]
    nested_guest: bool,
    /// Leave out the recording of khugepaged's test_young callbacks
    #[arg(long)]
    no_khugepaged: bool,
    /// Record only the VMs of this process
    #[arg(long)]
    pid: Option<u32>,
    /// Length of each recording
    #[arg(long, default_value = "10s", value_name = "TIME")]
    duration: String,
    /// Timer samples per second and CPU, at most 4000; several rates take turns
    #[arg(long, value_name = "HZ,…")]
    rate: Option<String>,
    /// Result file [default: results/runs/profile-TIME.jsonl]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result's JSON lines instead of tables
    #[arg(long)]
    json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            guest_aliases: vec![1, 4, 16, 64],
            guest_pages: 2048,
            test_guest: true,
            running_guest: false,
            nested_guest: false,
            no_khugepaged: false,
            pid: None,
            duration: "10s".to_owned(),
            rate: None,
            output: None,
            json: false,
        }
    }
}

/// Records, writes the result file and prints its tables.
pub(crate) fn run(options: &Options) -> Outcome {
    let output = options.output.clone();
    let output = output.unwrap_or_else(|| host::default_output(ResultKind::Profile));
    let file = record(options, &output)?;
    if options.json {
        print!("{}", std::fs::read_to_string(&file.path)?);
    } else {
        crate::report::print(&file, crate::report::Style::Text)?;
    }
    ::report::say!("profile: {}", file.path.display());
    Ok(if file.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Records into a new result file.
///
/// # Errors
/// If this host cannot be profiled, with what is missing and how to get it;
/// nothing is left behind then.
pub(crate) fn record(options: &Options, output: &Path) -> Result<ResultFile> {
    check(options)?;
    let writer = ResultWriter::create(output, process::own_context(ResultKind::Profile))?;
    let session = Session::new(options)?;
    let runs = session.record_all()?;
    let written = merge(writer, &runs)?;
    Ok(ResultFile::read(&written)?)
}

fn check(options: &Options) -> Result<()> {
    if options.guest_aliases.contains(&0) {
        bail!("--guest-aliases 0: a guest page has at least 1 alias");
    }
    if options.guest_aliases.is_empty() || options.guest_pages == 0 {
        bail!("the test guest needs at least one chain length and one page");
    }
    Ok(())
}

/// The programs of a recording and the folder for what they write.
struct Session<'a> {
    options: &'a Options,
    profiler: PathBuf,
    folder: tempfile::TempDir,
}

impl<'a> Session<'a> {
    fn new(options: &'a Options) -> Result<Self> {
        let profiler = process::build("rmapscope")?;
        let folder = tempfile::Builder::new().prefix("rmapscope-").tempdir()?;
        Ok(Self {
            options,
            profiler,
            folder,
        })
    }

    fn record_all(&self) -> Result<Vec<(ResultFile, Option<GuestRun>)>> {
        self.doctor()?;
        if self.options.pid.is_some()
            || (!self.options.test_guest && !self.options.nested_guest && self.host_has_vms()?)
        {
            return Ok(vec![(self.record_one(0, self.options.pid)?, None)]);
        }
        let program = process::build("guest")?;
        let plans = self.guests();
        let mut runs = Vec::new();
        for (index, wanted) in plans.iter().enumerate() {
            ::report::say!(
                "recording {} of {}: {} pages, {} SPTE{} each, {}",
                index + 1,
                plans.len(),
                wanted.pages,
                wanted.aliases,
                if wanted.aliases == 1 { "" } else { "s" },
                wanted.driver,
            );
            let guest = TestGuest::start(&program, wanted)?;
            let file = self.record_one(index, Some(guest.pid()))?;
            let facts = guest.stop()?;
            runs.push((file, Some(facts)));
            if process::interrupted() {
                break;
            }
        }
        Ok(runs)
    }

    /// The guests to record, one after the other.
    fn guests(&self) -> Vec<Wanted> {
        let guest = |aliases, driver, held| Wanted {
            pages: self.options.guest_pages,
            aliases,
            nested: self.options.nested_guest,
            driver,
            held,
        };
        let held = !self.options.running_guest;
        let aliases = self.options.guest_aliases.iter();
        let mut guests: Vec<Wanted> = aliases.map(|k| guest(*k, "reclaim", held)).collect();
        if !self.options.no_khugepaged {
            let aliases = self.options.guest_aliases.iter();
            guests.extend(aliases.map(|k| guest(*k, "khugepaged", false)));
        }
        guests
    }

    /// Fails with the doctor's own words if nothing could be recorded here.
    fn doctor(&self) -> Result<()> {
        let mut command = process::as_root(&self.profiler)?;
        let out = command
            .arg("doctor")
            .output()
            .with_context(|| process::shown(&command))?;
        if out.status.success() {
            return Ok(());
        }
        let stdout = String::from_utf8_lossy(&out.stdout);
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!(
            "this host cannot be profiled:\n{}{}",
            stdout,
            stderr.trim_end()
        );
    }

    fn host_has_vms(&self) -> Result<bool> {
        let mut command = process::as_root(&self.profiler)?;
        let out = command.args(["census", "--json"]).output()?;
        let lines = String::from_utf8_lossy(&out.stdout);
        Ok(lines.lines().any(|line| line.contains("\"record\":\"vm\"")))
    }

    fn record_one(&self, index: usize, pid: Option<u32>) -> Result<ResultFile> {
        let path = self.folder.path().join(format!("{index}.jsonl"));
        let mut command: Command = process::as_root(&self.profiler)?;
        command.args(["record", "--quiet", "--duration", &self.options.duration]);
        command.arg("--output").arg(&path);
        if let Some(pid) = pid {
            command.args(["--pid", &pid.to_string()]);
        }
        if let Some(rate) = &self.options.rate {
            command.args(["--rate", rate]);
        }
        let status = process::status(&mut command)?;
        if !path.exists() {
            bail!(
                "{status} and no recording from: {}",
                process::shown(&command)
            );
        }
        Ok(ResultFile::read(&path)?)
    }
}

/// Puts the recordings into one file, each with its guest. A recording has one
/// run or more, one per sampling rate; the next one's numbers follow.
fn merge(mut writer: ResultWriter, runs: &[(ResultFile, Option<GuestRun>)]) -> Result<PathBuf> {
    let mut outcome = JobOutcome::Complete;
    let mut reason = None;
    let mut first = 0_u32;
    for (file, guest) in runs {
        let numbers = file.records.iter().filter_map(Record::run);
        let next = first + numbers.max().map_or(0, |last| last + 1);
        if !file.is_complete() {
            outcome = JobOutcome::Partial;
            reason.clone_from(&file.end.reason);
        }
        for record in &file.records {
            let mut record = record.clone();
            if let Some(run) = record.run() {
                record.set_run(first + run);
            }
            match (&mut record, guest) {
                (Record::Run(run), _) => run.guest.clone_from(guest),
                (Record::Vm(vm), Some(_)) => {
                    vm.cgroup = Observed::missing("a test guest's own, gone with it");
                }
                _ => {}
            }
            writer.push(&record)?;
        }
        first = next;
    }
    if process::interrupted() {
        outcome = JobOutcome::Partial;
        reason = Some("interrupted".to_owned());
    }
    let disturbances = runs.iter().map(|(file, _)| file.end.disturbance.clone());
    let disturbance = disturbances.reduce(|mut sum, more| {
        sum.add(&more);
        sum
    });
    let disturbance = disturbance.unwrap_or_else(|| Disturbance::unwatched("nothing was recorded"));
    Ok(writer.finish(outcome, reason, disturbance)?)
}
