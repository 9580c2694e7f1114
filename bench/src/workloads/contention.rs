//! `contention`: agers against faulting and zapping vCPUs.
//!
//! vCPU threads take a fault or a zap at a time, in turn, each on pages of its
//! own and at a fixed pace. Two times are kept of each, told apart by the metric:
//! `due_*` runs from the moment the operation was due, so a stall counts for
//! every operation it delayed (no coordinated omission), and `service_*` from the
//! start of the call. What was due and could not be begun within the slice is
//! not timed but counted: `done_share` is what was. Ager threads call `age` page
//! by page over all pages, back to back; several share the pages out. After the
//! first sweep they find those pages young that were faulted in since.
//!
//! Every scheme and chain length is measured three times per round: agers
//! against vCPUs, vCPUs alone (the control for the latencies) and agers alone
//! (the control for the cost of aging). A role has the same CPUs in all three.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Context as _, Result};
use report::latency::Latency;
use report::schema::{Op, Params};

use crate::clock::Clock;
use crate::counters;
use crate::cpus::{CpuError, CpuList};
use crate::plan::{Plan, Scale};
use crate::rng::Rng;
use crate::subject::{self, Subject};
use crate::team::{self, Member};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::vm::{self, Vm};

mod threads;

use threads::{Figures, OnDuty, Ops, PACE, Pages, Part, Stage};

/// Longest time one cell is measured in one round.
const MOST_PER_ROUND: Duration = Duration::from_millis(250);
/// Pages of the VM: far more than the caches' worth of heads at any instant,
/// few enough that agers meet vCPUs.
const GFNS: u64 = 4096;

/// Agers of a cell that has any.
const AGERS: usize = 1;

/// With 15, every zap retires a descriptor and every fault allocates one.
fn chains(scale: Scale) -> &'static [u32] {
    match scale {
        Scale::Quick => &[1, 15, 16],
        Scale::Full => &[1, 4, 15, 16, 64],
    }
}

/// Who runs in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crew {
    agers: usize,
    vcpus: usize,
}

impl Crew {
    /// The crews for a number of CPUs: one ager, the other CPUs vCPUs, and the
    /// two controls.
    fn all(cpus: usize) -> [Self; 3] {
        let (agers, vcpus) = (AGERS, cpus - AGERS);
        [
            Self { agers, vcpus },
            Self { agers: 0, vcpus },
            Self { agers, vcpus: 0 },
        ]
    }

    /// The CPUs of its threads, agers first. Agers have the first [`AGERS`] of
    /// the list to themselves even where there are none.
    fn cpus(self, list: &CpuList) -> Result<Vec<usize>, CpuError> {
        let all = list.first(AGERS + self.vcpus)?;
        Ok([&all[..self.agers], &all[AGERS..]].concat())
    }
}

/// The workload.
pub struct Contention;

impl Workload for Contention {
    fn name(&self) -> &'static str {
        "contention"
    }

    fn summary(&self) -> &'static str {
        "agers against faulting and zapping vCPUs: aging cost and fault latency"
    }

    fn least_cpus(&self) -> usize {
        2
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for chain_len in plan.keep_chains(self.name(), chains(plan.scale))? {
            let able = |s: &Subject| s.concurrent && chain_len <= s.max_aliases;
            for scheme in &subject::keep(&plan.schemes, able) {
                let vm = Rc::new(RefCell::new(None));
                for crew in Crew::all(plan.cpus.as_slice().len()) {
                    cells.push((scheme.clone(), chain_len, crew, Rc::clone(&vm)));
                }
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        let cell = |(scheme, chain_len, crew, vm): (String, _, _, _)| {
            ContentionCell::new(plan, slice, &scheme, chain_len, crew, vm)
                .map(ContentionCell::into_cell)
        };
        cells.into_iter().map(cell).collect()
    }
}

struct ContentionCell {
    vm: Rc<RefCell<Option<Vm>>>,
    scheme: String,
    chain_len: u32,
    crew: Crew,
    cpus: Vec<usize>,
    slice: Duration,
    clock: Clock,
    rng: Rng,
}

impl ContentionCell {
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
        let aging = if self.crew.agers == 0 {
            "none"
        } else {
            "back_to_back"
        };
        let params = Params {
            chain_len: Some(self.chain_len),
            range_pages: Some(1),
            level: Some(1),
            slot_pages: Some(GFNS),
            agers: Some(self.crew.agers as u32),
            vcpus: Some(self.crew.vcpus as u32),
            op_interval_ns: (self.crew.vcpus > 0).then_some(PACE.as_nanos() as u64),
            aging: Some(aging.to_owned()),
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

impl Measure for ContentionCell {
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
        let Crew { agers, vcpus } = self.crew;
        let running = AtomicUsize::new(0);
        let stage = Stage {
            mmu: vm.mmu(),
            clock: self.clock,
            slice: self.slice,
            running: &running,
        };
        let mut members: Vec<Member<'_, Result<Part>>> = Vec::with_capacity(agers + vcpus);
        for index in 0..agers {
            let pages = share(index, agers);
            members.push(Box::new(move |seat| stage.ager(seat, pages)));
        }
        for index in 0..vcpus {
            let (pages, seed) = (share(index, vcpus), self.rng.next_u64());
            let (chain_len, on_duty) = (self.chain_len, OnDuty::new(&running));
            members.push(Box::new(move |seat| {
                stage.vcpu(seat, pages, chain_len, seed, on_duty)
            }));
        }
        let parts: Result<Vec<Part>> = team::run(&self.cpus, members)?.into_iter().collect();
        Ok(gather(parts?))
    }
}

/// The pages of one of several threads.
fn share(index: usize, of: usize) -> Pages {
    let bound = |i: usize| GFNS * i as u64 / of as u64;
    Pages {
        first: bound(index),
        count: bound(index + 1) - bound(index),
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
        let value = thread_ns / gfns as f64;
        readings.push(reading(Op::Age, "ns_per_gfn", value, None, ager_counters));
    }
    for (op, ops) in [(Op::Fault, fault), (Op::Zap, zap)] {
        if ops.due > 0 {
            readings.extend(vcpu_readings(op, ops, &vcpu_counters));
        }
    }
    Measured { readings, threads }
}

/// What vCPU operations of one kind gave. The distribution goes with the first
/// metric, the time from when they were due.
fn vcpu_readings(op: Op, ops: Ops, counters: &[counters::Reading]) -> Vec<Reading> {
    let done_share = ops.done_share();
    let mut readings = vec![reading(op, "done_share", done_share, None, Vec::new())];
    if ops.latency.count() == 0 {
        return readings;
    }
    let quantile = |latency: &Latency, q| latency.quantile_ns(q) as f64;
    for (metric, value) in [
        ("due_p99_ns", quantile(&ops.latency, 0.99)),
        ("service_p50_ns", quantile(&ops.service, 0.5)),
        ("service_p99_ns", quantile(&ops.service, 0.99)),
    ] {
        readings.push(reading(op, metric, value, None, Vec::new()));
    }
    let median = quantile(&ops.latency, 0.5);
    let counters = counters.to_vec();
    let due = reading(op, "due_p50_ns", median, Some(ops.latency), counters);
    readings.insert(0, due);
    readings
}

fn reading(
    op: Op,
    metric: &'static str,
    value: f64,
    latency: Option<Latency>,
    counters: Vec<counters::Reading>,
) -> Reading {
    Reading {
        op,
        metric,
        value,
        latency,
        counts: None,
        counters,
    }
}

#[cfg(test)]
mod tests;
