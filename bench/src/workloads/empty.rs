//! `empty`: aging a whole memslot, most of whose heads hold nothing.
//!
//! One callback over all pages. Which pages are mapped is drawn page by page with
//! a fixed seed, once each, so a branch predictor finds no pattern and no run of
//! empty heads is longer than chance makes it. All SPTEs are old: `test_age` would
//! leave at the first young one. The small slot is walked over and over and its heads
//! fit into a last-level cache; the large one's have left it before every pass.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use report::schema::{Cache, Op, Params};

use crate::clock::Clock;
use crate::disturb::ThreadWatch;
use crate::eviction::Touched;
use crate::plan::{Plan, Scale};
use crate::rng::Rng;
use crate::subject::{self, Kind};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::vm::{self, Vm};

/// Longest time one cell is measured in one round, both operations together.
const MOST_PER_ROUND: Duration = Duration::from_millis(20);
/// Pages of the small slot: 1 GiB.
const SMALL_SLOT: u64 = 1 << 18;
/// Pages of the large slot: 32 GiB, heads of 64 MiB; fewer where the last-level
/// cache is less than half of that.
const LARGE_SLOT: u64 = 1 << 23;
/// Bytes of a head.
const HEAD_BYTES: u64 = 8;

/// Slots of one size with these shares of empty heads.
struct Grid {
    cache: Cache,
    slot_pages: u64,
    empty_shares: &'static [f64],
    /// Peers look every page of a slot up in a hash map, which takes long.
    with_peers: bool,
}

fn grids(plan: &Plan) -> Vec<Grid> {
    let small = Grid {
        cache: Cache::Hot,
        slot_pages: SMALL_SLOT,
        empty_shares: &[0.0, 0.5, 0.99],
        with_peers: true,
    };
    let twice_the_cache = 2 * plan.caches.llc_bytes / HEAD_BYTES;
    let large = Grid {
        cache: Cache::Cold,
        slot_pages: LARGE_SLOT.min(twice_the_cache).max(SMALL_SLOT),
        empty_shares: &[0.99],
        with_peers: false,
    };
    match plan.scale {
        Scale::Quick => vec![small],
        Scale::Full => vec![small, large],
    }
}

/// The workload.
pub struct Empty;

