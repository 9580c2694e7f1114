//! `pass`: aging passes over a whole VM while its vCPUs fault it in.
//!
//! The layout of the tables that were published with the kernel's patches: time of
//! an aging pass, and time the vCPUs take for a fixed amount of work with and
//! without an ager. The work is to fault in every page of the VM, each vCPU the
//! pages of its own; the VM starts every round unmapped. The ager goes page by page
//! over all of it, pass after pass, until the last vCPU is done; `s_per_pass` is
//! its time over the passes it made, parts of passes included.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use report::schema::{Op, Params};
use rmap::{Access, Mmu, Vcpu};

use crate::clock::Clock;
use crate::counters::{self, CounterSet};
use crate::disturb::ThreadDisturbance;
use crate::duty::Roster;
use crate::plan::{Plan, Scale};
use crate::team::{self, Member, Seat};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::pages::{Pages, Sweep};
use crate::workloads::vm::{self, Vm};

/// Agers of a cell that has any.
const AGERS: usize = 1;
/// Callbacks between two looks at whether the vCPUs are done.
const BATCH: u64 = 64;
/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

fn chains(scale: Scale) -> &'static [u32] {
    match scale {
        Scale::Quick => &[1],
        Scale::Full => &[1, 4],
    }
}

/// The workload.
pub struct Pass;

impl Workload for Pass {
    fn name(&self) -> &'static str {
        "pass"
    }

    fn summary(&self) -> &'static str {
        "seconds per aging pass over a VM, and what it costs vCPUs that fault it in"
    }

    fn least_cpus(&self) -> usize {
        2
    }

    fn weight(&self) -> u32 {
        8
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for chain_len in plan.keep_chains(self.name(), chains(plan.scale))? {
            for scheme in &plan.mutable_with(chain_len) {
                let vm = Rc::new(RefCell::new(None));
                // The cells of one scheme share its VM: the first answers for it.
                let mut resident_bytes = vm::resident_bytes(plan.vm_pages, chain_len);
                for threads in plan.threads_from(self.name(), 2)? {
                    for agers in [0, AGERS] {
                        let vm = Rc::clone(&vm);
                        let vcpus = threads - AGERS;
                        let cell = PassCell::new(plan, scheme, chain_len, agers, vcpus, vm)?;
                        cells.push(cell.into_cell(std::mem::take(&mut resident_bytes)));
                    }
                }
            }
        }
        Ok(cells)
    }
}

struct PassCell {
    vm: Rc<RefCell<Option<Vm>>>,
    scheme: String,
    chain_len: u32,
    gfns: u64,
    agers: usize,
    vcpus: usize,
    /// Agers first.
    cpus: Vec<usize>,
    clock: Clock,
    cleaner: Vcpu,
}

/// What one thread did.
enum Part {
    Ager {
        gfns: u64,
        ns: f64,
        /// Per gfn.
        counters: Vec<counters::Reading>,
    },
    Vcpu {
        ns: f64,
        /// Per SPTE faulted in.
        counters: Vec<counters::Reading>,
    },
}

impl PassCell {
    fn new(
        plan: &Plan,
        scheme: &str,
        chain_len: u32,
        agers: usize,
        vcpus: usize,
        vm: Rc<RefCell<Option<Vm>>>,
    ) -> Result<Self> {
        // A role has the same CPUs with and without the ager.
        let all = plan.cpus.first(AGERS + vcpus)?;
        Ok(Self {
            vm,
            scheme: scheme.to_owned(),
            chain_len,
            gfns: plan.vm_pages,
            agers,
            vcpus,
            cpus: all[AGERS - agers..].to_vec(),
            clock: plan.clock,
            cleaner: Vcpu::new(),
        })
    }

    fn into_cell(self, resident_bytes: u64) -> Cell {
        let aging = if self.agers > 0 {
            "back_to_back"
        } else {
            "none"
        };
        let params = Params {
            chain_len: Some(self.chain_len),
            range_pages: Some(1),
            level: Some(1),
            slot_pages: Some(self.gfns),
            vm_bytes: Some(self.gfns * PAGE_BYTES),
            agers: Some(self.agers as u32),
            vcpus: Some(self.vcpus as u32),
            load: Some("closed_loop".to_owned()),
            aging: Some(aging.to_owned()),
            cpus: Some(self.cpus.iter().map(|&cpu| cpu as u32).collect()),
            ..Params::default()
        };
        Cell {
            scheme: self.scheme.clone(),
            params,
            family: self.chain_len,
            resident_bytes,
            measure: Box::new(self),
        }
    }
}

