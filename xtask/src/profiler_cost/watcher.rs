//! Who watches, and how each is started and ended.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::seen::{self, Seen};
use crate::process;

/// KVM's aging tracepoints.
const TRACEPOINTS: [&str; 2] = ["kvm:kvm_age_hva", "kvm:kvm_test_age_hva"];
/// How long a watcher may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between a watcher saying that it starts, if it says so, and its first
/// pass: perf says nothing.
const SETTLE: Duration = Duration::from_millis(500);

/// One way of watching, or of not watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Watcher {
    /// Nobody: what the others are compared with
    Nobody,
    /// `rmapscope record` at its defaults
    Rmapscope,
    /// `rmapscope record` with as few samples as it takes and no interference: the counting alone
    RmapscopeCounting,
    /// bpftrace counting callbacks per command
    Bpftrace,
    /// perf stat counting callbacks
    PerfStat,
    /// perf record keeping every callback
    PerfRecord,
    /// perf trace printing every callback
    PerfTrace,
}

impl Watcher {
    /// The name in results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Rmapscope => "rmapscope",
            Self::RmapscopeCounting => "rmapscope-counting",
            Self::Bpftrace => "bpftrace",
            Self::PerfStat => "perf-stat",
            Self::PerfRecord => "perf-record",
            Self::PerfTrace => "perf-trace",
        }
    }

    /// Why it cannot watch on this host, if it cannot.
    pub(super) fn is_missing(self) -> Option<String> {
        let (program, package) = match self {
            Self::Nobody | Self::Rmapscope | Self::RmapscopeCounting => return None,
            Self::Bpftrace => ("bpftrace", "bpftrace"),
            Self::PerfStat | Self::PerfRecord | Self::PerfTrace => ("perf", "linux-perf"),
        };
        (!process::on_path(program))
            .then(|| format!("{program} is not installed; on Debian: apt-get install {package}"))
    }

    /// The command that watches, and what it says once it has begun.
    fn command(self, job: &Job<'_>) -> Result<Option<(Command, &'static str)>> {
        let [age, test] = TRACEPOINTS;
        let events = TRACEPOINTS.join(",");
        let started = match self {
            Self::Nobody => return Ok(None),
            Self::Rmapscope => (job.rmapscope(&[])?, "recording "),
            Self::RmapscopeCounting => (
                job.rmapscope(&["--rate", "1", "--no-interference"])?,
                "recording ",
            ),
            Self::Bpftrace => {
                let script = format!("tracepoint:{age},tracepoint:{test} {{ @[comm] = count(); }}");
                let mut command = process::as_root("bpftrace")?;
                command.args(["-f", "json", "-e", &script]);
                (command, "attached_probes")
            }
            Self::PerfStat => {
                let mut command = process::as_root("perf")?;
                command.args(["stat", "-a", "-x,", "-e", &events, "-o"]);
                command.arg(&job.output);
                (command, "")
            }
            Self::PerfRecord => {
                let mut command = process::as_root("perf")?;
                command.args(["record", "-q", "-a", "-e", &events, "-o"]);
                command.arg(&job.output);
                (command, "")
            }
            Self::PerfTrace => {
                let mut command = process::as_root("perf")?;
                command.args(["trace", "-a", "--no-syscalls", "-e", &events, "-o"]);
                command.arg(&job.output);
                (command, "")
            }
        };
        Ok(Some(started))
    }

    /// Starts to watch; returns once every callback is seen.
    ///
    /// # Errors
    /// If it does not start, with what it said.
    pub(super) fn start(self, job: &Job<'_>) -> Result<Option<Watching>> {
        let Some((mut command, word)) = self.command(job)? else {
            thread::sleep(SETTLE);
            return Ok(None);
        };
        let said = job.folder.join("said");
        let file =
            File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
        command.stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        let shown = process::shown(&command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start: {shown}"))?;
        let mut watching = Watching {
            watcher: self,
            child,
            said,
            output: job.output.clone(),
            shown,
        };
        watching.wait_for(word)?;
        thread::sleep(SETTLE);
        Ok(Some(watching))
    }
}

/// What a watcher is started for.
pub(super) struct Job<'a> {
    pub(super) profiler: &'a Path,
    /// The process of the guest.
    pub(super) pid: u32,
    /// A folder that is empty but for what the watcher leaves.
    pub(super) folder: &'a Path,
    /// Where it may write.
    pub(super) output: PathBuf,
}

impl Job<'_> {
    fn rmapscope(&self, flags: &[&str]) -> Result<Command> {
        let mut command = process::as_root(self.profiler)?;
        command.args(["record", "--duration", "1h", "--pid"]);
        command.arg(self.pid.to_string()).args(flags);
        command.arg("--output").arg(&self.output);
        Ok(command)
    }
}

/// A watcher at work. Dropped before its [`end`](Self::end) it is ended all the same.
pub(super) struct Watching {
    watcher: Watcher,
    child: Child,
    said: PathBuf,
    output: PathBuf,
    shown: String,
}

impl Watching {
    fn wait_for(&mut self, word: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.said()?.contains(word) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{status} from: {}\n{}", self.shown, self.said()?.trim());
            }
            if Instant::now() > deadline {
                bail!("does not start: {}\n{}", self.shown, self.said()?.trim());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn said(&self) -> Result<String> {
        let bytes =
            fs::read(&self.said).with_context(|| format!("cannot read {}", self.said.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Ends it as Ctrl-C would and returns what it saw.
    ///
    /// # Errors
    /// If it does not end, or says nothing that can be read.
    pub(super) fn end(mut self) -> Result<Seen> {
        self.stop()?;
        let said = self.said()?;
        let seen = match self.watcher {
            Watcher::Nobody => Ok(Seen::nothing()),
            Watcher::Rmapscope | Watcher::RmapscopeCounting => seen::by_rmapscope(&self.output),
            Watcher::Bpftrace => seen::by_bpftrace(&said),
            Watcher::PerfStat => seen::by_perf_stat(&self.output),
            Watcher::PerfRecord => seen::by_perf_record(&self.output),
            Watcher::PerfTrace => seen::by_perf_trace(&self.output),
        };
        let seen = seen.with_context(|| format!("{} said {:?}", self.shown, said.trim()))?;
        for path in [&self.output, &self.said] {
            // Some leave none of their own.
            let _ = fs::remove_file(path);
        }
        Ok(seen)
    }

    fn stop(&mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        // Ended already, if it failed; what it said tells.
        let _ = kill(pid, Signal::SIGINT);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                bail!("did not end when interrupted: {}", self.shown);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none())
            && let Err(error) = self.stop()
        {
            ::report::say!("warning: {error:#}");
        }
    }
}
