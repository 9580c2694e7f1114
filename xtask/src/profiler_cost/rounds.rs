//! Watchers taking turns on one guest.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{
    Options,
    seen::Seen,
    watcher::{Job, Watcher},
};
use crate::{
    process,
    profile::guest::{TestGuest, Wanted},
};

/// Passes before the first round, until the page cache is as every round finds it.
const WARM_UP: u32 = 3;

/// One watcher's turn in one round.
pub(super) struct Turn {
    /// Median of the timed passes.
    pub(super) pass_ns: f64,
    /// Median of those right before and right after, which nobody watched.
    pub(super) alone_ns: f64,
    /// Passes that were watched: the timed ones and one before them.
    pub(super) passes: u32,
    pub(super) seen: Seen,
}

/// A watcher and its turns.
pub(super) struct Arm {
    pub(super) watcher: Watcher,
    /// Why it has none.
    pub(super) missing: Option<String>,
    pub(super) turns: Vec<Turn>,
}

/// All turns so far.
pub(super) struct Rounds {
    pub(super) arms: Vec<Arm>,
    pub(super) guest_pages: u64,
    pub(super) guest_aliases: u32,
    guest: Option<TestGuest>,
    profiler: PathBuf,
    folder: tempfile::TempDir,
}

impl Rounds {
    /// Builds what is needed and starts the guest.
    pub(super) fn prepare(options: &Options) -> Result<Self> {
        let profiler = process::build("rmapscope")?;
        let program = process::build("guest")?;
        let wanted = Wanted {
            pages: options.guest_pages,
            aliases: options.guest_aliases,
            nested: false,
            driver: "reclaim",
            held: true,
        };
        let mut guest = TestGuest::start_with(&program, &wanted, &["--on-request"])?;
        for _ in 0..WARM_UP {
            guest.ask()?;
        }
        Ok(Self {
            arms: arms(&options.watchers),
            guest_pages: options.guest_pages,
            guest_aliases: options.guest_aliases,
            guest: Some(guest),
            profiler,
            folder: tempfile::Builder::new().prefix("rmapscope-").tempdir()?,
        })
    }

    /// Rounds that all watchers have had.
    pub(super) fn done(&self) -> usize {
        let present = self.arms.iter().filter(|arm| arm.missing.is_none());
        present.map(|arm| arm.turns.len()).min().unwrap_or(0)
    }

    /// Lets every watcher have a turn of `passes`, in a random order.
    pub(super) fn round(&mut self, passes: u32) -> Result<()> {
        let present = 0..self.arms.len();
        let mut order: Vec<usize> = present
            .filter(|arm| self.arms[*arm].missing.is_none())
            .collect();
        fastrand::shuffle(&mut order);
        for arm in order {
            if process::interrupted() {
                break;
            }
            let turn = self.turn(self.arms[arm].watcher, passes)?;
            self.arms[arm].turns.push(turn);
        }
        Ok(())
    }

    fn turn(&mut self, watcher: Watcher, passes: u32) -> Result<Turn> {
        let guest = self.guest.as_mut().context("the guest has ended")?;
        let job = Job {
            profiler: &self.profiler,
            pid: guest.pid(),
            folder: self.folder.path(),
            output: self.folder.path().join("output"),
        };
        let mut alone = timed(guest, passes)?;
        let watching = watcher.start(&job)?;
        let watched = timed(guest, passes)?;
        let seen = match watching {
            Some(watching) => watching.end()?,
            None => Seen::nothing(),
        };
        alone.extend(timed(guest, passes)?);
        let median = |times: &[f64]| ::report::stats::median(times).unwrap_or(f64::NAN);
        Ok(Turn {
            pass_ns: median(&watched),
            alone_ns: median(&alone),
            passes: passes + 1,
            seen,
        })
    }

    /// Ends the guest; the last round is dropped unless all watchers had it.
    pub(super) fn end(mut self) -> Result<Self> {
        let done = self.done();
        for arm in &mut self.arms {
            arm.turns.truncate(done);
        }
        if let Some(guest) = self.guest.take() {
            guest.stop()?;
        }
        Ok(self)
    }
}

/// Times of as many passes, after one that is not timed.
fn timed(guest: &mut TestGuest, passes: u32) -> Result<Vec<f64>> {
    guest.ask()?;
    (0..passes)
        .map(|_| {
            let aged_ns = guest.ask()?.aged_ns;
            Ok(aged_ns.context("the guest has no driver")? as f64)
        })
        .collect()
}

/// Nobody, and the watchers asked for; all without being asked.
fn arms(asked: &[Watcher]) -> Vec<Arm> {
    use clap::ValueEnum as _;
    let wanted = |watcher: &&Watcher| {
        asked.is_empty() || **watcher == Watcher::Nobody || asked.contains(watcher)
    };
    let watchers = Watcher::value_variants().iter().filter(wanted);
    watchers
        .map(|watcher| Arm {
            watcher: *watcher,
            missing: watcher.is_missing(),
            turns: Vec::new(),
        })
        .collect()
}
