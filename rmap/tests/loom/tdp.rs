//! What is the TDP MMU's alone: faults and zaps that meet each other, pages of two
//! sizes, tables that are cut off, and two rules that must not be broken.

use std::sync::Arc;

use loom::thread;
use rmap::{
    Access, FaultOutcome, Gfn, GfnRange, Level, Mapping, Mmu, MmuConfig, Vcpu, Zapped,
    scheme::FreePolicy,
    tdp_mmu::{AsKvm, Rules, TdpMmu},
};

use crate::{
    controls::must_be_caught,
    model::{Ager, Build, GFN, NPAGES, explore, mapping},
};

const NEIGHBOUR: Mapping = Mapping::new(Gfn(GFN.0 + 1), Level::Size4K, 0);
const HUGE: Mapping = Mapping::new(GFN, Level::Size2M, 0);
const HUGEST: Mapping = Mapping::new(GFN, Level::Size1G, 0);

/// Faults leave frozen entries alone, or not: the second rule is broken.
enum IgnoresFrozen {}

// SAFETY: what it breaks is I-frozen; tables are freed after the readers.
unsafe impl Rules for IgnoresFrozen {
    const HONOUR_FROZEN: bool = false;
}

/// Tables are freed as soon as they are cut off.
enum FreesAtOnce {}

// SAFETY: it does not keep its promise; the model keeps freed memory.
unsafe impl Rules for FreesAtOnce {
    const FREE: FreePolicy = FreePolicy::Now;
}

/// An MMU with these mappings.
fn mmu_with(build: Build, mappings: &[Mapping]) -> Arc<dyn Mmu> {
    let mmu = build(&MmuConfig::new(GFN, NPAGES, 1)).expect("the configuration is valid");
    for &mapping in mappings {
        let outcome = mmu.fault(&mut Vcpu::new(), mapping, Access::Write);
        assert_eq!(outcome, Ok(FaultOutcome::Installed { chain_len: 1 }));
    }
    Arc::from(mmu)
}

fn fault(mmu: &dyn Mmu, mapping: Mapping) -> FaultOutcome {
    let outcome = mmu.fault(&mut Vcpu::new(), mapping, Access::Write);
    outcome.expect("the mapping is valid")
}

/// 1 if something maps the place at its level.
fn mapped(mmu: &dyn Mmu, place: Mapping) -> u64 {
    let len = mmu.chain_len(place.gfn, place.level);
    u64::from(len.expect("the gfn is in a memslot"))
}

fn collapse(mmu: &dyn Mmu) -> u64 {
    let zapped = mmu.zap_collapsible(&mut Vcpu::new(), GfnRange::pages(GFN, NPAGES));
    zapped.expect("there is no chain to be corrupt")
}

/// Runs `side` on another thread and `main` on this one, and checks the rest.
fn together<S: Send + 'static, M>(
    mmu: &Arc<dyn Mmu>,
    side: impl FnOnce(&dyn Mmu) -> S + Send + 'static,
    main: impl FnOnce(&dyn Mmu) -> M,
) -> (S, M) {
    let other = Arc::clone(mmu);
    let side = thread::spawn(move || side(&*other));
    let main = main(&**mmu);
    let side = side.join().expect("no thread panics");
    assert_eq!(mmu.verify(), Ok(()));
    assert_eq!(mmu.deferred_tables(), 0, "I-life: a table was never freed");
    (side, main)
}

fn fault_against_zap(build: Build) {
    let mmu = mmu_with(build, &[mapping(0)]);
    let (zapped, outcome) = together(
        &mmu,
        |mmu| mmu.zap(&mut Vcpu::new(), mapping(0)),
        |mmu| fault(mmu, mapping(0)),
    );
    assert_eq!(zapped, Ok(Zapped::Young));
    let installed = outcome != FaultOutcome::Spurious;
    let present = mapped(&*mmu, mapping(0)) == 1;
    assert_eq!(present, installed, "I-frozen: what was installed is lost");
}

fn fault_against_collapse(build: Build) {
    let mmu = mmu_with(build, &[mapping(0)]);
    let (zapped, _) = together(&mmu, collapse, |mmu| fault(mmu, NEIGHBOUR));
    let left = mapped(&*mmu, mapping(0)) + mapped(&*mmu, NEIGHBOUR);
    assert_eq!(zapped + left, 2, "I-frozen: what was installed is lost");
}

fn age_against_collapse(build: Build, ager: Ager) {
    let mmu = mmu_with(build, &[mapping(0)]);
    let (zapped, _) = together(&mmu, collapse, |mmu| ager.run(mmu));
    assert_eq!(zapped, 1);
}

