//! `interference`: what aging does to faulting and zapping vCPUs.
//!
//! vCPU threads zap and fault a random SPTE of a random page of their own, in turn,
//! under no aging, periodic aging (a sweep over all pages every `PERIOD`) and
//! back-to-back aging, under two loads:
//!
//! - **paced**: one operation due every `PACE`. Two times are kept of each, told
//!   apart by the metric: `due_*` runs from the moment the operation was due, so a
//!   stall counts for every operation it delayed (no coordinated omission), and
//!   `service_*` from the start of the call. What was due and could not be begun
//!   within the slice is not timed but counted: `done_share` is what was.
//! - **closed loop**: the next operation begins when the last one is done. It shows
//!   the most a vCPU can do, and omits what a stall would have delayed.
//!
//! The ager calls `age` page by page over all pages. After the first sweep it finds
//! those pages young that were faulted in since. The ager alone is the control for
//! the cost of aging, the vCPUs alone for the latencies. A role has the same CPUs
//! in all cells.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use report::latency::Latency;
use report::schema::{Op, Params};

use crate::clock::Clock;
use crate::counters;
use crate::cpus::{CpuError, CpuList};
use crate::duty::Roster;
use crate::plan::{Plan, Scale};
use crate::rng::Rng;
use crate::team::{self, Member};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::pages::Pages;
use crate::workloads::vm::{self, Vm};

mod threads;

use threads::{Figures, Load, Ops, PACE, Part, Stage, Work};

/// Longest time one cell is measured in one round.
const MOST_PER_ROUND: Duration = Duration::from_millis(100);
/// Pages of the VM: far more than the caches' worth of heads at any instant,
/// few enough that agers meet vCPUs.
const GFNS: u64 = 4096;

/// Agers of a cell that has any.
const AGERS: usize = 1;
/// Start of a periodic sweep to the start of the next: long against a sweep over
/// short chains, short against a slice.
const PERIOD: Duration = Duration::from_millis(5);

/// With 15, every zap retires a descriptor and every fault allocates one.
fn chains(scale: Scale) -> &'static [u32] {
    match scale {
        Scale::Quick => &[1, 15],
        Scale::Full => &[1, 4, 15, 64],
    }
}

/// How the ager goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aging {
    None,
    Periodic,
    BackToBack,
}

impl Aging {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Periodic => "periodic",
            Self::BackToBack => "back_to_back",
        }
    }
}

/// Who runs in a cell, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crew {
    aging: Aging,
    /// None without vCPUs.
    load: Option<Load>,
    vcpus: usize,
}

impl Crew {
    /// The crews with this many vCPUs.
    fn all(vcpus: usize) -> Vec<Self> {
        let mut crews = Vec::new();
        for load in [Load::Paced, Load::ClosedLoop] {
            for aging in [Aging::None, Aging::Periodic, Aging::BackToBack] {
                crews.push(Self {
                    aging,
                    load: Some(load),
                    vcpus,
                });
            }
        }
        crews
    }

    /// The control for the cost of aging.
    const AGER_ALONE: Self = Self {
        aging: Aging::BackToBack,
        load: None,
        vcpus: 0,
    };

    fn agers(self) -> usize {
        match self.aging {
            Aging::None => 0,
            _ => AGERS,
        }
    }

    fn period(self) -> Option<Duration> {
        (self.aging == Aging::Periodic).then_some(PERIOD)
    }

    /// The CPUs of its threads, agers first. Agers have the first [`AGERS`] of
    /// the list to themselves even where there are none.
    fn cpus(self, list: &CpuList) -> Result<Vec<usize>, CpuError> {
        let all = list.first(AGERS + self.vcpus)?;
        Ok([&all[..self.agers()], &all[AGERS..]].concat())
    }
}

/// The workload.
pub struct Interference;

