//! `agers`: several threads that age at once, as reclaim and DAMON do.
//!
//! Agers go over 4096 old pages page by page and back to back, either all over the
//! same pages, begun at evenly spread places, or each over pages of its own. Their
//! throughput is set against that of the first of them going its way alone, measured
//! just before or just after, by chance: `ratio_to_one` is 2 for two agers that do not
//! hinder each other. `fairness` is the slowest ager's share of the fastest one's
//! throughput. All thread counts together give the scaling curve. `limit-transfer` is a
//! row of its own.
//!
//! Invariant: but for being alone, the control is one of the crew. It goes over the
//! pages it has in the crew and no more, for a smaller set fits caches better; and every
//! ager, alone or not, has gone over its pages once before anything is timed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use report::schema::{Op, Params};
use rmap::Mmu;

use crate::clock::Clock;
use crate::counters::{self, CounterSet};
use crate::disturb::ThreadDisturbance;
use crate::plan::{Plan, Scale};
use crate::rng::Rng;
use crate::team::{self, Member};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::pages::{Pages, Sweep};
use crate::workloads::transfer::Transfer;
use crate::workloads::vm::{self, Vm};

/// Longest time one cell is measured in one round.
const MOST_PER_ROUND: Duration = Duration::from_millis(60);
/// Pages of the VM.
const GFNS: u64 = 4096;
/// Callbacks between two looks at the clock.
const BATCH: u64 = 64;
/// The family of `limit-transfer`; the others are numbered by chain length.
const TRANSFER_FAMILY: u32 = u32::MAX;

fn chains(scale: Scale) -> &'static [u32] {
    match scale {
        Scale::Quick => &[1, 16],
        Scale::Full => &[1, 4, 16, 64],
    }
}

/// Which pages the agers go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Same,
    Disjoint,
}

impl Ranges {
    fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Disjoint => "disjoint",
        }
    }

    /// The way of one of several agers, and the pages on it.
    fn sweep(self, index: usize, of: usize) -> (Sweep, u64) {
        let share = Pages::share(GFNS, index, of);
        match self {
            Self::Same => (Sweep::new(Pages::share(GFNS, 0, 1), share.first), GFNS),
            Self::Disjoint => (Sweep::new(share, 0), share.count),
        }
    }
}

/// The workload.
pub struct Agers;

