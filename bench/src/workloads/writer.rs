//! `writer`: what mutators pay, with nobody in their way.
//!
//! Four operations on hot pages that all have chains of one length, each timed
//! over all pages at a time: a fault that finds its SPTE (mmu_lock and no rmap:
//! what every operation pays), a zap of one SPTE of the chain, the fault that adds
//! it again, and the unmapping of one page, which zaps the whole chain. A scheme
//! without an rmap bit (`rwlock-write`) shows what the bit adds. The alias zapped
//! is drawn anew for every page and pass, so a removal searches half a chain on
//! average.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use report::schema::{Cache, Op, Params};
use rmap::{Access, Mapping, RmapError, Vcpu};

use crate::clock::Clock;
use crate::counters;
use crate::disturb::ThreadWatch;
use crate::plan::{Plan, Scale};
use crate::rng::Rng;
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::vm::{self, Vm};

/// Longest time one cell is measured in one round.
const MOST_PER_ROUND: Duration = Duration::from_millis(20);
/// Pages of the VM: heads, SPTEs and descriptors stay in an L2.
const GFNS: u64 = 128;
/// What is timed, in the order of [`WriterCell::pass`].
const OPS: [Op; 4] = [Op::SpuriousFault, Op::Zap, Op::Fault, Op::UnmapRange];

/// With 15 a fault takes a descriptor and a zap frees one; the others keep theirs.
fn chains(scale: Scale) -> &'static [u32] {
    match scale {
        Scale::Quick => &[1, 2, 16],
        Scale::Full => &[1, 2, 4, 15, 16, 64],
    }
}

/// The workload.
pub struct Writer;

