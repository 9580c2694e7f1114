//! Programs attached: the tables the kernel side needs are kept fresh,
//! raw events are taken out of the ring buffer, and the cost is kept in bounds.

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
use profiler_common::event::Event;
use report::{host, schema::CensusRecord};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Counts, Observe, Stretch,
    attach::Probes,
    ceiling::{Ceiling, Lowered, lower},
    counts::Counters,
    disturbance::Watch,
    own_cost, period_ns,
};
use crate::{
    census::Scanner,
    intervals::Intervals,
    ladder::Rung,
    object::{self, Kernel, Settings},
    privileges::{self, Keep},
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

/// What is attached, and what it has seen.
pub(crate) struct Session<'a> {
    pub(crate) observe: &'a Observe,
    pub(crate) event_every: u32,
    pub(crate) kernel: &'a Kernel,
    pub(crate) rung: Rung,
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    pub(crate) intervals: Intervals,
    pub(crate) census: Vec<CensusRecord>,
    /// Reads chain lengths, once a census was taken.
    scanner: Option<Scanner>,
    pub(crate) events: Vec<Event>,
    pub(crate) find_problems: FindProblems,
    pub(crate) probes: Option<Probes>,
    pub(crate) statistics: Result<OwnedFd, String>,
    pub(crate) start: Start,
    /// Samples per second and CPU now.
    pub(crate) rate_hz: u32,
    pub(crate) lowered: Vec<Lowered>,
    ceiling: Option<Ceiling>,
    /// Counters and the time when they were last taken.
    settled: (Counts, Instant),
    ebpf: Ebpf,
    finder: Finder,
    /// VMs that are not recorded but have addresses.
    foreign: Vec<Found>,
    vm_numbers: HashMap<MapData, u64, u32>,
    ring: AsyncFd<RingBuf<MapData>>,
}

