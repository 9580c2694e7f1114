//! A recording while it runs: the tables the kernel side needs are kept fresh,
//! raw events are taken out of the ring buffer, and whatever ends it is noted.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, RingBuf},
    sys::{Stats, enable_stats},
};
use indicatif::ProgressBar;
use profiler_common::event::Event;
use report::{host, schema::CensusRecord};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    attach::Probes,
    counts::Counters,
    disturbance::Watch,
    ended::{Ended, Signals},
    options::Options,
    own_cost,
};
use crate::{
    census::Scanner,
    census_command::of_process,
    intervals::Intervals,
    ladder::Rung,
    object::{self, Kernel, Settings},
    vms::{FindError, Finder, Found, Registry},
};

/// Time between two looks for new, changed and ended VMs.
const REFRESH: Duration = Duration::from_secs(1);
/// A look may take this share of the time between two.
const REFRESH_SHARE: u32 = 50;
/// Raw events kept in memory; the ring buffer fills up and counts losses after that.
const MAX_EVENTS: usize = 1 << 20;
/// Cells per CPU.
const CELLS: u32 = 8192;
/// Latency histograms per CPU on the exact rung.
const HISTOGRAMS: u32 = 1024;

/// A recording.
pub(super) struct Session<'a> {
    pub(super) options: &'a Options,
    pub(super) kernel: &'a Kernel,
    pub(super) rung: Rung,
    pub(super) registry: Registry,
    pub(super) counters: Counters,
    pub(super) intervals: Intervals,
    pub(super) census: Vec<CensusRecord>,
    pub(super) events: Vec<Event>,
    pub(super) find_problems: FindProblems,
    pub(super) probes: Option<Probes>,
    pub(super) statistics: Result<OwnedFd, String>,
    pub(super) start: Start,
    ebpf: Ebpf,
    finder: Finder,
    /// VMs that are not recorded but have addresses.
    foreign: Vec<Found>,
    vm_numbers: HashMap<MapData, u64, u32>,
    ring: AsyncFd<RingBuf<MapData>>,
}

/// When a recording started, in the clocks that matter.
pub(super) struct Start {
    pub(super) utc: String,
    pub(super) at: Instant,
    pub(super) monotonic_ns: u64,
    pub(super) watch: Watch,
}

impl Start {
    fn now() -> Self {
        Self {
            utc: host::utc_now(),
            at: Instant::now(),
            monotonic_ns: monotonic_ns(),
            watch: Watch::start(),
        }
    }
}

/// The clock that the kernel side stamps events with.
fn monotonic_ns() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// What looking for VMs missed, summed over all looks.
#[derive(Debug, Default)]
pub(super) struct FindProblems {
    pub(super) did_not_fit: u64,
    pub(super) faults: u64,
    pub(super) changed: u64,
}

