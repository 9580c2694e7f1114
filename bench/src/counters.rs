//! What the CPU and the kernel count while a thread measures.
//!
//! Hardware events are opened in groups, so that their ratios belong together;
//! an event that does not fit beside the others starts a new group, and the
//! kernel then shares the PMU between the groups (the share each ran is
//! reported). Software events are counted with the kernel's part included,
//! because that is where they happen. What starting and stopping the counters
//! itself adds is measured once and subtracted.
//!
//! Invariant: a counter that cannot be read is [`Observed::Missing`] with the
//! reason, never 0, and the list of names is the same on every machine.

use std::collections::BTreeMap;
use std::io;

use perf_event::events::{Cache, CacheOp, CacheResult, Event, Hardware, Software, WhichCache};
use perf_event::{Builder, Counter, Group};
use report::{Observed, stats};

/// Name of the pseudo-counter: share of the time the hardware groups ran.
const RUNNING_SHARE: &str = "pmu-running-share";

/// Why that share is missing where there is no hardware counter.
const NO_HARDWARE: &str = "no hardware counter ran on this machine";

/// Empty stretches from which the cost of starting and stopping is learnt.
const IDLE_STRETCHES: usize = 16;

/// An event this project counts.
struct Spec {
    name: &'static str,
    event: fn() -> Event,
    software: bool,
}

impl Spec {
    const fn hardware(name: &'static str, event: fn() -> Event) -> Self {
        Self {
            name,
            event,
            software: false,
        }
    }

    const fn software(name: &'static str, event: fn() -> Event) -> Self {
        Self {
            name,
            event,
            software: true,
        }
    }
}

const SPECS: [Spec; 10] = [
    Spec::hardware("cycles", || Hardware::CPU_CYCLES.into()),
    Spec::hardware("instructions", || Hardware::INSTRUCTIONS.into()),
    Spec::hardware("l1d-load-misses", || load_misses(WhichCache::L1D)),
    Spec::hardware("llc-load-misses", || load_misses(WhichCache::LL)),
    Spec::hardware("dtlb-load-misses", || load_misses(WhichCache::DTLB)),
    Spec::hardware("branch-misses", || Hardware::BRANCH_MISSES.into()),
    Spec::software("task-clock-ns", || Software::TASK_CLOCK.into()),
    Spec::software("page-faults", || Software::PAGE_FAULTS.into()),
    Spec::software("context-switches", || Software::CONTEXT_SWITCHES.into()),
    Spec::software("cpu-migrations", || Software::CPU_MIGRATIONS.into()),
];

fn load_misses(which: WhichCache) -> Event {
    Cache {
        which,
        operation: CacheOp::READ,
        result: CacheResult::MISS,
    }
    .into()
}

/// The names of all counters, whether this machine has them or not.
pub fn names() -> impl Iterator<Item = &'static str> {
    SPECS.iter().map(|spec| spec.name)
}

/// Opens one counter of the calling thread by its name, for criterion's
/// measurement interface.
///
/// # Errors
/// A sentence that says why there is no such counter.
pub fn open(name: &str) -> Result<Counter, String> {
    let spec = SPECS.iter().find(|spec| spec.name == name).ok_or_else(|| {
        let known: Vec<_> = names().collect();
        format!(
            "there is no counter '{name}': the counters are {}",
            known.join(", ")
        )
    })?;
    builder(spec).build().map_err(|e| refusal(spec, &e))
}

fn builder(spec: &Spec) -> Builder<'static> {
    let mut builder = Builder::new().kind((spec.event)());
    if spec.software {
        builder.include_kernel();
    }
    builder
}

