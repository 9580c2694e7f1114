//! Programs attached: the tables the kernel side needs are kept fresh,
//! raw events are taken out of the ring buffer, and the cost is kept in bounds.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, RingBuf},
};
use profiler_common::{
    aging::{NO_VM, Totals},
    census::MAX_VMS,
    event::Event,
    exact::VmAt,
    histogram::Histogram,
};
use report::{host, schema::CensusRecord};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Counts, FindProblems, Ground, Observe, Stretch,
    attach::{Probes, Wanted},
    ceiling::{Above, Ceiling, Lowered},
    counts::Counters,
    disturbance::Watch,
    losses::Unfiled,
    own_cost, period_ns,
    rates::Rates,
    statistics::Statistics,
};
use crate::{
    census::Scanner,
    hooks::Hook,
    intervals::Intervals,
    ladder::{Ladder, Rung},
    object::{self, Kernel, Settings},
    privileges::{self, Keep},
    vms::{Finder, Found, Registry},
};

/// Raw events kept in memory; the ring buffer fills up and counts losses after that.
const MAX_EVENTS: usize = 1 << 20;
/// Cells per CPU.
const CELLS: u32 = 8192;
/// Latency histograms per CPU that a host of this size has room for on the exact rung. They
/// take memory as keys turn up, some 40 a VM, so what is bounded is what they may come to.
fn histograms(memory_bytes: u64, cpus: usize) -> u32 {
    /// Room for 25 VMs, however small the host.
    const LEAST: u64 = 1024;
    /// Room for as many VMs as are looked for.
    const MOST: u64 = 64 * MAX_VMS as u64;
    /// Of the host's memory, at most this part.
    const SHARE: u64 = 256;
    let each = (size_of::<Histogram>() * cpus.max(1)) as u64;
    let fits = memory_bytes / SHARE / each;
    u32::try_from(fits.clamp(LEAST, MOST)).unwrap_or(u32::MAX)
}

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
    pub(super) scanner: Option<Scanner>,
    pub(crate) events: Vec<Event>,
    pub(crate) find_problems: FindProblems,
    /// When reading chain lengths again is due.
    pub(super) next_look: Instant,
    /// Whether VMs have gone whose counters are still there.
    pub(super) has_gone: bool,
    pub(crate) probes: Option<Probes>,
    pub(crate) statistics: Statistics,
    pub(crate) start: Start,
    /// Samples per second and CPU, on the sampled rung.
    pub(crate) rates: Rates,
    pub(super) turn_ends: Option<Instant>,
    pub(crate) lowered: Vec<Lowered>,
    /// The first time that lowering the rates did not help, or could not.
    pub(crate) above: Option<Above>,
    pub(super) ceiling: Option<Ceiling>,
    /// Counters and the time when they were last taken.
    settled: (Counts, Instant),
    /// All that was counted, VMs that are gone included.
    pub(super) totals: Totals,
    pub(super) unfiled: Unfiled,
    /// What had been counted when the first program was detached.
    whole: Option<Totals>,
    pub(super) ebpf: Ebpf,
    pub(super) finder: Finder,
    /// VMs that are not recorded but have addresses.
    pub(super) foreign: Vec<Found>,
    pub(super) vm_numbers: HashMap<MapData, u64, VmAt>,
    pub(super) mm_numbers: HashMap<MapData, u64, u32>,
    pub(super) mmu_locks: HashMap<MapData, u64, VmAt>,
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

