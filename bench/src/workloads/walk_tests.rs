//! `walk` on small sets, under every scheme there is.

use report::schema::Cache;

use super::*;
use crate::plan::tests::plan;

fn small_plan(chains: &[u32]) -> Plan {
    let mut plan = plan();
    plan.schemes = crate::subject::subjects()
        .map(|s| s.name.to_owned())
        .collect();
    plan.chain_lengths = Some(chains.to_vec());
    plan.budget = Duration::from_millis(50);
    plan
}

fn measure_all(plan: &Plan) -> Vec<(Params, Vec<crate::workload::Reading>)> {
    let mut tools = Tools::of_tests();
    let mut cells = Walk.cells(plan).unwrap();
    for cell in &mut cells {
        cell.measure.prepare().unwrap();
    }
    let measured = cells.iter_mut().map(|cell| {
        let measured = cell.measure.measure(&mut tools).unwrap();
        (cell.params.clone(), measured.readings)
    });
    measured.collect()
}

#[test]
fn every_scheme_gives_a_cost_for_both_operations_in_every_cell() {
    for (params, readings) in measure_all(&small_plan(&[0, 1, 16])) {
        let (per_spte, costs): (Vec<_>, Vec<_>) =
            readings.iter().partition(|r| r.metric == "ns_per_spte");
        let ops: Vec<_> = costs.iter().map(|r| r.op).collect();
        assert_eq!(ops, [Op::TestAge, Op::Age]);
        let per_page = params.range_pages == Some(1);
        let metric = if per_page {
            "ns_per_callback"
        } else {
            "ns_per_gfn"
        };
        for reading in &costs {
            let value = reading.value;
            assert!(value > 0.0 && value.is_finite(), "{params:?}");
            assert_eq!(reading.metric, metric);
        }
        let chain_len = f64::from(params.chain_len.unwrap());
        let several = chain_len > 1.0 && params.young_share == Some(OLD);
        assert_eq!(per_spte.len(), if several { 2 } else { 0 });
        for (spte, cost) in per_spte.iter().zip(&costs) {
            assert_eq!(spte.op, cost.op);
            assert_eq!(spte.value, cost.value / chain_len);
        }
    }
}

#[test]
fn huge_pages_are_walked_under_every_scheme_that_maps_them() {
    let plan = small_plan(&[]);
    let mut tools = Tools::of_tests();
    for (level, told) in [(Level::Size2M, 2), (Level::Size1G, 3)] {
        let grid = Grid::huge(level, level.npages(), &[1]);
        let mut cells = Vec::new();
        for scheme in grid.subjects(&plan, 1) {
            add_cells(&mut cells, &plan, &scheme, &grid, 1, 0);
        }
        assert!(cells.len() > rmap::schemes().len());
        for cell in cells {
            let mut cell = cell.finish(&plan, Duration::from_millis(1));
            cell.measure.prepare().unwrap();
            assert_eq!(cell.params.level, Some(told));
            assert_eq!(cell.params.range_pages, Some(level.npages()));
            assert_eq!(cell.params.slot_pages, Some(2 * level.npages()));
            let measured = cell.measure.measure(&mut tools).unwrap();
            assert_eq!(measured.readings.len(), 2, "{}", cell.scheme);
        }
    }
}

#[test]
fn hot_sets_fit_the_l2_swept_ones_are_the_guests_and_cold_ones_are_large() {
    let plan = small_plan(&[1, 16]);
    for cell in Walk.cells(&plan).unwrap() {
        let bytes = cell.params.working_set_bytes.unwrap();
        match cell.params.cache.unwrap() {
            Cache::Hot => {
                let floor = HOT_GFNS.0 * vm::walked_bytes_per_gfn(cell.params.chain_len.unwrap());
                assert!(bytes <= (plan.caches.l2_bytes / 2).max(floor));
            }
            Cache::Swept => assert_eq!(cell.params.slot_pages, Some(SWEPT_GFNS)),
            Cache::Llc => {
                assert!(bytes >= (LLC_OF_L2 * plan.caches.l2_bytes).min(plan.caches.llc_bytes / 4));
            }
            Cache::Cold => assert!(bytes >= COLD_BYTES.min(2 * plan.caches.llc_bytes)),
        }
    }
}

#[test]
fn a_cold_cell_goes_through_its_set_before_a_page_comes_again() {
    let plan = small_plan(&[]);
    for grid in QUICK.iter().filter(|grid| grid.cache == Cache::Cold) {
        for &chain_len in grid.chains {
            let mut cells = Vec::new();
            add_cells(&mut cells, &plan, "rwlock-write", grid, chain_len, 0);
            assert_eq!(cells.len(), 2);
            for cell in &mut cells {
                let mut pages = std::collections::HashSet::new();
                let lanes = cell.ground.borrow().lanes();
                for _ in 0..SEGMENTS * lanes {
                    let mut ground = cell.ground.borrow_mut();
                    ground.enter(&mut cell.track);
                    let ranges = ground.starts().iter();
                    let mut pages_of = ranges.flat_map(|&s| s..s + grid.range_pages);
                    assert!(pages_of.all(|page| pages.insert(page)));
                }
                let bytes = pages.len() as u64 * vm::walked_bytes_per_gfn(chain_len);
                assert!(bytes >= 2 * plan.caches.llc_bytes, "{chain_len}: {bytes}");
            }
            let told = cells.remove(1).finish(&plan, Duration::ZERO).params;
            let set = set_gfns(&plan, Cache::Cold, chain_len, 1);
            let bytes = set * vm::walked_bytes_per_gfn(chain_len);
            assert_eq!(told.working_set_bytes, Some(bytes));
            assert_eq!(told.slot_pages, Some(2 * set));
        }
    }
}

