//! Every pair of operations that may meet, for every sound scheme: a table over
//! operations and the registry, which a new scheme or operation is in by itself.

use std::sync::Arc;

use loom::thread;
use rmap::{AccessedBits, MmuConfig, Mmus, SchemeInfo, Vcpu};

use crate::model::{
    ALIASES, Ager, GFN, Mutator, NPAGES, ager_against_mutator, ager_against_page_reuse,
    check_at_rest, configured_mmu_with_chain, explore, mapping, mmu_with_chain,
    mutator_against_mutator,
};

fn sound_schemes() -> impl Iterator<Item = &'static SchemeInfo> {
    rmap::schemes().iter().filter(|scheme| scheme.sound)
}

/// With both MMUs a young SPTE in the TDP MMU ends test-age before it can meet what
/// happens to an rmap: then the page is mapped in the shadow MMU alone.
fn needs_the_rmap_alone(scheme: &SchemeInfo, ager: Ager, mutator: Mutator) -> bool {
    let in_tdp = mutator == Mutator::Remove;
    scheme.mmus == Mmus::Both && ager == Ager::TestAge && !in_tdp
}

/// Whether a chain of `len` takes a path that a shorter one does not: the removal of the
/// last of three is that of the first, but where the first is the TDP MMU's.
fn is_of_its_own(scheme: &SchemeInfo, mutator: Mutator, len: u32) -> bool {
    mutator != Mutator::RemoveLast || len < 3 || scheme.mmus == Mmus::Both
}

fn agers_against(mutator: Mutator) {
    for scheme in sound_schemes() {
        for ager in [Ager::Age, Ager::TestAge] {
            let alone = needs_the_rmap_alone(scheme, ager, mutator);
            let lengths = mutator.lengths().iter().copied();
            let lengths = lengths
                .filter(|&len| mutator.applies(scheme, len) && is_of_its_own(scheme, mutator, len));
            for len in lengths.filter(|&len| !alone || len > 0) {
                println!(
                    "{}: {ager:?} against {mutator:?} on a chain of {len}{}",
                    scheme.name,
                    if alone { " without the first" } else { "" }
                );
                ager_against_mutator(scheme, ager, mutator, len, alone);
            }
        }
    }
}

/// The other mutators that have no pair with this one yet.
fn mutators_against(mutator: Mutator) {
    let others = Mutator::ALL.iter().skip_while(|other| **other != mutator);
    for &other in others {
        let meet_at = |len: &u32| mutator.may_meet(*len) && other.may_meet(*len);
        for scheme in sound_schemes() {
            let possible = |len: &u32| *len <= scheme.max_aliases();
            for len in (0..=2).filter(meet_at).filter(possible) {
                println!(
                    "{}: {mutator:?} against {other:?} on a chain of {len}",
                    scheme.name
                );
                mutator_against_mutator(scheme, [mutator, other], len);
            }
        }
    }
}

/// A line for each mutator: its pairs with agers, its pairs with mutators. That there is
/// a line for each is checked when this is compiled.
macro_rules! pairs {
    ($($mutator:ident: $agers:ident, $mutators:ident;)+) => {
        $(
            #[test]
            fn $agers() {
                agers_against(Mutator::$mutator);
            }

            #[test]
            fn $mutators() {
                mutators_against(Mutator::$mutator);
            }
        )+

        const _: fn(Mutator) = |mutator| match mutator {
            $(Mutator::$mutator => (),)+
        };

        #[test]
        fn every_mutator_has_a_line() {
            assert_eq!(Mutator::ALL, [$(Mutator::$mutator),+]);
        }
    };
}

pairs! {
    Add: i_life_agers_against_add, i_chain_add_against_mutators;
    Remove: i_life_agers_against_remove, i_chain_remove_against_mutators;
    RemoveLast: i_life_agers_against_the_removal_of_the_last,
        i_chain_the_removal_of_the_last_against_mutators;
    ZapAll: i_life_agers_against_zap_all, i_chain_zap_all_against_mutators;
    Unmap: i_life_agers_against_unmap, i_chain_unmap_against_mutators;
    WriteProtect: i_progress_agers_against_write_protection,
        i_chain_write_protection_against_mutators;
    Collapse: i_progress_agers_against_a_walk_that_removes,
        i_chain_a_walk_that_removes_against_mutators;
}

#[test]
fn i_progress_two_agers_on_one_rmap() {
    for scheme in sound_schemes() {
        for (number, mine) in Ager::ALL.into_iter().enumerate() {
            for other in Ager::ALL.into_iter().skip(number) {
                println!("{}: {mine:?} against {other:?}", scheme.name);
                two_agers(scheme, mine, other);
            }
        }
    }
}

fn two_agers(scheme: &'static SchemeInfo, mine: Ager, other: Ager) {
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
    let first = [(Ager::Age, 1, 0), (Ager::TestAge, 1, 0), (Ager::Age, 2, 0)];
    // With both MMUs the first SPTE's page is the TDP MMU's.
    let shadow = [(Ager::Age, 2, 1), (Ager::Age, 3, 1)];
    for scheme in sound_schemes() {
        let shadow = shadow.iter().filter(|_| scheme.mmus == Mmus::Both);
        for &(ager, len, alias) in first.iter().chain(shadow) {
            if len > scheme.max_aliases() {
                continue;
            }
            println!(
                "{}: {ager:?} against the reuse of the page of SPTE {alias} of {len}",
                scheme.name
            );
            ager_against_page_reuse(scheme, ager, len, alias);
        }
    }
}