impl<'a> Session<'a> {
    /// Creates the maps, finds the VMs and reads their chain lengths. Nothing
    /// is attached yet.
    pub(super) fn prepare(options: &'a Options, kernel: &'a Kernel, rung: Rung) -> Result<Self> {
        let settings = Settings {
            stack_every: options.stack_every,
            event_every: options.event_every,
            cells: CELLS,
            histograms: if rung == Rung::Exact { HISTOGRAMS } else { 1 },
            verbose: options.verbose,
        };
        let mut ebpf = kernel.prepare(&settings)?;
        let finder = Finder::new(&mut ebpf, &kernel.btf)?;
        let memslots_offset = kernel.layout.offset("KVM_MEMSLOTS").unwrap_or_default();
        let ring: RingBuf<MapData> = object::take(&mut ebpf, "EVENTS")?;
        // SAFETY: a ring buffer owns its map's descriptor for its whole life and always
        // returns that one.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Self {
            options,
            kernel,
            rung,
            registry: Registry::default(),
            counters: Counters::new(&mut ebpf)?,
            intervals: Intervals::new(&mut ebpf, u64::from(memslots_offset))?,
            census: Vec::new(),
            events: Vec::new(),
            find_problems: FindProblems::default(),
            probes: None,
            statistics: Err("not recording".to_owned()),
            start: Start::now(),
            finder,
            foreign: Vec::new(),
            vm_numbers: object::take(&mut ebpf, "VM_NUMBERS")?,
            ring: ring.map_err(|error| error.into_parts().1)?,
            ebpf,
        })
    }

    /// Finds the VMs to record; waits for one if asked to. Returns the signal
    /// that ended the waiting, if one did.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn find_vms(&mut self, signals: &mut Signals) -> Result<Option<u8>> {
        loop {
            self.refresh()?;
            if self.registry.alive().next().is_some() {
                break;
            }
            if !self.options.wait {
                bail!(
                    "no VM of KVM is running{}; start one, wait for one with --wait, or let \
                     `cargo xtask profile` start a test guest",
                    of_process(self.options.pid)
                );
            }
            tokio::select! {
                number = signals.next() => return Ok(Some(number)),
                () = sleep(REFRESH) => {}
            }
        }
        self.take_census()?;
        Ok(None)
    }

    /// Chain lengths at the start; a VM that ends meanwhile has none.
    fn take_census(&mut self) -> Result<()> {
        let mut scanner = Scanner::new(&mut self.ebpf, &self.kernel.btf)?;
        for tracked in self.registry.alive() {
            match scanner.scan(&tracked.found, false) {
                Ok(levels) => {
                    let number = u32::from(tracked.number);
                    self.census
                        .extend(levels.iter().map(|level| level.record(0, number)));
                }
                Err(FindError::Gone(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Attaches the programs, on the exact rung with the `inner` functions if
    /// they can be probed: the recording begins.
    pub(super) fn start(&mut self, inner: bool) -> Result<()> {
        self.statistics = enable_stats(Stats::RunTime)
            .map_err(|error| format!("BPF statistics are refused: {}", error.io_error));
        let period_ns = self.options.period_ns();
        let probes = Probes::attach(&mut self.ebpf, self.kernel, self.rung, inner, period_ns)?;
        self.probes = Some(probes);
        self.start = Start::now();
        Ok(())
    }

    /// What is recorded, in a line.
    pub(super) fn announcement(&self) -> String {
        let vms = self.registry.alive().count();
        let how = match self.rung {
            Rung::Exact => "every callback timed".to_owned(),
            Rung::Sampled => format!("cost sampled at {} Hz per CPU", self.options.rate),
        };
        let mib = own_cost::map_memory_bytes() as f64 / f64::from(1 << 20);
        format!(
            "recording {vms} VM{} for {:?}, {how}, {mib:.1} MiB of eBPF maps",
            if vms == 1 { "" } else { "s" },
            self.options.duration
        )
    }

    /// Records until something ends it, then detaches the programs.
    pub(super) async fn run(&mut self, signals: &mut Signals) -> Result<(Ended, Duration)> {
        let logging = self
            .options
            .verbose
            .then(|| forward_log(&mut self.ebpf))
            .transpose()?;
        let ended = self.wait(signals).await;
        let lasted = self.start.at.elapsed();
        if let Some(probes) = &mut self.probes {
            probes.detach();
        }
        self.drain();
        if let Some(logging) = logging {
            logging.abort();
        }
        Ok((ended?, lasted))
    }

    async fn wait(&mut self, signals: &mut Signals) -> Result<Ended> {
        let progress = progress(self.options);
        let deadline = self.start.at + self.options.duration;
        let mut ticks = interval(Duration::from_millis(200));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_refresh = Instant::now() + REFRESH;
        loop {
            tokio::select! {
                biased;
                number = signals.next() => return Ok(Ended::Signal(number)),
                () = sleep_until(deadline.into()) => return Ok(Ended::Duration),
                _ = ticks.tick() => {
                    progress.set_position(millis(self.start.at.elapsed()));
                }
                () = sleep_until(next_refresh.into()) => {
                    let spent = self.refresh()?;
                    next_refresh = Instant::now() + REFRESH.max(spent * REFRESH_SHARE);
                    if self.options.pid.is_some() && self.registry.alive().next().is_none() {
                        return Ok(Ended::VmsGone);
                    }
                }
                ready = self.ring.readable_mut(), if self.events.len() < MAX_EVENTS => {
                    ready?.clear_ready();
                    self.drain();
                }
            }
        }
    }

    /// Looks for VMs and tells the kernel side what changed; returns the time it took.
    fn refresh(&mut self) -> Result<Duration> {
        let began = Instant::now();
        // All of them: an address of the recorded VM may be one of another's too.
        let mut inventory = self.finder.find(None)?;
        let foreign = inventory.take_foreign(self.options.pid);
        self.find_problems.did_not_fit += inventory.totals.did_not_fit;
        self.find_problems.faults += inventory.totals.faults;
        self.find_problems.changed += inventory.totals.changed;
        let now_s = match self.probes {
            Some(_) => self.start.at.elapsed().as_secs_f64(),
            None => 0.0,
        };
        let foreign_changed = foreign != self.foreign;
        self.foreign = foreign;
        if self.registry.update(inventory, now_s) || foreign_changed {
            self.intervals
                .publish(self.registry.alive(), &self.foreign)?;
            self.number_vms()?;
        }
        Ok(began.elapsed())
    }

    /// Tells the exact rung whose `struct kvm` and `mm_struct` belong to which number.
    fn number_vms(&mut self) -> Result<(), MapError> {
        for vm in self.registry.all().iter().filter(|vm| vm.gone_s.is_some()) {
            for address in [vm.found.vm.kvm, vm.found.vm.mm] {
                match self.vm_numbers.remove(&address) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for vm in self.registry.alive() {
            for address in [vm.found.vm.kvm, vm.found.vm.mm] {
                self.vm_numbers.insert(address, u32::from(vm.number), 0)?;
            }
        }
        Ok(())
    }

    /// Takes the events that are in the ring buffer.
    fn drain(&mut self) {
        let ring = self.ring.get_mut();
        while self.events.len() < MAX_EVENTS
            && let Some(item) = ring.next()
        {
            if item.len() != size_of::<Event>() {
                continue;
            }
            // SAFETY: the kernel side writes nothing but whole `Event`s into this ring, which
            // are integers without padding; the copy needs no alignment.
            let event = unsafe { item.as_ptr().cast::<Event>().read_unaligned() };
            self.events.push(event);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn progress(options: &Options) -> ProgressBar {
    if !super::draws_progress(options) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(millis(options.duration));
    let style = indicatif::ProgressStyle::with_template("recording {wide_bar} {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Passes the kernel side's log lines on to the logger.
fn forward_log(ebpf: &mut Ebpf) -> Result<tokio::task::JoinHandle<()>> {
    let logger = aya_log::EbpfLogger::init(ebpf)?;
    // SAFETY: a logger owns its ring buffer's descriptor for its whole life and always returns
    // that one.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = logger.map_err(|error| error.into_parts().1)?;
    Ok(tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
}
