//! Running rmapscope from tests.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::fd::AsFd as _,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::OnceLock,
};

use guest::live;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use report::{
    ResultFile,
    schema::{CallbackRecord, Record},
};

/// The program under test.
pub(crate) fn rmapscope() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rmapscope"))
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    rmapscope()
        .args(arguments)
        .output()
        .expect("rmapscope starts")
}

/// What it said on standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `rmapscope doctor` says of this host, asked once.
fn doctor() -> &'static Result<serde_json::Value, String> {
    static SAID: OnceLock<Result<serde_json::Value, String>> = OnceLock::new();
    SAID.get_or_init(|| {
        let output = run(&["doctor", "--json"]);
        if !output.status.success() {
            return Err(format!("rmapscope doctor: {}", stderr(&output)));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    })
}

/// A host with a guest of ours that can be profiled.
pub(crate) fn host() -> Result<(), String> {
    live::root()?;
    live::kvm().map_err(|error| error.to_string())?;
    doctor().clone().map(drop)
}

/// A host where every callback can be timed.
pub(crate) fn exact_host() -> Result<(), String> {
    host()?;
    let ladder = doctor().clone()?;
    if ladder["rung"] == "exact" {
        return Ok(());
    }
    let refused = &ladder["signals"][0]["attempts"][0]["refused"];
    Err(format!("callbacks cannot be timed here: {refused}"))
}

/// A host whose reclaim of a guest of ours can be profiled and counted.
pub(crate) fn reclaim_host() -> Result<(), String> {
    host()?;
    live::memcg().map_err(|error| error.to_string())?;
    live::disk().map_err(|error| error.to_string())?;
    live::tracefs().map_err(|error| error.to_string())?;
    Ok(())
}

/// A recording that runs.
pub(crate) struct Recording {
    child: Child,
    stderr: BufReader<ChildStderr>,
    folder: tempfile::TempDir,
    /// Numbers of the VMs it said it found and did not say ended.
    alive: BTreeSet<u32>,
}

impl Recording {
    /// Starts to record this process's VMs; returns once every callback counts.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::lasting("100s", arguments)
    }

    /// As [`start`](Self::start), to end by itself after `duration`.
    pub(crate) fn lasting(duration: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = rmapscope()
            .args(["record", "--duration", duration, "--pid"])
            .arg(std::process::id().to_string())
            .arg("--output")
            .arg(folder.path().join("profile.jsonl"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rmapscope starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut recording = Self {
            child,
            stderr,
            folder,
            alive: BTreeSet::new(),
        };
        while !recording.take_line().starts_with("recording ") {}
        recording
    }

    /// Waits until as many VMs are alive as far as it knows; it must have been
    /// started with `--verbose`.
    pub(crate) fn await_vms(&mut self, count: usize) {
        loop {
            while !self.stderr.buffer().is_empty() || has_more(self.stderr.get_ref()) {
                self.take_line();
            }
            if self.alive.len() == count {
                return;
            }
            self.take_line();
        }
    }

    /// Reads a line, and notes if it tells of a VM that came or went.
    fn take_line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stderr.read_line(&mut line).expect("UTF-8");
        assert!(read > 0, "the recording ended, and should have gone on");
        if let Some(told) = line.strip_prefix("INFO  VM ") {
            let (number, told) = told
                .split_once(' ')
                .expect("a number and what became of it");
            let number = number.parse().expect("a VM's number");
            if told.starts_with("found: ") {
                self.alive.insert(number);
            } else if told.starts_with("ended: ") {
                self.alive.remove(&number);
            }
        }
        line
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal and waits for the end; returns the exit status, what was
    /// said, and the result file if there is one.
    pub(crate) fn end(mut self, signal: Option<Signal>) -> Ended {
        if let Some(signal) = signal {
            let pid = i32::try_from(self.child.id()).expect("a pid");
            kill(Pid::from_raw(pid), signal).expect("it still runs");
        }
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).expect("UTF-8");
        let status = self.child.wait().expect("it ends");
        let path = self.folder.path().join("profile.jsonl");
        let file = path
            .exists()
            .then(|| ResultFile::read(&path).expect("a result file"));
        let left = fs::read_dir(self.folder.path()).expect("the folder");
        let left = left.map(|entry| entry.expect("an entry").path()).collect();
        Ended {
            code: status.code(),
            said,
            file,
            left,
        }
    }
}

/// Whether there is something to read now.
fn has_more(stderr: &ChildStderr) -> bool {
    let mut wait = [PollFd::new(stderr.as_fd(), PollFlags::POLLIN)];
    poll(&mut wait, PollTimeout::ZERO).expect("it can be polled") > 0
}

/// How a recording ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
    pub(crate) file: Option<ResultFile>,
    /// Files in its folder.
    pub(crate) left: Vec<PathBuf>,
}

impl Ended {
    /// The result file, which must be there.
    pub(crate) fn file(&self) -> &ResultFile {
        self.file
            .as_ref()
            .unwrap_or_else(|| panic!("no result: {}", self.said))
    }
}

/// Records while `act` runs.
pub(crate) fn record(arguments: &[&str], act: impl FnOnce()) -> ResultFile {
    let recording = Recording::start(arguments);
    act();
    let ended = recording.end(Some(Signal::SIGINT));
    ended.file.expect("a result file")
}

/// The records of callbacks on a VM being recorded.
pub(crate) fn callbacks(file: &ResultFile) -> impl Iterator<Item = &CallbackRecord> {
    file.records.iter().filter_map(|record| match record {
        Record::Callbacks(callbacks) if callbacks.vm.is_some() => Some(&**callbacks),
        _ => None,
    })
}

/// The losses of callbacks and events that a file reports.
pub(crate) fn losses(file: &ResultFile) -> Vec<(String, u64)> {
    let losses = file.records.iter().filter_map(|record| match record {
        Record::Loss(loss) if loss.signal == "callbacks" || loss.signal == "events" => {
            Some((loss.cause.clone(), *loss.count.value().expect("counted")))
        }
        _ => None,
    });
    losses.collect()
}

/// Where KVM shows this process's VM: the file whose reading holds `mmu_lock`
/// for write over all rmaps.
pub(crate) fn rmap_statistics() -> Result<PathBuf, String> {
    let folder = "/sys/kernel/debug/kvm";
    let entries = fs::read_dir(folder).map_err(|error| format!("{folder}: {error}"))?;
    // Named after the thread that created it.
    let own = format!("{}-", nix::unistd::gettid());
    let mut files = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
        .map(|entry| entry.path().join("mmu_rmaps_stat"));
    files
        .find(|path| path.exists())
        .ok_or_else(|| format!("{folder} does not show this process's VM"))
}

/// Major and minor version of the kernel. The profiler concludes nothing from a
/// version; a test must know the truth from elsewhere.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = nix::sys::utsname::uname().expect("a kernel");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