/// Faults every SPTE of these pages in; the time that took.
fn populate(mmu: &dyn Mmu, clock: Clock, pages: Pages, chain_len: u32) -> Result<f64> {
    let mut vcpu = Vcpu::new();
    let start = clock.now();
    for gfn in pages.first..pages.first + pages.count {
        for alias in 0..chain_len {
            mmu.fault(&mut vcpu, vm::mapping(gfn, alias), Access::Write)?;
        }
    }
    Ok(clock.elapsed_ns(start, clock.now()))
}

/// Ages until no vCPU runs any more; pages and the time that took.
fn age(mmu: &dyn Mmu, clock: Clock, gfns: u64, running: &Roster) -> (u64, f64) {
    let mut sweep = Sweep::new(Pages::share(gfns, 0, 1), 0);
    let start = clock.now();
    let mut aged = 0;
    while !running.is_empty() {
        sweep.age(mmu, BATCH);
        aged += BATCH;
    }
    (aged, clock.elapsed_ns(start, clock.now()))
}

type Outcome = Result<(Part, ThreadDisturbance)>;

impl Measure for PassCell {
    fn prepare(&mut self) -> Result<()> {
        let mut vm = self.vm.borrow_mut();
        if vm.is_none() {
            *vm = Some(Vm::build(&self.scheme, self.gfns, self.chain_len)?);
        }
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let vm = self.vm.borrow();
        let vm = vm
            .as_ref()
            .context("the VM was not built before it was aged")?;
        let (mmu, clock, gfns, chain_len) = (vm.mmu(), self.clock, self.gfns, self.chain_len);
        mmu.unmap_range(&mut self.cleaner, vm::range(0, gfns))?;
        let running = Roster::default();
        let running = &running;
        let mut members: Vec<Member<'_, Outcome>> = Vec::new();
        for _ in 0..self.agers {
            members.push(Box::new(move |seat: &Seat<'_>| {
                let mut counters = CounterSet::open();
                let timed = || counters.around(|| age(mmu, clock, gfns, running));
                let ((gfns, ns), disturbance) =
                    seat.measure(timed).context("another thread failed")?;
                let counters = counters.per_operation(gfns);
                Ok((Part::Ager { gfns, ns, counters }, disturbance))
            }));
        }
        for index in 0..self.vcpus {
            let (pages, on_duty) = (Pages::share(gfns, index, self.vcpus), running.join());
            let faults = pages.count * u64::from(chain_len);
            members.push(Box::new(move |seat: &Seat<'_>| {
                let mut counters = CounterSet::open();
                let timed = || {
                    let ns = counters.around(|| populate(mmu, clock, pages, chain_len));
                    drop(on_duty);
                    ns
                };
                let (ns, disturbance) = seat.measure(timed).context("another thread failed")?;
                let counters = counters.per_operation(faults);
                Ok((Part::Vcpu { ns: ns?, counters }, disturbance))
            }));
        }
        let parts: Result<Vec<_>> = team::run(&self.cpus, members)?.into_iter().collect();
        Ok(gather(parts?, gfns))
    }
}

