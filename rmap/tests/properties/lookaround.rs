//! One page young in the TDP MMU, its neighbours only in the shadow MMU: what
//! MGLRU's lookaround learns of them.

use rmap::{Access, Gfn, GfnRange, Level, Lookaround, Mapping, Mmu, MmuConfig, Vcpu, lookaround};

/// Page X.
const X: Gfn = Gfn(512);

/// X+1 to X+N, in the same page table and the same lookaround.
const NEIGHBOURS: GfnRange = GfnRange {
    start: Gfn(513),
    end: Gfn(521),
};

const VMA: GfnRange = GfnRange {
    start: X,
    end: NEIGHBOURS.end,
};

/// Aliases of a nested host: 0 is the TDP MMU's, the others are the shadow MMU's.
const ALIASES: u32 = 4;

/// All pages mapped in the TDP MMU, the neighbours also by `shadow_sptes` shadow SPTEs
/// each; young is X in the TDP MMU, and one shadow SPTE of each neighbour.
fn nested_host(scheme: &str, shadow_sptes: u32) -> Box<dyn Mmu> {
    let scheme = rmap::scheme(scheme).expect("it is registered");
    let config = MmuConfig::new(X, VMA.npages(), ALIASES);
    let mmu = (scheme.build)(&config).expect("the configuration is valid");
    let mut vcpu = Vcpu::new();
    let at = |gfn, alias| Mapping::new(Gfn(gfn), Level::Size4K, alias);
    let shadow = (NEIGHBOURS.start.0..NEIGHBOURS.end.0)
        .flat_map(|gfn| (1..=shadow_sptes).map(move |alias| at(gfn, alias)));
    let tdp = (VMA.start.0..VMA.end.0).map(|gfn| at(gfn, 0));
    for mapping in tdp.chain(shadow) {
        let fault = mmu.fault(&mut vcpu, mapping, Access::Read);
        assert!(fault.is_ok(), "{fault:?}");
    }
    mmu.set_young_share(VMA, 0, 1);
    assert!(!mmu.test_age(VMA).young);
    assert!(mmu.touch(at(X.0, 0)));
    for gfn in NEIGHBOURS.start.0..NEIGHBOURS.end.0 {
        assert!(mmu.touch(at(gfn, shadow_sptes)));
    }
    mmu
}

fn neighbours() -> impl Iterator<Item = Gfn> {
    (NEIGHBOURS.start.0..NEIGHBOURS.end.0).map(Gfn)
}

fn look(mmu: &dyn Mmu) -> Lookaround {
    for gfn in neighbours() {
        assert!(mmu.test_age(GfnRange::single(gfn)).young, "{gfn:?}");
    }
    let seen = lookaround(mmu, X, VMA);
    assert!(seen.page.young && seen.page.fast, "{seen:?}");
    assert_eq!(seen.window, VMA);
    seen
}

#[test]
fn i_young_tiered_lookaround_sees_neighbours_young_in_either_mmu() {
    for shadow_sptes in 1..ALIASES {
        let mmu = nested_host("tiered", shadow_sptes);
        let seen = look(&*mmu);
        assert_eq!(seen.young().count() as u64, VMA.npages());
        assert!(!mmu.test_age(VMA).young, "what it saw is old now");
    }
}

#[test]
fn i_young_was_fast_lookaround_sees_neighbours_with_one_shadow_spte() {
    let mmu = nested_host("tiered-was-fast", 1);
    assert_eq!(look(&*mmu).young().count() as u64, VMA.npages());
    assert!(!mmu.test_age(VMA).young, "what it saw is old now");
}

#[test]
fn was_fast_lookaround_takes_young_chains_of_the_shadow_mmu_for_old() {
    for shadow_sptes in 2..ALIASES {
        let mmu = nested_host("tiered-was-fast", shadow_sptes);
        let seen = look(&*mmu);
        assert_eq!(seen.young().collect::<Vec<_>>(), [X]);
        for gfn in neighbours() {
            let page = GfnRange::single(gfn);
            assert!(mmu.test_age(page).young, "it left {gfn:?} young");
            assert!(mmu.age_before_eviction(page).young);
        }
    }
}