#[test]
fn a_page_without_sptes_is_neither_young_nor_old() {
    for cell in Walk.cells(&small_plan(&[0, 1])).unwrap() {
        let empty = cell.params.chain_len == Some(0);
        assert_eq!(cell.params.young_share.is_none(), empty);
    }
}

#[test]
fn accessed_bits_are_restored_after_a_pass_that_cleared_them() {
    let mut plan = small_plan(&[4]);
    plan.schemes = vec!["rwlock-write".to_owned()];
    let ground = Rc::new(RefCell::new(Ground::new("rwlock-write", 4, 2048, 1, 2)));
    let mut cells: Vec<_> = [YOUNG, OLD]
        .iter()
        .enumerate()
        .map(|(cell, &young_share)| WalkCell {
            ground: Rc::clone(&ground),
            track: Track::new(cell),
            cache: Cache::Cold,
            young_share,
            family: 0,
            passes: Passes::new(plan.clock),
            touched: Touched::default(),
        })
        .collect();
    let mut tools = Tools::of_tests();
    for cell in &mut cells {
        cell.prepare().unwrap();
    }
    for cell in &mut cells {
        cell.measure(&mut tools).unwrap();
        let mut ground = cell.ground.borrow_mut();
        for _ in 0..SEGMENTS * ground.lanes() {
            ground.enter(&mut cell.track);
            let (vm, starts) = ground.way().unwrap();
            let young = starts
                .iter()
                .filter(|&&s| vm.mmu().test_age(vm::range(s, 1)).young);
            assert_eq!(young.count() as f64, starts.len() as f64 * cell.young_share);
        }
    }
}

#[test]
fn quick_has_the_chain_lengths_the_comparison_interpolates_between() {
    let mut plan = small_plan(&[]);
    plan.chain_lengths = None;
    let cells = Walk.cells(&plan).unwrap();
    let chains = |cache: Cache| {
        let mut chains: Vec<_> = cells
            .iter()
            .filter(|c| c.params.cache == Some(cache) && c.params.range_pages == Some(1))
            .filter_map(|c| c.params.chain_len)
            .collect();
        chains.sort_unstable();
        chains.dedup();
        chains
    };
    assert_eq!(chains(Cache::Hot), [0, 1, 2, 4, 14, 15, 16, 64, 200, 256]);
    assert_eq!(chains(Cache::Cold), [1, 16, 64]);
}

#[test]
fn a_full_run_has_every_length_range_level_and_cache() {
    let mut plan = small_plan(&[]);
    (plan.chain_lengths, plan.scale) = (None, Scale::Full);
    plan.schemes = vec!["bitlock".to_owned()];
    let cells = Walk.cells(&plan).unwrap();
    let sorted = |of: fn(&Params) -> Option<u64>| -> Vec<u64> {
        let values: std::collections::BTreeSet<_> =
            cells.iter().filter_map(|c| of(&c.params)).collect();
        values.into_iter().collect()
    };
    let hot_pages = |p: &Params| p.cache == Some(Cache::Hot) && p.range_pages == Some(1);
    let chains = cells.iter().filter(|c| hot_pages(&c.params));
    let mut chains: Vec<_> = chains.filter_map(|c| c.params.chain_len).collect();
    chains.dedup();
    assert!(chains.starts_with(&ALL_CHAINS), "{chains:?}");
    assert_eq!((ALL_CHAINS[0], ALL_CHAINS[13]), (0, 1000));
    let ranges = sorted(|p| p.range_pages.filter(|_| p.level == Some(1)));
    assert_eq!(ranges, [1, 8, 64, 512, WHOLE_SLOT]);
    let is_whole = |p: &Params| p.range_pages == p.slot_pages && p.level == Some(1);
    assert!(cells.iter().any(|c| is_whole(&c.params)));
    assert_eq!(sorted(|p| p.level.map(u64::from)), [1, 2, 3]);
    for cache in [Cache::Hot, Cache::Swept, Cache::Llc, Cache::Cold] {
        assert!(cells.iter().any(|c| c.params.cache == Some(cache)));
    }
}

#[test]
fn a_cold_set_has_left_the_caches_before_every_round() {
    let plan = small_plan(&[]);
    let grid = Grid::new(Cache::Cold, &[OLD], 1, &[1]);
    let mut cells = Vec::new();
    add_cells(&mut cells, &plan, "rwlock-write", &grid, 1, 0);
    let mut cell = cells.remove(0);
    cell.prepare().unwrap();
    let mut tools = Tools::of_tests();
    for _ in 0..3 {
        let (before, entered) = (tools.evictor.read_bytes(), cell.track.entered());
        cell.measure(&mut tools).unwrap();
        let segments = cell.track.entered() - entered;
        let own = segments * cell.ground.borrow().walked_bytes_per_segment();
        let others = tools.evictor.read_bytes() - before - own;
        assert_eq!(others, 2 * crate::workload::LLC_OF_TESTS);
    }
}