impl Workload for Empty {
    fn name(&self) -> &'static str {
        "empty"
    }

    fn summary(&self) -> &'static str {
        "whole-slot test_age and age where 0, 50 or 99 % of the heads are empty"
    }

    fn least_cpus(&self) -> usize {
        1
    }

    fn weight(&self) -> u32 {
        6
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for grid in grids(plan) {
            let subjects =
                subject::keep(&plan.schemes, |s| s.kind != Kind::Peer || grid.with_peers);
            for &empty_share in grid.empty_shares {
                let family = cells.len() as u32;
                for scheme in &subjects {
                    cells.push((family, EmptyCell::new(plan, scheme, &grid, empty_share)));
                }
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        let finish = |(family, cell): (u32, EmptyCell)| cell.finish(plan, family, slice);
        Ok(cells.into_iter().map(finish).collect())
    }
}

struct EmptyCell {
    scheme: String,
    cache: Cache,
    slot_pages: u64,
    empty_share: f64,
    clock: Clock,
    slice: Duration,
    mapped: Rc<RefCell<Option<Vm>>>,
    /// When the large slot was last walked.
    touched: Touched,
    ns_per_gfn: Vec<f64>,
}

impl EmptyCell {
    fn new(plan: &Plan, scheme: &str, grid: &Grid, empty_share: f64) -> Self {
        Self {
            scheme: scheme.to_owned(),
            cache: grid.cache,
            slot_pages: grid.slot_pages,
            empty_share,
            clock: plan.clock,
            slice: Duration::ZERO,
            mapped: Rc::default(),
            touched: Touched::default(),
            ns_per_gfn: Vec::new(),
        }
    }

    fn finish(mut self, plan: &Plan, family: u32, slice: Duration) -> Cell {
        self.slice = slice / 2;
        let mapped = (self.slot_pages as f64 * (1.0 - self.empty_share)).round() as u64;
        let params = Params {
            chain_len: Some(1),
            range_pages: Some(self.slot_pages),
            level: Some(1),
            young_share: Some(0.0),
            cache: Some(self.cache),
            working_set_bytes: Some(self.slot_pages * HEAD_BYTES + mapped * HEAD_BYTES),
            slot_pages: Some(self.slot_pages),
            empty_share: Some(self.empty_share),
            cpus: Some(vec![plan.cpus.leader() as u32]),
            ..Params::default()
        };
        Cell {
            scheme: self.scheme.clone(),
            params,
            family,
            resident_bytes: vm::resident_bytes(self.slot_pages, 1),
            measure: Box::new(self),
        }
    }

    fn time(&mut self, vm: &Vm, op: Op, tools: &mut Tools) -> Result<Reading> {
        let (mmu, slot) = (vm.mmu(), vm::range(0, self.slot_pages));
        let callback = || match op {
            Op::Age => mmu.age(slot).young,
            _ => mmu.test_age(slot).young,
        };
        self.ns_per_gfn.clear();
        tools.counters.clear();
        let end = Instant::now() + self.slice;
        if self.cache == Cache::Hot {
            std::hint::black_box(callback());
        }
        loop {
            if self.cache == Cache::Cold {
                tools.evictor.evict(self.touched);
            }
            tools.counters.start();
            let start = self.clock.now();
            let young = callback();
            let ns = self.clock.elapsed_ns(start, self.clock.now());
            if young {
                bail!("{op} of {} found an old page young", self.scheme);
            }
            tools.counters.stop();
            self.ns_per_gfn.push(ns / self.slot_pages as f64);
            if self.cache == Cache::Cold {
                self.touched = tools.evictor.touch(self.slot_pages * HEAD_BYTES);
            }
            if Instant::now() >= end {
                break;
            }
        }
        let gfns = self.ns_per_gfn.len() as u64 * self.slot_pages;
        let median = report::stats::median(&self.ns_per_gfn).context("no pass was timed")?;
        Ok(Reading {
            counters: tools.counters.per_operation(gfns),
            ..Reading::new(op, "ns_per_gfn", median)
        })
    }
}

/// Whether a page is mapped, from the page alone.
fn is_mapped(gfn: u64, empty_share: f64) -> bool {
    /// Any fixed number; the draw is the same for every scheme and run.
    const SEED: u64 = 0x656d_7074_7900;
    const OF: u64 = 1 << 32;
    Rng::new(SEED ^ gfn.wrapping_mul(0xd134_2543_de82_ef95)).below(OF) as f64
        >= empty_share * OF as f64
}

impl Measure for EmptyCell {
    fn prepare(&mut self) -> Result<()> {
        let empty_share = self.empty_share;
        let chain_len = |gfn| u32::from(is_mapped(gfn, empty_share));
        let vm = Vm::build_mixed(&self.scheme, self.slot_pages, 1, chain_len)?;
        vm.set_young(0, self.slot_pages, 0.0);
        *self.mapped.borrow_mut() = Some(vm);
        Ok(())
    }

    fn measure(&mut self, tools: &mut Tools) -> Result<Measured> {
        let mapped = Rc::clone(&self.mapped);
        let mapped = mapped.borrow();
        let vm = mapped
            .as_ref()
            .context("the pages were not mapped before they were aged")?;
        let watch = ThreadWatch::start();
        let readings = [Op::TestAge, Op::Age].map(|op| self.time(vm, op, tools));
        Ok(Measured {
            readings: readings.into_iter().collect::<Result<_>>()?,
            threads: vec![watch.stop()],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn the_share_of_empty_heads_is_what_was_asked_for() {
        for (share, most_off) in [(0.0, 0.0), (0.5, 0.005), (0.99, 0.001)] {
            let empty = (0..1 << 17).filter(|&gfn| !is_mapped(gfn, share)).count();
            let off = (empty as f64 / f64::from(1 << 17) - share).abs();
            assert!(off <= most_off, "{share}: {off}");
        }
    }

    #[test]
    fn whole_slots_are_aged_under_every_scheme() {
        let mut plan = plan();
        plan.schemes = subject::subjects().map(|s| s.name.to_owned()).collect();
        plan.budget = Duration::from_millis(1);
        let mut tools = Tools::of_tests();
        let cells = Empty.cells(&plan).unwrap();
        assert_eq!(cells.len(), 3 * plan.schemes.len());
        // The sparsest slot is the quickest to build.
        for mut cell in cells.into_iter().skip(2 * plan.schemes.len()) {
            cell.measure.prepare().unwrap();
            let begun = Instant::now();
            let measured = cell.measure.measure(&mut tools).unwrap();
            let most_ns = begun.elapsed().as_nanos() as f64;
            let ops: Vec<_> = measured.readings.iter().map(|r| r.op).collect();
            assert_eq!(ops, [Op::TestAge, Op::Age]);
            let per_gfn = |ns: f64| ns > 0.0 && ns * SMALL_SLOT as f64 <= most_ns;
            assert!(measured.readings.iter().all(|r| per_gfn(r.value)));
            assert_eq!(cell.params.range_pages, cell.params.slot_pages);
            assert_eq!(cell.params.empty_share, Some(0.99));
        }
    }

    #[test]
    fn a_page_that_is_young_is_no_part_of_the_figures() {
        let plan = plan();
        let mut cell = EmptyCell::new(&plan, "rwlock-write", &grids(&plan)[0], 0.99);
        cell.slot_pages = 1 << 12;
        cell.prepare().unwrap();
        let mut tools = Tools::of_tests();
        assert!(cell.measure(&mut tools).is_ok());
        let all = cell.slot_pages;
        cell.mapped
            .borrow()
            .as_ref()
            .unwrap()
            .set_young(0, all, 1.0);
        assert!(cell.measure(&mut tools).is_err());
    }

    #[test]
    fn a_full_run_has_a_slot_whose_heads_no_cache_holds() {
        let mut plan = plan();
        plan.scale = Scale::Full;
        plan.caches.llc_bytes = 16 << 20;
        let grids = grids(&plan);
        let large = grids.iter().find(|grid| grid.cache == Cache::Cold).unwrap();
        assert!(large.slot_pages * HEAD_BYTES >= 2 * plan.caches.llc_bytes);
        assert!(large.empty_shares.contains(&0.99));
    }
}