fn refusal(spec: &Spec, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if !spec.software => {
            "this machine has no such PMU event".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted: needs CAP_PERFMON or a lower kernel.perf_event_paranoid".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The value of one counter, by name.
pub type Reading = (&'static str, Observed<f64>);

struct Member {
    spec: &'static Spec,
    opened: Result<(usize, Counter), String>,
}

/// All counters of one thread. Create it on the thread that is measured.
pub struct CounterSet {
    groups: Vec<Group>,
    members: Vec<Member>,
    /// What one start and stop adds to each member.
    idle: Vec<f64>,
    /// Stretches counted since [`clear`](Self::clear).
    stretches: u32,
}

impl CounterSet {
    /// Opens what this machine has. Never fails: what is missing has a reason.
    #[must_use]
    pub fn open() -> Self {
        let idle = vec![0.0; SPECS.len()];
        let mut set = Self {
            groups: Vec::new(),
            members: Vec::new(),
            idle,
            stretches: 0,
        };
        let mut current = None;
        for spec in &SPECS {
            let opened = set.open_member(spec, &mut current);
            set.members.push(Member { spec, opened });
        }
        set.idle = set.measure_idle();
        set
    }

    /// The counters this machine does not have, and why.
    #[must_use]
    pub fn missing(&self) -> BTreeMap<String, String> {
        let reason = |member: &Member| member.opened.as_ref().err().cloned();
        let mut missing: BTreeMap<_, _> = self
            .members
            .iter()
            .filter_map(|m| Some((m.spec.name.to_owned(), reason(m)?)))
            .collect();
        if self
            .members
            .iter()
            .all(|m| m.spec.software || m.opened.is_err())
        {
            missing.insert(RUNNING_SHARE.to_owned(), NO_HARDWARE.to_owned());
        }
        missing
    }

    fn measure_idle(&mut self) -> Vec<f64> {
        let stretches: Vec<_> = (0..IDLE_STRETCHES)
            .map(|_| {
                self.around(|| ());
                self.per_operation(1)
            })
            .collect();
        typical(&stretches)
    }

    /// Adds an event to the group in use for its kind, or to a new one when it
    /// does not fit there.
    fn open_member(
        &mut self,
        spec: &'static Spec,
        current: &mut Option<(bool, usize)>,
    ) -> Result<(usize, Counter), String> {
        if let Some((software, index)) = *current
            && software == spec.software
            && let Ok(counter) = builder(spec).group(&mut self.groups[index]).build()
        {
            return Ok((index, counter));
        }
        let mut group = Group::new().map_err(|e| refusal(spec, &e))?;
        let counter = builder(spec)
            .group(&mut group)
            .build()
            .map_err(|e| refusal(spec, &e))?;
        self.groups.push(group);
        let index = self.groups.len() - 1;
        *current = Some((spec.software, index));
        Ok((index, counter))
    }

    /// Sets every counter to zero.
    pub fn clear(&mut self) {
        self.stretches = 0;
        for group in &mut self.groups {
            // A group that cannot be used reads as never having run.
            let _ = group.reset();
        }
    }

    /// Counts on from here.
    pub fn start(&mut self) {
        self.stretches += 1;
        for group in &mut self.groups {
            let _ = group.enable();
        }
    }

    /// Stops every counter.
    pub fn stop(&mut self) {
        for group in &mut self.groups {
            let _ = group.disable();
        }
    }

    /// Counts what this does, and nothing from before.
    pub fn around<T>(&mut self, counted: impl FnOnce() -> T) -> T {
        self.clear();
        self.start();
        let result = counted();
        self.stop();
        result
    }

    /// What was counted in all stretches since [`clear`](Self::clear), less
    /// what starting and stopping added, divided by `operations`.
    #[must_use]
    pub fn per_operation(&mut self, operations: u64) -> Vec<Reading> {
        let totals: Vec<_> = self.groups.iter_mut().map(Group::read).collect();
        let stretches = f64::from(self.stretches);
        let mut readings: Vec<Reading> = self
            .members
            .iter()
            .zip(&self.idle)
            .map(|(member, idle)| {
                let own = member
                    .read(&totals)
                    .map(|count| (count - idle * stretches).max(0.0));
                (member.spec.name, divide(own, operations))
            })
            .collect();
        readings.push((RUNNING_SHARE, self.running_share(&totals)));
        readings
    }

    fn running_share(&self, totals: &[io::Result<perf_event::Counts>]) -> Observed<f64> {
        let hardware = self.members.iter().filter(|m| !m.spec.software);
        let shares = hardware.filter_map(|m| {
            let (index, _) = m.opened.as_ref().ok()?;
            let counts = totals.get(*index)?.as_ref().ok()?;
            share(counts.time_enabled(), counts.time_running())
        });
        shares
            .reduce(f64::min)
            .map_or_else(|| Observed::missing(NO_HARDWARE), Observed::Value)
    }
}

/// What a stretch with nothing in it counts of each member: the median, because a stretch
/// in which the thread was put aside would charge that switch to every measurement.
fn typical(stretches: &[Vec<Reading>]) -> Vec<f64> {
    let of_member = |index: usize| {
        let readings = stretches.iter().map(|readings| &readings[index].1);
        let counts: Vec<f64> = readings.filter_map(|r| r.value().copied()).collect();
        stats::median(&counts).unwrap_or(0.0)
    };
    (0..SPECS.len()).map(of_member).collect()
}

/// Share of the enabled time a group was on the PMU.
fn share(enabled: u64, running: u64) -> Option<f64> {
    (running > 0).then(|| running as f64 / enabled as f64)
}

/// What would have been counted, had the group been on the PMU all of the time.
fn scaled(count: u64, enabled: u64, running: u64) -> Option<f64> {
    share(enabled, running).map(|share| count as f64 / share)
}

impl Member {
    fn read(&self, totals: &[io::Result<perf_event::Counts>]) -> Observed<f64> {
        let (index, counter) = match &self.opened {
            Ok(opened) => opened,
            Err(reason) => return Observed::missing(reason.clone()),
        };
        let name = self.spec.name;
        let counts = match &totals[*index] {
            Ok(counts) => counts,
            Err(e) => return Observed::missing(format!("counter {name} could not be read: {e}")),
        };
        let (enabled, running) = (counts.time_enabled(), counts.time_running());
        let count = counts.get(counter);
        count
            .and_then(|count| scaled(*count, enabled, running))
            .map_or_else(
                || Observed::missing(format!("counter {name} never got onto the PMU")),
                Observed::Value,
            )
    }
}

fn divide(count: Observed<f64>, operations: u64) -> Observed<f64> {
    if operations == 0 {
        return Observed::missing("no operation was completed");
    }
    count.map(|count| count / operations as f64)
}

#[cfg(test)]
#[path = "counters_tests.rs"]
mod tests;
