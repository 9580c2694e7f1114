//! A recording from the first look for VMs to its end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::{draws_progress, options::Options};
use crate::{
    census_command::of_process,
    ladder::Ladder,
    observe::{Ended, Session, Signals, Stretches},
    privileges::Keep,
};

/// Time between two looks while there is no VM yet.
const WAIT: Duration = Duration::from_secs(1);

/// A session that is being recorded.
pub(super) struct Recorder<'a> {
    pub(super) options: &'a Options,
    pub(super) session: Session<'a>,
    pub(super) stretches: Stretches,
}

impl<'a> Recorder<'a> {
    /// Nothing is attached yet.
    pub(super) fn new(options: &'a Options, session: Session<'a>) -> Self {
        Self {
            options,
            session,
            stretches: Stretches::default(),
        }
    }

    /// Finds the VMs to record and reads their chain lengths; waits for one if
    /// asked to. Returns the signal that ended the waiting, if one did.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn find_vms(&mut self, signals: &mut Signals) -> Result<Option<u8>> {
        loop {
            self.session.refresh()?;
            if self.session.registry.alive().next().is_some() {
                break;
            }
            if !self.options.wait {
                bail!(
                    "no VM of KVM is running{}; start one, wait for one with --wait, or let \
                     `cargo xtask profile` start a test guest",
                    of_process(self.options.observe.pid)
                );
            }
            tokio::select! {
                number = signals.next() => return Ok(Some(number)),
                () = sleep(WAIT) => {}
            }
        }
        self.session.take_census()?;
        Ok(None)
    }

    /// Attaches the programs: the recording begins.
    pub(super) fn start(&mut self, ladder: &Ladder) -> Result<()> {
        self.session.start(ladder, Keep::ObservingAndWriting)?;
        if !self.options.quiet {
            let vms = self.session.registry.alive().count();
            report::say!(
                "recording {vms} VM{} for {:?}, {}",
                if vms == 1 { "" } else { "s" },
                self.options.duration,
                self.session.manner()
            );
        }
        Ok(())
    }

    /// Records until something ends it, then detaches the programs. What fails
    /// once it records ends it too.
    ///
    /// # Errors
    /// If nothing was recorded.
    pub(super) async fn run(&mut self, signals: &mut Signals) -> Result<Ended> {
        let logging = self.session.forward_log()?;
        let ended = self.wait(signals).await;
        let ended = ended.unwrap_or_else(|error| Ended::failed(&error));
        let ended = ended.and(self.session.detach());
        if let Some(logging) = logging {
            logging.abort();
        }
        Ok(ended.and(self.settle()))
    }

    /// Keeps what was counted since this was last called; what is kept of VMs that are gone
    /// need not stay in the kernel's maps.
    fn settle(&mut self) -> Result<()> {
        self.stretches.add(self.session.settle()?);
        self.session.forget_gone()
    }

    async fn wait(&mut self, signals: &mut Signals) -> Result<Ended> {
        let progress = progress(self.options);
        let deadline = self.session.start.at + self.options.duration;
        let mut ticks = interval(Duration::from_millis(200));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_refresh = Instant::now() + WAIT;
        loop {
            tokio::select! {
                biased;
                number = signals.next() => return Ok(Ended::Signal(number)),
                () = sleep_until(deadline.into()) => return Ok(Ended::Duration),
                _ = ticks.tick() => {
                    self.session.start.watch.look();
                    progress.set_position(millis(self.session.start.at.elapsed()));
                }
                () = self.session.turn() => {
                    self.settle()?;
                    self.session.next_turn()?;
                }
                () = sleep_until(next_refresh.into()) => {
                    if !self.session.kernel.has_same_kvm() {
                        return Ok(Ended::KvmGone);
                    }
                    next_refresh = Instant::now() + self.session.refresh()?;
                    if self.session.has_gone() {
                        self.settle()?;
                    }
                    if self.is_over() {
                        return Ok(Ended::VmsGone);
                    }
                    self.session.look_again()?;
                    self.keep_ceiling(&progress)?;
                }
                taken = self.session.take_events() => taken?,
            }
        }
    }

    /// Lowers the rates if observing costs too much; says once if that does not help.
    fn keep_ceiling(&mut self, progress: &ProgressBar) -> Result<()> {
        if let Some(excess) = self.session.excess() {
            self.settle()?;
            self.session.lower(excess)?;
        }
        if let (false, Some(news)) = (self.options.quiet, self.session.news()) {
            progress.suspend(|| report::say!("{news}"));
        }
        Ok(())
    }

    /// Whether the process to record has no VM any more.
    fn is_over(&self) -> bool {
        self.options.observe.pid.is_some() && self.session.registry.alive().next().is_none()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn progress(options: &Options) -> ProgressBar {
    if !draws_progress(options) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(millis(options.duration));
    let style = indicatif::ProgressStyle::with_template("recording {wide_bar} {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