/// When a recording started, in the clocks that matter.
pub(crate) struct Start {
    pub(crate) utc: String,
    pub(crate) at: Instant,
    pub(crate) monotonic_ns: u64,
    pub(crate) watch: Watch,
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
pub(crate) struct FindProblems {
    pub(crate) did_not_fit: u64,
    pub(crate) faults: u64,
    pub(crate) changed: u64,
}

impl<'a> Session<'a> {
    /// Creates the maps, finds the VMs and reads their chain lengths. Nothing
    /// is attached yet.
    pub(crate) fn prepare(
        observe: &'a Observe,
        event_every: u32,
        kernel: &'a Kernel,
        rung: Rung,
    ) -> Result<Self> {
        let settings = Settings {
            stack_every: observe.stack_every,
            event_every,
            cells: CELLS,
            histograms: if rung == Rung::Exact { HISTOGRAMS } else { 1 },
            verbose: observe.verbose,
        };
        let mut ebpf = kernel.prepare(&settings)?;
        let finder = Finder::new(&mut ebpf, &kernel.btf)?;
        let memslots_offset = kernel.layout.offset("KVM_MEMSLOTS").unwrap_or_default();
        let ring: RingBuf<MapData> = object::take(&mut ebpf, "EVENTS")?;
        // SAFETY: a ring buffer owns its map's descriptor for its whole life and always
        // returns that one.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Self {
            observe,
            event_every,
            kernel,
            rung,
            registry: Registry::default(),
            counters: Counters::new(&mut ebpf)?,
            intervals: Intervals::new(&mut ebpf, u64::from(memslots_offset))?,
            census: Vec::new(),
            scanner: None,
            events: Vec::new(),
            find_problems: FindProblems::default(),
            probes: None,
            statistics: Err("not recording".to_owned()),
            start: Start::now(),
            rate_hz: observe.rate,
            lowered: Vec::new(),
            ceiling: None,
            settled: (Counts::default(), Instant::now()),
            finder,
            foreign: Vec::new(),
            vm_numbers: object::take(&mut ebpf, "VM_NUMBERS")?,
            ring: ring.map_err(|error| error.into_parts().1)?,
            ebpf,
        })
    }

    /// Chain lengths at the start; a VM that ends meanwhile has none.
    pub(crate) fn take_census(&mut self) -> Result<()> {
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
        self.scanner = Some(scanner);
        Ok(())
    }

    /// Reads the heads of the census again, while callbacks come: how many are
    /// locked at a time.
    pub(crate) fn look_again(&mut self) -> Result<()> {
        let Some(scanner) = &mut self.scanner else {
            return Ok(());
        };
        for tracked in self.registry.alive() {
            let number = u32::from(tracked.number);
            let known = self.census.iter_mut().filter(|record| record.vm == number);
            let mut known = known.peekable();
            if known.peek().is_none() {
                continue;
            }
            match scanner.scan(&tracked.found, false) {
                Ok(levels) => known.for_each(|record| {
                    levels.iter().for_each(|level| level.add_again(record));
                }),
                Err(FindError::Gone(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Attaches the programs, on the exact rung with the `inner` functions if
    /// they can be probed: the recording begins.
    pub(crate) fn start(&mut self, inner: bool, keep: Keep) -> Result<()> {
        self.statistics = enable_stats(Stats::RunTime)
            .map_err(|error| format!("BPF statistics are refused: {}", error.io_error));
        if let (Some(_), Err(reason)) = (self.observe.max_overhead, &self.statistics) {
            bail!("--max-overhead cannot be kept, for the cost is not known: {reason}");
        }
        let period = period_ns(self.rate_hz);
        let probes = Probes::attach(&mut self.ebpf, self.kernel, self.rung, inner, period)?;
        self.ceiling = self.observe.max_overhead.map(|most| {
            let cpus = aya::util::online_cpus().map_or(1, |cpus| cpus.len());
            Ceiling::new(
                most,
                cpus,
                own_cost::run_time_ns(&probes.loaded).unwrap_or(0),
            )
        });
        self.probes = Some(probes);
        self.start = Start::now();
        self.settled.1 = self.start.at;
        let admin = self.rung == Rung::Sampled && privileges::sampling_needs_admin();
        privileges::give_up(keep, admin)?;
        Ok(())
    }

    /// How callbacks are observed and in how much memory, in a few words.
    pub(crate) fn manner(&self) -> String {
        let how = match self.rung {
            Rung::Exact => "every callback timed".to_owned(),
            Rung::Sampled => format!("cost sampled at {} Hz per CPU", self.rate_hz),
        };
        let mib = own_cost::map_memory_bytes() as f64 / f64::from(1 << 20);
        format!("{how}, {mib:.1} MiB of eBPF maps")
    }

    /// Passes the kernel side's log lines on until the handle is aborted, if
    /// that was asked for.
    pub(crate) fn forward_log(&mut self) -> Result<Option<tokio::task::JoinHandle<()>>> {
        if !self.observe.verbose {
            return Ok(None);
        }
        forward_log(&mut self.ebpf).map(Some)
    }

    /// Detaches the programs and takes the events that are left.
    pub(crate) fn detach(&mut self) {
        if let Some(probes) = &mut self.probes {
            probes.detach();
        }
        self.drain();
    }

    /// Waits until there are raw events, and takes them. Waits for ever once
    /// no more are kept.
    pub(crate) async fn take_events(&mut self) -> Result<()> {
        if self.events.len() >= MAX_EVENTS {
            std::future::pending::<()>().await;
        }
        self.ring.readable_mut().await?.clear_ready();
        self.drain();
        Ok(())
    }

    /// What was counted since this was last called, or since the start.
    pub(crate) fn settle(&mut self) -> Result<Stretch> {
        let (counts, now) = (self.counters.read()?, Instant::now());
        let stretch = Stretch {
            rate_hz: self.rate_hz,
            lasted: now.duration_since(self.settled.1),
            counts: counts.since(&self.settled.0),
        };
        self.settled = (counts, now);
        Ok(stretch)
    }

    /// Forgets the counters of VMs that are gone, so that the maps never fill
    /// up. Only after [`settle`](Self::settle).
    pub(crate) fn forget_gone(&mut self) -> Result<()> {
        let gone: Vec<u16> = self
            .registry
            .all()
            .iter()
            .filter(|vm| vm.gone_s.is_some())
            .map(|vm| vm.number)
            .collect();
        let keep = |vm: u16| !gone.contains(&vm);
        self.counters.retain_vms(keep)?;
        self.settled.0.retain_vms(keep);
        Ok(())
    }

    /// The rate to go on with if observing has cost too much since the last
    /// look. The caller settles before it changes the rate.
    pub(crate) fn too_costly(&mut self) -> Option<Lowered> {
        let loaded = &self.probes.as_ref()?.loaded;
        let spent = own_cost::run_time_ns(loaded)?;
        let overhead_pct = self.ceiling.as_mut()?.exceeded(Instant::now(), spent)?;
        if self.rung == Rung::Exact {
            return None;
        }
        Some(Lowered {
            at_s: self.start.at.elapsed().as_secs_f64(),
            from_hz: self.rate_hz,
            to_hz: lower(self.rate_hz)?,
            overhead_pct,
        })
    }

    /// Samples at a lower rate from now on.
    pub(crate) fn lower_rate(&mut self, lowered: Lowered) -> Result<()> {
        if let Some(probes) = &mut self.probes {
            probes.resample(&mut self.ebpf, period_ns(lowered.to_hz))?;
        }
        self.rate_hz = lowered.to_hz;
        self.lowered.push(lowered);
        Ok(())
    }

    /// Looks for VMs and tells the kernel side what changed; returns the
    /// time to wait before the next look.
    pub(crate) fn refresh(&mut self) -> Result<Duration> {
        let began = Instant::now();
        // All of them: an address of the recorded VM may be one of another's too.
        let mut inventory = self.finder.find(None)?;
        let foreign = inventory.take_foreign(self.observe.pid);
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
        // A look must not take more than a small share of the time between two.
        Ok(REFRESH.max(began.elapsed() * REFRESH_SHARE))
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