#[test]
fn i_frozen_a_fault_beside_a_zap_is_not_lost() {
    explore(|| fault_against_zap(TdpMmu::<AsKvm>::boxed));
}

#[test]
fn i_frozen_a_fault_beside_a_collapse_is_not_lost() {
    explore(|| fault_against_collapse(TdpMmu::<AsKvm>::boxed));
}

#[test]
fn i_frozen_a_fault_beside_a_larger_one_is_not_lost() {
    explore(|| {
        let mmu = mmu_with(TdpMmu::<AsKvm>::boxed, &[mapping(0)]);
        together(&mmu, |mmu| fault(mmu, HUGE), |mmu| fault(mmu, NEIGHBOUR));
        let left = mapped(&*mmu, HUGE) + mapped(&*mmu, NEIGHBOUR);
        assert_eq!(left, 1, "one of the two sizes maps the page");
    });
}

#[test]
fn i_life_a_table_linked_below_one_that_is_replaced_goes_too() {
    explore(|| {
        let mmu = mmu_with(TdpMmu::<AsKvm>::boxed, &[mapping(0)]);
        assert_eq!(collapse(&*mmu), 1);
        together(&mmu, |mmu| fault(mmu, NEIGHBOUR), |mmu| fault(mmu, HUGEST));
        let left = mapped(&*mmu, HUGEST) + mapped(&*mmu, NEIGHBOUR);
        assert_eq!(left, 1, "one of the two sizes maps the page");
    });
}

#[test]
fn i_frozen_of_two_faults_one_installs() {
    explore(|| {
        let mmu = mmu_with(TdpMmu::<AsKvm>::boxed, &[]);
        let (one, other) = together(
            &mmu,
            |mmu| fault(mmu, mapping(0)),
            |mmu| fault(mmu, mapping(0)),
        );
        let spurious = [one, other].map(|outcome| outcome == FaultOutcome::Spurious);
        assert!(spurious[0] != spurious[1], "{one:?} and {other:?}");
        assert_eq!(mapped(&*mmu, mapping(0)), 1);
    });
}

#[test]
fn i_zap_of_two_zaps_one_finds_it() {
    explore(|| {
        let mmu = mmu_with(TdpMmu::<AsKvm>::boxed, &[mapping(0)]);
        let zap = |mmu: &dyn Mmu| {
            let zapped = mmu.zap(&mut Vcpu::new(), mapping(0));
            u32::from(zapped.expect("valid").was_present())
        };
        let (one, other) = together(&mmu, zap, zap);
        assert_eq!(one + other, 1);
    });
}

#[test]
fn i_life_agers_beside_a_table_that_goes() {
    for ager in [Ager::Age, Ager::TestAge] {
        explore(move || age_against_collapse(TdpMmu::<AsKvm>::boxed, ager));
    }
}

#[test]
fn i_young_agers_beside_a_page_that_is_split() {
    for ager in [Ager::Age, Ager::TestAge] {
        explore(move || {
            let mmu = mmu_with(TdpMmu::<AsKvm>::boxed, &[HUGE]);
            let (_, aging) = together(&mmu, |mmu| fault(mmu, NEIGHBOUR), |mmu| ager.run(mmu));
            assert!(
                aging.young,
                "I-young: the page was mapped and young all along"
            );
            assert_eq!(mapped(&*mmu, mapping(0)), 1);
        });
    }
}

#[test]
fn i_life_agers_beside_a_table_that_is_replaced() {
    for ager in [Ager::Age, Ager::TestAge] {
        explore(move || {
            let mmu = mmu_with(TdpMmu::<AsKvm>::boxed, &[mapping(0)]);
            let (_, aging) = together(&mmu, |mmu| fault(mmu, HUGE), |mmu| ager.run(mmu));
            let still = mmu.test_age(GfnRange::single(GFN)).young;
            assert!(still || ager == Ager::Age && aging.young, "I-young: lost");
        });
    }
}

#[test]
fn control_a_fault_that_ignores_a_frozen_entry_is_caught() {
    for model in [fault_against_zap, fault_against_collapse] {
        let message = must_be_caught(move || model(TdpMmu::<IgnoresFrozen>::boxed));
        assert!(
            message.contains("I-frozen"),
            "caught for another reason: {message}"
        );
    }
}

#[test]
fn control_a_table_freed_without_waiting_for_readers_is_caught() {
    for ager in [Ager::Age, Ager::TestAge] {
        let message =
            must_be_caught(move || age_against_collapse(TdpMmu::<FreesAtOnce>::boxed, ager));
        assert!(
            message.contains("Causality violation"),
            "caught for another reason: {message}"
        );
    }
}
