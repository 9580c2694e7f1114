//! Negative controls: schemes with one rule broken, each of which must be caught.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use loom::thread;
use rmap::{
    Vcpu,
    schemes::{bitlock_seed, single_recheck},
    shadow_mmu::ShadowMmu,
};

use crate::{
    broken::{DropsMany, FreesWithoutWaiting, MutatorSkipsBit, MutatorSkipsLonesBit},
    model::{Ager, Build, ager_against_page_reuse, explore, mapping, mmu_with_chain},
};

/// Runs a model and returns why it failed; panics if it did not.
pub(crate) fn must_be_caught(model: impl Fn() + Send + Sync + 'static) -> String {
    must_be_caught_here(|| explore(model))
}

/// Runs a check and returns why it failed; panics if it did not.
fn must_be_caught_here(check: impl FnOnce()) -> String {
    let caught = catch_unwind(AssertUnwindSafe(check));
    let panic = caught.expect_err("the broken scheme was not caught");
    let message = panic.downcast_ref::<String>().cloned();
    let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    let message = message.expect("a panic has a message");
    println!("caught: {message}");
    message
}

/// One ager against one removal from a chain of `len`.
fn age_against_remove(build: Build, ager: Ager, len: u32) -> String {
    must_be_caught(move || {
        let mmu = mmu_with_chain(build, len, 4);
        let side = {
            let mmu = Arc::clone(&mmu);
            thread::spawn(move || mmu.zap(&mut Vcpu::new(), mapping(0)))
        };
        ager.run(&**mmu);
        let zapped = side.join().expect("the mutator does not panic");
        assert!(zapped.expect("I-chain: zap").was_present());
        assert_eq!(mmu.verify(), Ok(()), "I-chain");
    })
}

#[test]
fn control_an_unlock_that_drops_many_is_caught() {
    for ager in [Ager::Age, Ager::TestAge] {
        let message = age_against_remove(ShadowMmu::<DropsMany>::boxed, ager, 3);
        assert!(
            message.contains("I-chain"),
            "caught for another reason: {message}"
        );
    }
}

#[test]
fn control_the_seeds_plain_store_unlock_is_caught_in_weak_memory() {
    for ager in [Ager::Age, Ager::TestAge] {
        let message = age_against_remove(bitlock_seed::INFO.build, ager, 2);
        assert!(
            message.contains("Causality violation"),
            "caught for another reason: {message}"
        );
    }
}

#[test]
fn control_a_removal_that_skips_the_bit_is_caught() {
    for ager in [Ager::Age, Ager::TestAge] {
        let message = age_against_remove(ShadowMmu::<MutatorSkipsBit>::boxed, ager, 2);
        assert!(
            message.contains("Causality violation"),
            "caught for another reason: {message}"
        );
    }
}

#[test]
fn control_agers_that_lock_what_mutators_do_not_are_caught() {
    for ager in [Ager::Age, Ager::TestAge] {
        let message = age_against_remove(ShadowMmu::<MutatorSkipsLonesBit>::boxed, ager, 1);
        assert!(
            message.contains("Causality violation"),
            "caught for another reason: {message}"
        );
    }
}

#[test]
fn control_freeing_without_waiting_for_readers_is_caught() {
    for ager in [Ager::Age, Ager::TestAge] {
        let message = age_against_remove(ShadowMmu::<FreesWithoutWaiting>::boxed, ager, 3);
        assert!(
            message.contains("Causality violation"),
            "caught for another reason: {message}"
        );
    }
}

#[test]
fn control_single_rechecks_reuse_hazard_is_caught() {
    let message = must_be_caught_here(|| {
        ager_against_page_reuse(&single_recheck::INFO, Ager::Age, 1, 0);
    });
    assert!(
        message.contains("I-life"),
        "caught for another reason: {message}"
    );
}
