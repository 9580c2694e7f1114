//! Negative controls: what survives sequential consistency must be caught here too.
//!
//! (The seed's plain-store unlock does not: every store is a release here. It is
//! loom's to catch.)

use std::sync::Arc;

use rmap::{
    Access, Gfn, GfnRange, Level, Mapping, Mmu, MmuConfig, Vcpu, schemes::single_recheck,
    shadow_mmu::ShadowMmu,
};
use shuttle::thread;

use crate::{
    broken::{DropsMany, FreesWithoutWaiting, MutatorSkipsBit, MutatorSkipsLonesBit},
    history::{Build, Subject, random_history},
    schedules::{Schedules, explore},
};

/// A broken scheme has so many schedules to be caught in, from the seed asked for on:
/// with the seed that caught it, the first one does.
fn enough() -> Schedules {
    Schedules {
        count: 200_000,
        ..Schedules::asked_for()
    }
}

/// Runs a model until it fails, makes sure that the seed alone repeats the failure,
/// and returns why it failed.
fn must_be_caught(what: &str, model: impl Fn() + Clone + Send + Sync + 'static) -> String {
    let failure = explore(enough(), model.clone()).expect_err("the broken scheme was not caught");
    println!(
        "{what}: caught at schedule {}, seed {}: {}",
        failure.schedules, failure.seed, failure.message
    );
    let again = Schedules {
        first_seed: failure.seed,
        count: 1,
    };
    let again = explore(again, model).expect_err("the seed does not repeat the failure");
    assert_eq!(again.message, failure.message);
    failure.message
}

fn histories_catch(what: &str, build: Build) -> String {
    let subject = Subject {
        build,
        ..Subject::of(&single_recheck::INFO)
    };
    must_be_caught(what, move || random_history(subject))
}

/// One ager beside one removal. A word without MANY makes a descriptor look like an
/// SPTE, so nobody may walk it twice.
fn age_against_remove_once() {
    let mmu = ShadowMmu::<DropsMany>::boxed(&MmuConfig::new(Gfn(0), 4, 4));
    let mmu: Arc<dyn Mmu> = Arc::from(mmu.expect("the configuration is valid"));
    let mapping = |alias| Mapping::new(Gfn(0), Level::Size4K, alias);
    let mut vcpu = Vcpu::new();
    for alias in 0..3 {
        let fault = mmu.fault(&mut vcpu, mapping(alias), Access::Write);
        assert!(fault.is_ok(), "{fault:?}");
    }
    let ager = {
        let mmu = Arc::clone(&mmu);
        thread::spawn(move || mmu.age(GfnRange::single(Gfn(0))))
    };
    let zap = mmu.zap(&mut vcpu, mapping(0));
    assert!(zap.is_ok(), "I-chain: {zap:?}");
    ager.join().expect("the ager does not panic");
    assert_eq!(mmu.verify(), Ok(()), "I-chain");
}

#[test]
fn control_an_unlock_that_drops_many_is_caught() {
    let message = must_be_caught("drops MANY", age_against_remove_once);
    assert!(message.contains("I-chain"), "{message}");
}

/// A chain that two changed at once is broken, or leads to what was freed.
fn is_of_a_chain(message: &str) -> bool {
    ["I-chain", "I-life", "I-bit", "something freed was used"]
        .iter()
        .any(|reason| message.contains(reason))
}

#[test]
fn control_a_removal_that_skips_the_bit_is_caught() {
    let message = histories_catch("skips the bit", ShadowMmu::<MutatorSkipsBit>::boxed);
    assert!(is_of_a_chain(&message), "{message}");
}

#[test]
fn control_agers_that_lock_what_mutators_do_not_are_caught() {
    let message = histories_catch(
        "skips the bit of lone SPTEs",
        ShadowMmu::<MutatorSkipsLonesBit>::boxed,
    );
    assert!(is_of_a_chain(&message), "{message}");
}

#[test]
fn control_freeing_without_waiting_for_readers_is_caught() {
    let message = histories_catch(
        "frees without waiting",
        ShadowMmu::<FreesWithoutWaiting>::boxed,
    );
    assert!(message.contains("something freed was used"), "{message}");
}

#[test]
fn control_single_rechecks_reuse_hazard_is_caught() {
    let message = histories_catch("single-recheck", single_recheck::INFO.build);
    assert!(message.contains("I-life"), "{message}");
}