/// The figures of a round; counters of the vCPUs are those of the slowest.
fn gather(parts: Vec<(Part, ThreadDisturbance)>, gfns: u64) -> Measured {
    const NS_PER_S: f64 = 1e9;
    let (mut readings, mut threads) = (Vec::new(), Vec::new());
    let (mut slowest_ns, mut slowest_counters) = (0.0, Vec::new());
    for (part, disturbance) in parts {
        threads.push(disturbance);
        match part {
            Part::Vcpu { ns, counters } if ns > slowest_ns => {
                (slowest_ns, slowest_counters) = (ns, counters);
            }
            Part::Ager {
                gfns: aged,
                ns,
                counters,
            } if aged > 0 => {
                let passes = aged as f64 / gfns as f64;
                readings.push(Reading {
                    counters,
                    ..Reading::new(Op::Age, "s_per_pass", ns / passes / NS_PER_S)
                });
                readings.push(Reading::new(Op::Age, "passes", passes));
            }
            Part::Vcpu { .. } | Part::Ager { .. } => {}
        }
    }
    readings.push(Reading {
        counters: slowest_counters,
        ..Reading::new(Op::Fault, "vcpu_s", slowest_ns / NS_PER_S)
    });
    Measured { readings, threads }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn every_scheme_populates_the_vm_with_and_without_an_ager() {
        let mut plan = plan();
        if plan.cpus.as_slice().len() < 2 {
            return;
        }
        plan.schemes = rmap::schemes().iter().map(|s| s.name.to_owned()).collect();
        plan.threads = vec![2];
        let mut tools = Tools::of_tests();
        let cells = Pass.cells(&plan).unwrap();
        assert_eq!(cells.len(), 2 * plan.schemes.len());
        for mut cell in cells {
            cell.measure.prepare().unwrap();
            let measured = cell.measure.measure(&mut tools).unwrap();
            let metrics: Vec<_> = measured.readings.iter().map(|r| r.metric).collect();
            assert!(metrics.contains(&"vcpu_s"), "{}", cell.scheme);
            let cpus = cell.params.cpus.as_ref().unwrap().len();
            assert_eq!(measured.threads.len(), cpus);
            assert!(measured.readings.iter().all(|r| r.value > 0.0));
            let counted = |r: &Reading| r.metric == "passes" || !r.counters.is_empty();
            assert!(measured.readings.iter().all(counted), "{}", cell.scheme);
        }
    }

    #[test]
    fn a_round_begins_unmapped_and_ends_with_every_page_faulted_in() {
        let mut plan = plan();
        if plan.cpus.as_slice().len() < 2 {
            return;
        }
        plan.vm_pages = 600;
        // Something else is mapped before.
        let vm = Vm::build("bitlock", plan.vm_pages, 2).unwrap();
        let vm = Rc::new(RefCell::new(Some(vm)));
        let mut cell = PassCell::new(&plan, "bitlock", 1, 0, 1, Rc::clone(&vm)).unwrap();
        cell.measure(&mut Tools::of_tests()).unwrap();
        let vm = vm.borrow();
        let len = |gfn| {
            let mmu = vm.as_ref().unwrap().mmu();
            mmu.chain_len(rmap::Gfn(gfn), rmap::Level::Size4K).unwrap()
        };
        assert!((0..plan.vm_pages).all(|gfn| len(gfn) == 1));
    }

    #[test]
    fn a_vcpu_has_its_cpu_with_and_without_the_ager() {
        let mut plan = plan();
        plan.cpus = crate::cpus::CpuList::from_cpus(vec![4, 2, 7]).unwrap();
        let cpus = |agers| {
            let cell = PassCell::new(&plan, "bitlock", 1, agers, 2, Rc::default());
            cell.unwrap().cpus
        };
        assert_eq!((cpus(0), cpus(AGERS)), (vec![2, 7], vec![4, 2, 7]));
    }

    #[test]
    fn an_ager_goes_over_all_pages_until_the_last_vcpu_is_done() {
        let vm = Vm::build("rwlock-write", 256, 1).unwrap();
        let running = Roster::default();
        let on_duty = running.join();
        let late = std::time::Duration::from_millis(30);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(late);
                drop(on_duty);
            });
            let (gfns, ns) = age(vm.mmu(), Clock::calibrate(), 256, &running);
            // Calibrating took a part of it.
            assert!(
                gfns > 256 && ns >= late.as_nanos() as f64 * 0.1,
                "{gfns} {ns}"
            );
        });
        assert!(!vm.mmu().test_age(vm::range(0, 256)).young);
    }

    #[test]
    fn the_time_of_a_pass_is_that_of_the_passes_made() {
        let disturbance = || ThreadDisturbance {
            involuntary_switches: report::Observed::Value(0),
            migrations: report::Observed::Value(0),
            wait_share: report::Observed::Value(0.0),
        };
        let counted = |count| vec![("page-faults", report::Observed::Value(count))];
        let (gfns, ns, counters) = (250, 5e9, counted(1.0));
        let ager = Part::Ager { gfns, ns, counters };
        let vcpu = |ns, count| Part::Vcpu {
            ns,
            counters: counted(count),
        };
        let parts = vec![
            (ager, disturbance()),
            (vcpu(3e9, 7.0), disturbance()),
            (vcpu(2e9, 8.0), disturbance()),
        ];
        let measured = gather(parts, 100);
        let values: Vec<_> = measured
            .readings
            .iter()
            .map(|r| (r.metric, r.value))
            .collect();
        assert_eq!(
            values,
            [("s_per_pass", 2.0), ("passes", 2.5), ("vcpu_s", 3.0)]
        );
        let counters = |at: usize| measured.readings[at].counters.clone();
        assert_eq!((counters(0), counters(2)), (counted(1.0), counted(7.0)));
    }
}