impl Workload for Interference {
    fn name(&self) -> &'static str {
        "interference"
    }

    fn summary(&self) -> &'static str {
        "fault and zap latency of vCPUs under no, periodic and back-to-back aging"
    }

    fn least_cpus(&self) -> usize {
        2
    }

    fn weight(&self) -> u32 {
        20
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let mut crews = vec![Crew::AGER_ALONE];
        for threads in plan.threads_from(self.name(), 2)? {
            crews.extend(Crew::all(threads - AGERS));
        }
        let mut cells = Vec::new();
        for chain_len in plan.keep_chains(self.name(), chains(plan.scale))? {
            for scheme in &plan.mutable_with(chain_len) {
                let vm = Rc::new(RefCell::new(None));
                for &crew in &crews {
                    cells.push((scheme.clone(), chain_len, crew, Rc::clone(&vm)));
                }
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        let cell = |(scheme, chain_len, crew, vm): (String, _, _, _)| {
            InterferenceCell::new(plan, slice, &scheme, chain_len, crew, vm)
                .map(InterferenceCell::into_cell)
        };
        cells.into_iter().map(cell).collect()
    }
}

struct InterferenceCell {
    vm: Rc<RefCell<Option<Vm>>>,
    scheme: String,
    chain_len: u32,
    crew: Crew,
    cpus: Vec<usize>,
    slice: Duration,
    clock: Clock,
    rng: Rng,
}

impl InterferenceCell {
    fn new(
        plan: &Plan,
        slice: Duration,
        scheme: &str,
        chain_len: u32,
        crew: Crew,
        vm: Rc<RefCell<Option<Vm>>>,
    ) -> Result<Self> {
        Ok(Self {
            vm,
            scheme: scheme.to_owned(),
            chain_len,
            crew,
            cpus: crew.cpus(&plan.cpus)?,
            slice,
            clock: plan.clock,
            rng: Rng::new(plan.seed ^ u64::from(chain_len)),
        })
    }

    fn into_cell(self) -> Cell {
        let Crew { aging, load, vcpus } = self.crew;
        let paced = load == Some(Load::Paced);
        let params = Params {
            chain_len: Some(self.chain_len),
            range_pages: Some(1),
            level: Some(1),
            slot_pages: Some(GFNS),
            agers: Some(self.crew.agers() as u32),
            vcpus: Some(vcpus as u32),
            load: load.map(|load| load.name().to_owned()),
            op_interval_ns: paced.then_some(PACE.as_nanos() as u64),
            aging: Some(aging.name().to_owned()),
            aging_interval_ns: self.crew.period().map(|p| p.as_nanos() as u64),
            cpus: Some(self.cpus.iter().map(|&cpu| cpu as u32).collect()),
            ..Params::default()
        };
        Cell {
            scheme: self.scheme.clone(),
            params,
            family: self.chain_len,
            resident_bytes: vm::resident_bytes(GFNS, self.chain_len),
            measure: Box::new(self),
        }
    }
}

impl Measure for InterferenceCell {
    fn prepare(&mut self) -> Result<()> {
        let mut vm = self.vm.borrow_mut();
        if vm.is_none() {
            *vm = Some(Vm::build(&self.scheme, GFNS, self.chain_len)?);
        }
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let vm = self.vm.borrow();
        let vm = vm
            .as_ref()
            .context("the pages were not mapped before they were aged")?;
        vm.set_young(0, GFNS, 1.0);
        let (agers, vcpus) = (self.crew.agers(), self.crew.vcpus);
        let running = Roster::default();
        let stage = Stage {
            mmu: vm.mmu(),
            clock: self.clock,
            slice: self.slice,
            period: self.crew.period(),
            running: &running,
        };
        let mut members: Vec<Member<'_, Result<Part>>> = Vec::with_capacity(agers + vcpus);
        for index in 0..agers {
            let pages = Pages::share(GFNS, index, agers);
            members.push(Box::new(move |seat| stage.ager(seat, pages)));
        }
        for index in 0..vcpus {
            let pages = Pages::share(GFNS, index, vcpus);
            let work = Work {
                load: self.crew.load.unwrap_or(Load::Paced),
                chain_len: self.chain_len,
                seed: self.rng.next_u64(),
            };
            let on_duty = running.join();
            members.push(Box::new(move |seat| stage.vcpu(seat, pages, work, on_duty)));
        }
        let parts: Result<Vec<Part>> = team::run(&self.cpus, members)?.into_iter().collect();
        Ok(gather(parts?))
    }
}

/// One round's readings: aging cost over all agers, latencies over all vCPUs.
fn gather(parts: Vec<Part>) -> Measured {
    let (mut gfns, mut thread_ns) = (0, 0.0);
    let (mut fault, mut zap) = (Ops::new(), Ops::new());
    let (mut ager_counters, mut vcpu_counters) = (Vec::new(), Vec::new());
    let mut threads = Vec::with_capacity(parts.len());
    for part in parts {
        threads.push(part.disturbance);
        match part.figures {
            Figures::Ager { gfns: aged, ns } => {
                (gfns, thread_ns) = (gfns + aged, thread_ns + ns);
                ager_counters = part.counters;
            }
            Figures::Vcpu {
                fault: faults,
                zap: zaps,
            } => {
                fault.merge(&faults);
                zap.merge(&zaps);
                vcpu_counters = part.counters;
            }
        }
    }
    let mut readings = Vec::new();
    if gfns > 0 {
        readings.push(Reading {
            counters: ager_counters,
            ..Reading::new(Op::Age, "ns_per_gfn", thread_ns / gfns as f64)
        });
    }
    for (op, ops) in [(Op::Fault, fault), (Op::Zap, zap)] {
        readings.extend(vcpu_readings(op, ops, &vcpu_counters));
    }
    Measured { readings, threads }
}

/// What vCPU operations of one kind gave. The distribution goes with the first
/// metric: the time from when they were due, if they were due at a time.
fn vcpu_readings(op: Op, ops: Ops, counters: &[counters::Reading]) -> Vec<Reading> {
    let mut readings = Vec::new();
    let quantile = |latency: &Latency, q| latency.quantile_ns(q) as f64;
    let paced = ops.due > 0;
    if ops.service.count() > 0 {
        if paced {
            let p99 = quantile(&ops.latency, 0.99);
            readings.push(Reading::new(op, "due_p99_ns", p99));
        }
        for (metric, q) in [("service_p50_ns", 0.5), ("service_p99_ns", 0.99)] {
            readings.push(Reading::new(op, metric, quantile(&ops.service, q)));
        }
    }
    if paced {
        readings.push(Reading::new(op, "done_share", ops.done_share()));
    }
    if ops.service.count() == 0 {
        return readings;
    }
    let (metric, latency) = if paced {
        ("due_p50_ns", ops.latency)
    } else {
        ("closed_p50_ns", ops.service)
    };
    let median = quantile(&latency, 0.5);
    let first = Reading {
        latency: Some(latency),
        counters: counters.to_vec(),
        ..Reading::new(op, metric, median)
    };
    readings.insert(0, first);
    readings
}

#[cfg(test)]
mod tests;
