//! Every pair of operations that may meet, for every sound scheme.

use std::sync::Arc;

use loom::thread;
use rmap::{AccessedBits, MmuConfig, Mmus, SchemeInfo, Vcpu};

use crate::model::{
    ALIASES, Ager, GFN, Mutator, NPAGES, ager_against_mutator, ager_against_page_reuse,
    check_at_rest, configured_mmu_with_chain, explore, mapping, mmu_with_chain,
};

fn sound_schemes() -> impl Iterator<Item = &'static SchemeInfo> {
    rmap::schemes().iter().filter(|scheme| scheme.sound)
}

/// With both MMUs a young SPTE in the TDP MMU ends test-age before it can meet what
/// happens to an rmap.
fn ends_before_it_meets(scheme: &SchemeInfo, ager: Ager, mutator: Mutator) -> bool {
    let in_rmap = matches!(
        mutator,
        Mutator::Add | Mutator::RemoveLast | Mutator::ZapAll
    );
    scheme.mmus == Mmus::Both && ager == Ager::TestAge && in_rmap
}

/// Chain lengths at which the mutation takes a different path: no SPTE, one, the
/// first descriptor, a full one, a second one.
fn for_every_scheme(ager: Ager, mutator: Mutator, lengths: &[u32]) {
    for scheme in sound_schemes() {
        if ends_before_it_meets(scheme, ager, mutator) {
            continue;
        }
        let possible = |len: &&u32| mutator.applies(scheme, **len);
        for &len in lengths.iter().filter(possible) {
            println!(
                "{}: {ager:?} against {mutator:?} on a chain of {len}",
                scheme.name
            );
            ager_against_mutator(scheme, ager, mutator, len);
        }
    }
}

#[test]
fn i_life_age_against_add() {
    for_every_scheme(Ager::Age, Mutator::Add, &[0, 1, 2, 3]);
}

#[test]
fn i_life_test_age_against_add() {
    for_every_scheme(Ager::TestAge, Mutator::Add, &[0, 1, 2, 3]);
}

#[test]
fn i_life_age_against_remove() {
    for_every_scheme(Ager::Age, Mutator::Remove, &[1, 2, 3]);
}

#[test]
fn i_life_test_age_against_remove() {
    for_every_scheme(Ager::TestAge, Mutator::Remove, &[1, 2, 3]);
}

#[test]
fn i_life_agers_against_the_removal_of_the_last() {
    for ager in [Ager::Age, Ager::TestAge] {
        for_every_scheme(ager, Mutator::RemoveLast, &[2]);
    }
}

#[test]
fn i_life_age_against_zap_all() {
    for_every_scheme(Ager::Age, Mutator::ZapAll, &[1, 2]);
}

#[test]
fn i_life_test_age_against_zap_all() {
    for_every_scheme(Ager::TestAge, Mutator::ZapAll, &[1, 2]);
}

#[test]
fn i_life_age_against_unmap() {
    for_every_scheme(Ager::Age, Mutator::Unmap, &[1, 3]);
}

#[test]
fn i_life_test_age_against_unmap() {
    for_every_scheme(Ager::TestAge, Mutator::Unmap, &[1, 3]);
}

#[test]
fn i_progress_agers_against_write_protection() {
    for ager in [Ager::Age, Ager::TestAge] {
        for_every_scheme(ager, Mutator::WriteProtect, &[1, 2]);
    }
}

#[test]
fn i_progress_agers_against_a_walk_that_removes() {
    for ager in [Ager::Age, Ager::TestAge] {
        for_every_scheme(ager, Mutator::Collapse, &[1, 2]);
    }
}

#[test]
fn i_progress_two_agers_on_one_rmap() {
    for scheme in sound_schemes() {
        for (mine, other) in [
            (Ager::Age, Ager::Age),
            (Ager::Age, Ager::TestAge),
            (Ager::TestAge, Ager::TestAge),
        ] {
            println!("{}: {mine:?} against {other:?}", scheme.name);
            explore(move || {
                let len = scheme.aliases(3);
                let mmu = mmu_with_chain(scheme.build, len, 4);
                let side = {
                    let mmu = Arc::clone(&mmu);
                    thread::spawn(move || other.run(&**mmu).young)
                };
                let young = mine.run(&**mmu).young;
                let other_young = side.join().expect("the ager does not panic");
                if scheme.exact {
                    assert!(young || other_young, "I-young: both missed it");
                }
                check_at_rest(&**mmu, scheme, len);
            });
        }
    }
}

/// Age and the hardware's use of a page against the zap of its SPTE.
fn age_and_touch_against_zap(scheme: &'static SchemeInfo, accessed: AccessedBits) {
    println!("{}: age and touch against zap, {accessed:?}", scheme.name);
    explore(move || {
        let config = MmuConfig::new(GFN, NPAGES, ALIASES).with_accessed(accessed);
        let len = scheme.aliases(2);
        let mmu = configured_mmu_with_chain(scheme.build, &config, len);
        let side = {
            let mmu = Arc::clone(&mmu);
            thread::spawn(move || mmu.touch(mapping(0)))
        };
        let ager = {
            let mmu = Arc::clone(&mmu);
            thread::spawn(move || Ager::Age.run(&**mmu))
        };
        let mut vcpu = Vcpu::new();
        let zapped = mmu.zap(&mut vcpu, mapping(0));
        assert!(zapped.expect("mapped").was_present());
        side.join().expect("the hardware does not panic");
        ager.join().expect("the ager does not panic");
        assert!(
            !mmu.touch(mapping(0)),
            "I-zap: the zapped SPTE is there again"
        );
        check_at_rest(&**mmu, scheme, len - 1);
    });
}

#[test]
fn i_zap_a_touched_and_aged_spte_stays_zapped() {
    for scheme in sound_schemes() {
        age_and_touch_against_zap(scheme, AccessedBits::AD);
    }
}

#[test]
fn i_zap_an_access_tracked_spte_stays_zapped() {
    for scheme in sound_schemes() {
        age_and_touch_against_zap(scheme, AccessedBits::AccessTracking);
    }
}

#[test]
fn i_life_a_page_given_away_is_left_alone() {
    for scheme in sound_schemes() {
        for (ager, len) in [(Ager::Age, 1), (Ager::TestAge, 1), (Ager::Age, 2)] {
            if len > scheme.max_aliases() {
                continue;
            }
            println!(
                "{}: {ager:?} against the reuse of a page, {len} SPTEs",
                scheme.name
            );
            ager_against_page_reuse(scheme, ager, len);
        }
    }
}
