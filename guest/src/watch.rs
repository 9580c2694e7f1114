//! What can end the guest from outside: signals, stdin, the parent.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::{Pid, getppid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Why the guest is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Time,
    Signal(i32),
    StdinClosed,
    ParentDied,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "time",
            Self::Signal(SIGINT) => "SIGINT",
            Self::Signal(SIGTERM) => "SIGTERM",
            Self::Signal(_) => "SIGHUP",
            Self::StdinClosed => "stdin closed",
            Self::ParentDied => "parent died",
        })
    }
}

/// Something came from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The guest is to end.
    End(Reason),
    /// A line on stdin: the guest is to be aged.
    Line,
}

/// Listens from the moment it is made, so that no signal kills the guest uncleanly.
pub(crate) struct Watch {
    words: Receiver<Word>,
    ended: Arc<AtomicBool>,
    /// The parent at the start, where its death is an end.
    parent: Option<Pid>,
}

impl Watch {
    /// Starts to listen for signals and, with `parent`, for the end of stdin and of the parent.
    pub(crate) fn start(parent: bool) -> anyhow::Result<Self> {
        let (sender, words) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).context("could not listen for signals")?;
        let for_signals = (sender.clone(), Arc::clone(&ended));
        spawn("guest-signals", move || {
            for signal in signals.forever() {
                announce(&for_signals, Reason::Signal(signal));
            }
        })?;
        if parent {
            let for_stdin = (sender, Arc::clone(&ended));
            spawn("guest-stdin", move || {
                pass_lines_on(&for_stdin.0);
                announce(&for_stdin, Reason::StdinClosed);
            })?;
        }
        Ok(Self {
            words,
            ended,
            parent: parent.then(getppid),
        })
    }

    /// Whether a reason to end has come up; [`wait`](Self::wait) tells which.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.parent_died()
    }

    /// What comes next, if it comes within `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<Word> {
        match self.words.recv_timeout(timeout) {
            Ok(word) => Some(word),
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {
                self.parent_died().then_some(Word::End(Reason::ParentDied))
            }
        }
    }

    /// A process whose parent dies gets another. (A death signal would also come when only the
    /// parent's thread that started us ends.)
    fn parent_died(&self) -> bool {
        self.parent.is_some_and(|parent| parent != getppid())
    }
}

fn announce((sender, ended): &(Sender<Word>, Arc<AtomicBool>), reason: Reason) {
    ended.store(true, Ordering::Release);
    // Nobody listens any more when the guest is on its way out already.
    let _ = sender.send(Word::End(reason));
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .with_context(|| format!("could not start the thread {name}"))
}

/// Returns when stdin is at its end or cannot be read.
fn pass_lines_on(sender: &Sender<Word>) {
    for _ in io::stdin().lines().map_while(Result::ok) {
        // Nobody listens any more when the guest is on its way out already.
        let _ = sender.send(Word::Line);
    }
}