impl<'a> Session<'a> {
    /// Creates the maps, finds the VMs and reads their chain lengths. Nothing
    /// is attached yet.
    pub(crate) fn prepare(
        observe: &'a Observe,
        event_every: u32,
        ground: &'a Ground,
    ) -> Result<Self> {
        let (kernel, rung) = (&ground.kernel, ground.rung);
        let cpus = aya::util::nr_cpus().unwrap_or(1);
        let settings = Settings {
            stack_every: observe.stack_every,
            event_every,
            cells: CELLS,
            histograms: match rung {
                Rung::Exact => histograms(host::memory_bytes().value().copied().unwrap_or(0), cpus),
                Rung::Sampled => 1,
            },
            inner: ground.ladder.inner.is_ok(),
            interference: observe.interference(&ground.ladder).any(),
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
            next_look: Instant::now(),
            has_gone: false,
            probes: None,
            statistics: Statistics::none(),
            start: Start::now(),
            rates: Rates::new(&observe.rate),
            turn_ends: None,
            lowered: Vec::new(),
            above: None,
            ceiling: None,
            settled: (Counts::default(), Instant::now()),
            totals: Totals::default(),
            unfiled: Unfiled::default(),
            whole: None,
            finder,
            foreign: Vec::new(),
            vm_numbers: object::take(&mut ebpf, "VM_NUMBERS")?,
            mm_numbers: object::take(&mut ebpf, "MM_NUMBERS")?,
            mmu_locks: object::take(&mut ebpf, "MMU_LOCKS")?,
            ring: ring.map_err(|error| error.into_parts().1)?,
            ebpf,
        })
    }

    /// Attaches the programs, and gives up what is not needed any more: the
    /// recording begins.
    pub(crate) fn start(&mut self, ladder: &Ladder, keep: Keep) -> Result<()> {
        self.statistics = Statistics::on();
        if let (Some(_), Some(reason)) = (self.observe.max_overhead, self.statistics.refused()) {
            bail!("--max-overhead cannot be kept, for the cost is not known: {reason}");
        }
        let interference = self.observe.interference(ladder);
        let wanted = Wanted {
            rung: self.rung,
            inner: ladder.inner.is_ok(),
            tdp: ladder.tdp.is_ok(),
            faults: interference.faults.is_ok(),
            waits: interference.waits.is_ok(),
            period_ns: period_ns(self.rates.now_hz()),
        };
        let probes = Probes::attach(&mut self.ebpf, self.kernel, wanted)?;
        self.ceiling = self.observe.max_overhead.map(|most| {
            let cpus = aya::util::online_cpus().map_or(1, |cpus| cpus.len());
            let spent = own_cost::spent(probes.loaded()).unwrap_or_default();
            Ceiling::new(most, cpus, spent)
        });
        self.probes = Some(probes);
        // What was counted while programs were attached one by one is not of the recording:
        // some ends had no beginning yet.
        let counts = self.counters.read()?;
        self.start = Start::now();
        self.settled = (counts, self.start.at);
        self.begin_turn();
        let admin = self.rung == Rung::Sampled && privileges::sampling_needs_admin();
        privileges::give_up(keep, admin)?;
        Ok(())
    }

    /// How callbacks are observed and in how much memory, in a few words.
    pub(crate) fn manner(&self) -> String {
        let how = match self.rung {
            Rung::Exact => "every callback timed".to_owned(),
            Rung::Sampled => format!("cost sampled at {} Hz per CPU", self.rates.shown()),
        };
        let memory = own_cost::map_memory();
        let [now, at_most] = [memory.now, memory.at_most].map(|b| b as f64 / f64::from(1 << 20));
        format!("{how}; eBPF maps take {now:.1} MiB of memory, and {at_most:.1} MiB once full")
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
    pub(crate) fn detach(&mut self) -> Result<()> {
        let whole = self.probes.as_mut().map(|probes| {
            let whole = self.counters.totals();
            probes.detach();
            whole
        });
        self.drain();
        self.whole = whole.transpose()?;
        Ok(())
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
        let (mut counts, now) = (self.counters.read()?, Instant::now());
        if let Some(whole) = &self.whole {
            counts.forget_broken_pairs(whole);
        }
        let stretch = Stretch {
            rate_hz: self.rates.now_hz(),
            lasted: now.duration_since(self.settled.1),
            cpus: self.probes.as_ref().map_or(0, Probes::sampled_cpus),
            counts: counts.since(&self.settled.0),
        };
        self.totals.add(&stretch.counts.totals);
        self.unfiled.add(&stretch.counts);
        self.settled = (counts, now);
        Ok(stretch)
    }

    /// All that the programs had counted when counters were last taken, what they did before
    /// the recording began included.
    pub(super) fn counted(&self) -> &Totals {
        &self.settled.0.totals
    }

    /// Forgets the counters of VMs that are gone, so that the maps never fill
    /// up. Only after [`settle`](Self::settle).
    pub(crate) fn forget_gone(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.has_gone) {
            return Ok(());
        }
        let alive: HashSet<u16> = self.registry.alive().map(|vm| vm.number).collect();
        let keep = |vm: u16| vm == NO_VM || alive.contains(&vm);
        self.counters.retain_vms(keep)?;
        self.settled.0.retain_vms(keep);
        log::info!("counters of VMs that ended are free again");
        Ok(())
    }

    /// Whether there are any to forget.
    pub(crate) fn has_gone(&self) -> bool {
        self.has_gone
    }

    /// The programs that are attached.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Hook> {
        self.probes.iter().flat_map(Probes::loaded)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_find_room_for_the_vms_of_a_large_host_and_take_no_more_than_their_share() {
        const GIB: u64 = 1 << 30;
        let bytes = |histograms: u32, cpus: usize| {
            u64::from(histograms) * (size_of::<Histogram>() * cpus) as u64
        };
        // A hundred VMs, each with 40.
        assert!(histograms(1024 * GIB, 128) >= 100 * 40);
        for (memory, cpus) in [(24 * GIB, 2), (256 * GIB, 64), (1024 * GIB, 128)] {
            let room = histograms(memory, cpus);
            assert!(bytes(room, cpus) <= memory / 256, "{memory} {cpus} {room}");
        }
        assert_eq!(histograms(0, 0), 1024);
        assert_eq!(histograms(u64::MAX, 1), 16_384);
    }
}
