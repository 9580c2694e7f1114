//! The test guest as a child process that cannot outlive us: it ends when its
//! standard input closes.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use ::report::{Observed, schema::GuestRun};
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::process;

/// How long the guest may take to end once its input is closed.
const GRACE: Duration = Duration::from_secs(20);

/// The line a guest prints when it runs.
#[derive(Debug, Deserialize)]
struct Ready {
    pid: u32,
    pages: u64,
    aliases: u32,
    nested: bool,
    backing: String,
    driver: String,
    /// KVM's statistics by name.
    stats: BTreeMap<String, Vec<u64>>,
}

/// A running test guest.
pub(crate) struct TestGuest {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    ready: Ready,
    held: bool,
}

/// What guest to start.
pub(crate) struct Wanted {
    pub(crate) pages: u64,
    pub(crate) aliases: u32,
    /// Make it an L1 whose L2 uses the pages.
    pub(crate) nested: bool,
    pub(crate) driver: &'static str,
    /// Keep it standing still while it is aged.
    pub(crate) held: bool,
}

/// What the guest answers to a request.
#[derive(Debug, Deserialize)]
pub(crate) struct Progress {
    /// Passes so far.
    pub(crate) passes: u64,
    /// How long its driver aged it on this request, if it has one.
    pub(crate) aged_ns: Option<u64>,
}

impl TestGuest {
    /// Starts a guest and waits until it has touched all its pages.
    ///
    /// # Errors
    /// If the guest cannot run here; its own words are on standard error.
    pub(crate) fn start(program: &Path, wanted: &Wanted) -> Result<Self> {
        let hold = wanted.held.then_some("--hold");
        Self::start_with(program, wanted, hold.as_slice())
    }

    /// As [`start`](Self::start), with further flags of the guest's program instead of `held`.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub(crate) fn start_with(program: &Path, wanted: &Wanted, flags: &[&str]) -> Result<Self> {
        let mut command = process::as_root(program)?;
        command.args([
            "run",
            "--json",
            "--until-stdin-closes",
            "--driver",
            wanted.driver,
        ]);
        command.arg("--pages").arg(wanted.pages.to_string());
        command.arg("--aliases").arg(wanted.aliases.to_string());
        if wanted.nested {
            command.arg("--nested");
        }
        command.args(flags);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let shown = process::shown(&command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start: {shown}"))?;
        let stdin = child.stdin.take();
        let stdout = child
            .stdout
            .take()
            .context("the guest has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let Some(line) = lines.next().transpose()? else {
            let status = process::wait(&mut child)?;
            bail!("the test guest did not start ({status}): {shown}");
        };
        let ready = serde_json::from_str(&line)
            .with_context(|| format!("the test guest said {line:?} instead of what it is"))?;
        Ok(Self {
            child,
            stdin,
            lines,
            ready,
            held: wanted.held,
        })
    }

    /// The process that owns the VM.
    pub(crate) fn pid(&self) -> u32 {
        self.ready.pid
    }

    /// Asks a guest that was started with `--on-request`, and waits for its answer.
    ///
    /// # Errors
    /// If it ended instead; its own words are on standard error.
    pub(crate) fn ask(&mut self) -> Result<Progress> {
        let stdin = self.stdin.as_mut().context("the test guest has ended")?;
        writeln!(stdin).context("the test guest does not listen any more")?;
        let line = self.lines.next().transpose()?;
        let line = line.context("the test guest ended instead of answering")?;
        serde_json::from_str(&line).with_context(|| format!("the test guest answered {line:?}"))
    }

    /// Ends the guest, waits until it has cleaned up, and says what it was.
    pub(crate) fn stop(mut self) -> Result<GuestRun> {
        self.end()?;
        let ready = &self.ready;
        Ok(GuestRun {
            pages: ready.pages,
            aliases: ready.aliases,
            nested: ready.nested,
            backing: ready.backing.clone(),
            driver: ready.driver.clone(),
            held: self.held,
            sptes_4k: match ready.stats.get("pages_4k").map(Vec::as_slice) {
                Some([sptes]) => Observed::Value(*sptes),
                _ => Observed::missing("KVM's statistics have no pages_4k"),
            },
        })
    }

    fn end(&mut self) -> Result<()> {
        if self.stdin.take().is_none() {
            return Ok(());
        }
        let deadline = Instant::now() + GRACE;
        while self.lines.next().transpose()?.is_some() {}
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                if status.success() || process::interrupted() {
                    return Ok(());
                }
                bail!("the test guest ended with {status}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the test guest did not end within {} s", GRACE.as_secs())
    }
}

impl Drop for TestGuest {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            ::report::say!("warning: {error}");
        }
    }
}