impl Workload for Agers {
    fn name(&self) -> &'static str {
        "agers"
    }

    fn summary(&self) -> &'static str {
        "agers at once on the same and on disjoint pages: throughput, fairness, scaling"
    }

    fn least_cpus(&self) -> usize {
        2
    }

    fn weight(&self) -> u32 {
        8
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let mut crews = Vec::new();
        for agers in plan.threads_from(self.name(), 1)? {
            crews.push((agers, Ranges::Disjoint));
            if agers > 1 {
                crews.push((agers, Ranges::Same));
            }
        }
        let mut cells = Vec::new();
        for chain_len in plan.keep_chains(self.name(), chains(plan.scale))? {
            for scheme in &plan.schemes_with(chain_len) {
                let vm = Rc::new(RefCell::new(None));
                for &(agers, ranges) in &crews {
                    let vm = Rc::clone(&vm);
                    cells.push(AgersCell::new(plan, scheme, chain_len, agers, ranges, vm)?);
                }
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        let transfer = Transfer::asked_for(plan)?;
        let limit = transfer.map(|transfer| transfer.finish(TRANSFER_FAMILY, slice));
        let cells = cells.into_iter().map(|cell| cell.finish(slice));
        Ok(cells.chain(limit).collect())
    }
}

struct AgersCell {
    vm: Rc<RefCell<Option<Vm>>>,
    scheme: String,
    chain_len: u32,
    ranges: Ranges,
    /// One per ager.
    cpus: Vec<usize>,
    clock: Clock,
    slice: Duration,
    rng: Rng,
}

/// What one ager did.
struct Part {
    /// Callbacks in a microsecond.
    per_us: f64,
    /// Counters per callback.
    counters: Vec<counters::Reading>,
    disturbance: ThreadDisturbance,
}

impl AgersCell {
    fn new(
        plan: &Plan,
        scheme: &str,
        chain_len: u32,
        agers: usize,
        ranges: Ranges,
        vm: Rc<RefCell<Option<Vm>>>,
    ) -> Result<Self> {
        Ok(Self {
            vm,
            scheme: scheme.to_owned(),
            chain_len,
            ranges,
            cpus: plan.cpus.first(agers)?.to_vec(),
            clock: plan.clock,
            slice: Duration::ZERO,
            rng: Rng::new(plan.seed ^ u64::from(chain_len)),
        })
    }

    fn finish(mut self, slice: Duration) -> Cell {
        self.slice = slice;
        let several = self.cpus.len() > 1;
        let params = Params {
            chain_len: Some(self.chain_len),
            range_pages: Some(1),
            level: Some(1),
            young_share: Some(0.0),
            slot_pages: Some(GFNS),
            agers: Some(self.cpus.len() as u32),
            ranges: several.then(|| self.ranges.name().to_owned()),
            aging: Some("back_to_back".to_owned()),
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

    /// Lets the first few agers of the crew go over their pages for a while.
    fn run(&self, mmu: &dyn Mmu, agers: usize, time: Duration) -> Result<Vec<Part>> {
        let clock = self.clock;
        let member = |index| -> Member<'_, Result<Part>> {
            let (mut sweep, pages) = self.ranges.sweep(index, self.cpus.len());
            Box::new(move |seat| {
                let mut counters = CounterSet::open();
                sweep.age(mmu, pages);
                let timed = || counters.around(|| age_for(mmu, clock, &mut sweep, time));
                let (done, disturbance) = seat.measure(timed).context("another thread failed")?;
                Ok(Part {
                    per_us: done.callbacks as f64 * 1000.0 / done.ns,
                    counters: counters.per_operation(done.callbacks),
                    disturbance,
                })
            })
        };
        team::run(&self.cpus, (0..agers).map(member).collect())?
            .into_iter()
            .collect()
    }

    /// The crew, and the first of it alone, half of the time each, in either order.
    fn crew_and_alone(&mut self, mmu: &dyn Mmu) -> Result<(Vec<Part>, Vec<Part>)> {
        let (agers, half) = (self.cpus.len(), self.slice / 2);
        Rng::new(self.rng.next_u64()).in_either_order(
            self,
            |cell| cell.run(mmu, agers, half),
            |cell| cell.run(mmu, 1, half),
        )
    }
}

/// Callbacks, and the time they took.
struct Done {
    callbacks: u64,
    ns: f64,
}

/// Goes over the pages for this long.
fn age_for(mmu: &dyn Mmu, clock: Clock, sweep: &mut Sweep, time: Duration) -> Done {
    let start = clock.now();
    let end = start + clock.ticks(time);
    let mut callbacks = 0;
    loop {
        sweep.age(mmu, BATCH);
        callbacks += BATCH;
        let now = clock.now();
        if now >= end {
            let ns = clock.elapsed_ns(start, now).max(1.0);
            return Done { callbacks, ns };
        }
    }
}

impl Measure for AgersCell {
    fn prepare(&mut self) -> Result<()> {
        let mut vm = self.vm.borrow_mut();
        if vm.is_none() {
            let built = Vm::build(&self.scheme, GFNS, self.chain_len)?;
            built.set_young(0, GFNS, 0.0);
            *vm = Some(built);
        }
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let vm = Rc::clone(&self.vm);
        let vm = vm.borrow();
        let vm = vm
            .as_ref()
            .context("the pages were not mapped before they were aged")?;
        if self.cpus.len() == 1 {
            return Ok(gather(&self.run(vm.mmu(), 1, self.slice)?, None));
        }
        let (crew, alone) = self.crew_and_alone(vm.mmu())?;
        Ok(gather(&crew, alone.first()))
    }
}

fn gather(parts: &[Part], alone: Option<&Part>) -> Measured {
    let speeds = parts.iter().map(|part| part.per_us);
    let total: f64 = speeds.clone().sum();
    let mut readings = vec![Reading {
        counters: parts.first().map_or_else(Vec::new, |p| p.counters.clone()),
        ..Reading::new(Op::Age, "gfns_per_us", total)
    }];
    if let Some(alone) = alone {
        let slowest = speeds.clone().fold(f64::INFINITY, f64::min);
        let fastest = speeds.fold(0.0, f64::max);
        readings.push(Reading::new(Op::Age, "ratio_to_one", total / alone.per_us));
        readings.push(Reading::new(Op::Age, "fairness", slowest / fastest));
    }
    let threads = parts.iter().chain(alone).map(|p| p.disturbance.clone());
    Measured {
        readings,
        threads: threads.collect(),
    }
}

#[cfg(test)]
mod tests {
    use report::Observed;

    use super::*;
    use crate::plan::tests::plan;

    fn part(per_us: f64) -> Part {
        let disturbance = ThreadDisturbance {
            involuntary_switches: Observed::Value(0),
            migrations: Observed::Value(0),
            wait_share: Observed::Value(0.0),
        };
        Part {
            per_us,
            counters: Vec::new(),
            disturbance,
        }
    }

    #[test]
    fn throughput_is_set_against_one_ager_and_the_slowest_against_the_fastest() {
        let measured = gather(&[part(30.0), part(10.0)], Some(&part(20.0)));
        let values: Vec<_> = measured
            .readings
            .iter()
            .map(|r| (r.metric, r.value))
            .collect();
        let expected = [
            ("gfns_per_us", 40.0),
            ("ratio_to_one", 2.0),
            ("fairness", 10.0 / 30.0),
        ];
        assert_eq!(values, expected);
        assert_eq!(measured.threads.len(), 3);
        assert_eq!(gather(&[part(30.0)], None).readings.len(), 1);
    }

    #[test]
    fn agers_share_all_pages_or_have_their_own() {
        let half = GFNS / 2;
        // Whether the lower and the upper half are old after so many callbacks of
        // the second ager.
        let aged = |ranges: Ranges, callbacks| {
            let vm = Vm::build("rwlock-write", GFNS, 1).unwrap();
            ranges.sweep(1, 2).0.age(vm.mmu(), callbacks);
            [0, half].map(|first| !vm.mmu().test_age(vm::range(first, half)).young)
        };
        for ranges in [Ranges::Same, Ranges::Disjoint] {
            assert_eq!(aged(ranges, half), [false, true], "{ranges:?}");
        }
        assert_eq!(aged(Ranges::Same, GFNS), [true, true]);
        assert_eq!(aged(Ranges::Disjoint, GFNS), [false, true]);
    }

    #[test]
    fn an_ager_has_gone_over_its_own_pages_and_no_others_before_it_is_timed() {
        let plan = plan();
        if plan.cpus.as_slice().len() < 2 {
            return;
        }
        let half = GFNS / 2;
        // Timed for no time an ager gets no further than its first callbacks.
        let aged = |ranges, agers| {
            let vm = Vm::build("rwlock-write", GFNS, 1).unwrap();
            let cell = AgersCell::new(&plan, "rwlock-write", 1, 2, ranges, Rc::default());
            cell.unwrap().run(vm.mmu(), agers, Duration::ZERO).unwrap();
            [0, half].map(|first| {
                let old = |gfn: &u64| !vm.mmu().test_age(vm::range(first + gfn, 1)).young;
                (0..half).filter(old).count() as u64
            })
        };
        // The control is the first of two, on its own share.
        assert_eq!(aged(Ranges::Disjoint, 1), [half, 0]);
        assert_eq!(aged(Ranges::Disjoint, 2), [half, half]);
        assert_eq!(aged(Ranges::Same, 1), [half, half]);
    }

    #[test]
    fn an_ager_finds_old_pages_and_is_counted_by_the_microsecond() {
        let plan = plan();
        let (scheme, vm) = ("rwlock-write", Rc::new(RefCell::new(None)));
        let cell = AgersCell::new(&plan, scheme, 1, 1, Ranges::Disjoint, Rc::clone(&vm));
        let mut cell = cell.unwrap();
        cell.prepare().unwrap();
        let vm = vm.borrow();
        let mmu = vm.as_ref().unwrap().mmu();
        assert!(!mmu.test_age(vm::range(0, GFNS)).young);
        let parts = cell.run(mmu, 1, Duration::from_millis(5)).unwrap();
        let clock = parts[0].counters.iter().find(|c| c.0 == "task-clock-ns");
        let Some(&ns_per_gfn) = clock.and_then(|c| c.1.value()) else {
            return;
        };
        // Less where other work took the CPU.
        let ns_per_us = ns_per_gfn * parts[0].per_us;
        assert!((10.0..1100.0).contains(&ns_per_us), "{ns_per_us}");
    }

    #[test]
    fn every_scheme_is_aged_by_one_and_by_several() {
        let mut plan = plan();
        if plan.cpus.as_slice().len() < 2 {
            return;
        }
        plan.schemes = rmap::schemes().iter().map(|s| s.name.to_owned()).collect();
        plan.threads = vec![1, 2];
        plan.budget = Duration::from_millis(1);
        plan.chain_lengths = Some(vec![1]);
        let mut tools = Tools::of_tests();
        let cells = Agers.cells(&plan).unwrap();
        assert_eq!(cells.len(), 3 * plan.schemes.len());
        for mut cell in cells {
            cell.measure.prepare().unwrap();
            let measured = cell.measure.measure(&mut tools).unwrap();
            assert!(measured.readings.iter().all(|r| r.value > 0.0));
            assert!(!measured.readings[0].counters.is_empty());
            let several = cell.params.agers > Some(1);
            assert_eq!(measured.readings.len(), if several { 3 } else { 1 });
            assert_eq!(cell.params.ranges.is_some(), several);
        }
    }
}