impl Workload for Writer {
    fn name(&self) -> &'static str {
        "writer"
    }

    fn summary(&self) -> &'static str {
        "faults, zaps and unmaps alone: the tax of the rmap bit on mutators"
    }

    fn least_cpus(&self) -> usize {
        1
    }

    fn weight(&self) -> u32 {
        5
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for chain_len in plan.keep_chains(self.name(), chains(plan.scale))? {
            for scheme in &plan.mutable_with(chain_len) {
                cells.push(WriterCell::new(plan, scheme, chain_len));
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        Ok(cells
            .into_iter()
            .map(|cell| cell.finish(plan, slice))
            .collect())
    }
}

struct WriterCell {
    scheme: String,
    chain_len: u32,
    clock: Clock,
    slice: Duration,
    rng: Rng,
    vm: Option<Vm>,
    vcpu: Vcpu,
    /// The SPTEs of a pass, one of each page.
    mappings: Vec<Mapping>,
    /// Nanoseconds of one operation, pass by pass.
    ns: [Vec<f64>; OPS.len()],
}

impl WriterCell {
    fn new(plan: &Plan, scheme: &str, chain_len: u32) -> Self {
        Self {
            scheme: scheme.to_owned(),
            chain_len,
            clock: plan.clock,
            slice: Duration::ZERO,
            rng: Rng::new(plan.seed ^ u64::from(chain_len)),
            vm: None,
            vcpu: Vcpu::new(),
            mappings: Vec::new(),
            ns: Default::default(),
        }
    }

    fn finish(mut self, plan: &Plan, slice: Duration) -> Cell {
        self.slice = slice;
        let params = Params {
            chain_len: Some(self.chain_len),
            range_pages: Some(1),
            level: Some(1),
            cache: Some(Cache::Hot),
            working_set_bytes: Some(GFNS * vm::walked_bytes_per_gfn(self.chain_len)),
            slot_pages: Some(GFNS),
            young_share: Some(1.0),
            cpus: Some(vec![plan.cpus.leader() as u32]),
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

    /// Draws an SPTE of each page, the pages in random order.
    fn draw(&mut self) {
        self.mappings.clear();
        for gfn in 0..GFNS {
            let alias = self.rng.below(u64::from(self.chain_len)) as u32;
            self.mappings.push(vm::mapping(gfn, alias));
        }
        self.rng.shuffle(&mut self.mappings);
    }

    /// Does one operation on all drawn SPTEs.
    fn run_all(&mut self, vm: &Vm, op: Op) -> Result<(), RmapError> {
        let (mmu, vcpu) = (vm.mmu(), &mut self.vcpu);
        for &mapping in &self.mappings {
            match op {
                Op::Zap => drop(mmu.zap(vcpu, mapping)?),
                Op::UnmapRange => drop(mmu.unmap_range(vcpu, vm::range(mapping.gfn.0, 1))?),
                _ => drop(mmu.fault(vcpu, mapping, Access::Write)?),
            }
        }
        Ok(())
    }

    /// Maps again what a pass has unmapped.
    fn map_again(&mut self, vm: &Vm) -> Result<(), RmapError> {
        for alias in 0..self.chain_len {
            for gfn in 0..GFNS {
                let mapping = vm::mapping(gfn, alias);
                vm.mmu().fault(&mut self.vcpu, mapping, Access::Write)?;
            }
        }
        Ok(())
    }

    /// Times every operation once on all pages and leaves them as they were.
    fn pass(&mut self, vm: &Vm) -> Result<(), RmapError> {
        for (place, op) in OPS.into_iter().enumerate() {
            let start = self.clock.now();
            self.run_all(vm, op)?;
            let ns = self.clock.elapsed_ns(start, self.clock.now());
            self.ns[place].push(ns / self.mappings.len() as f64);
        }
        self.map_again(vm)
    }

    /// Counts the events of each operation in passes that are not timed: starting
    /// and stopping the counters takes system calls.
    fn count(&mut self, vm: &Vm, tools: &mut Tools) -> Result<Vec<Vec<counters::Reading>>> {
        let mut counted = Vec::with_capacity(OPS.len());
        for of in OPS {
            self.draw();
            for op in OPS {
                if op == of {
                    tools.counters.clear();
                    tools.counters.start();
                }
                self.run_all(vm, op)?;
                if op == of {
                    tools.counters.stop();
                    counted.push(tools.counters.per_operation(self.mappings.len() as u64));
                }
            }
            self.map_again(vm)?;
        }
        Ok(counted)
    }
}

impl Measure for WriterCell {
    fn prepare(&mut self) -> Result<()> {
        self.vm = Some(Vm::build(&self.scheme, GFNS, self.chain_len)?);
        Ok(())
    }

    fn measure(&mut self, tools: &mut Tools) -> Result<Measured> {
        let vm = self
            .vm
            .take()
            .context("the pages were not mapped before they were zapped")?;
        // The first pass warms up.
        self.draw();
        self.pass(&vm)?;
        self.ns.iter_mut().for_each(Vec::clear);
        let watch = ThreadWatch::start();
        let end = Instant::now() + self.slice;
        while self.ns[0].is_empty() || Instant::now() < end {
            self.draw();
            self.pass(&vm)?;
        }
        let threads = vec![watch.stop()];
        let counters = self.count(&vm, tools)?;
        self.vm = Some(vm);
        let reading = |((op, ns), counters): ((Op, &Vec<f64>), Vec<counters::Reading>)| {
            let median = report::stats::median(ns).context("no pass was timed")?;
            Ok(Reading {
                counters,
                ..Reading::new(op, "ns_per_op", median)
            })
        };
        let timed = OPS.into_iter().zip(&self.ns).zip(counters);
        let readings: Result<_> = timed.map(reading).collect();
        Ok(Measured {
            readings: readings?,
            threads,
        })
    }
}

#[cfg(test)]
mod tests {
    use rmap::{Gfn, Level};

    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn every_scheme_gives_all_four_operations_and_keeps_its_chains() {
        let mut plan = plan();
        plan.budget = Duration::from_millis(1);
        let mut tools = Tools::of_tests();
        for scheme in rmap::schemes() {
            for chain_len in [1, 15].map(|n| scheme.aliases(n)) {
                let mut cell = WriterCell::new(&plan, scheme.name, chain_len);
                cell.prepare().unwrap();
                let measured = cell.measure(&mut tools).unwrap();
                let ops: Vec<_> = measured.readings.iter().map(|r| r.op).collect();
                assert_eq!(ops, OPS);
                assert!(measured.readings.iter().all(|r| r.value > 0.0));
                // A software counter is there on every machine.
                let task_clock = |reading: &Reading| {
                    let counters = reading.counters.iter();
                    counters.filter(|c| c.0 == "task-clock-ns").count() == 1
                };
                assert!(measured.readings.iter().all(task_clock));
                let vm = cell.vm.unwrap();
                let len = vm.mmu().chain_len(Gfn(7), Level::Size4K).unwrap();
                assert_eq!(len, chain_len, "{}", scheme.name);
                vm.mmu().verify().unwrap();
            }
        }
    }

    #[test]
    fn operations_do_what_they_are_called_and_a_pass_leaves_the_chains_as_they_were() {
        let mut cell = WriterCell::new(&plan(), "bitlock", 3);
        cell.prepare().unwrap();
        let vm = cell.vm.take().unwrap();
        let all_have = |len| {
            let of = |gfn| vm.mmu().chain_len(Gfn(gfn), Level::Size4K).unwrap();
            (0..GFNS).all(|gfn| of(gfn) == len)
        };
        cell.draw();
        for (op, left) in OPS.into_iter().zip([3, 2, 3, 0]) {
            cell.run_all(&vm, op).unwrap();
            assert!(all_have(left), "{op}");
        }
        cell.map_again(&vm).unwrap();
        let begun = Instant::now();
        cell.pass(&vm).unwrap();
        let most_ns = begun.elapsed().as_nanos() as f64;
        assert!(all_have(3));
        let pass_ns = cell.ns.iter().flatten().sum::<f64>() * GFNS as f64;
        assert!(pass_ns <= most_ns, "{pass_ns} {most_ns}");
    }
}
