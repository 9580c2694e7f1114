//! Negative controls: schemes with one rule broken, each of which must be caught.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use loom::thread;
use rmap::{
    Vcpu,
    head::{HeadWord, RmapHead},
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, Exclusion, Scheme, walk_exclusive},
    schemes::{bitlock::Bitlock, bitlock_seed, rcu::Rcu, single_recheck},
    shadow_mmu::ShadowMmu,
};

use crate::model::{Ager, Build, Mutator, ager_against_page_reuse, explore, mmu_with_chain};

/// Runs a model and returns why it failed; panics if it did not.
fn must_be_caught(model: impl Fn() + Send + Sync + 'static) -> String {
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
            thread::spawn(move || Mutator::Remove.run(&**mmu, &mut Vcpu::new(), len))
        };
        ager.run(&**mmu);
        side.join().expect("the mutator does not panic");
        assert_eq!(mmu.verify(), Ok(()));
    })
}

/// A bit lock with one of its four parts replaced.
macro_rules! broken_bitlock {
    ($name:ident, $doc:literal, { $($part:item)* }, inherit { $($inherited:item)* }) => {
        #[doc = $doc]
        enum $name {}
        // SAFETY: it does not keep its promise; the model keeps freed memory.
        unsafe impl Scheme for $name {
            type Guard<'a> = ();
            fn enter(_: AgerContext<'_>) {}
            fn was_fast((): &()) -> bool { true }
            $($part)*
            $($inherited)*
        }
    };
}

/// The bit lock's walk with another way to unlock.
fn walk_and_unlock(
    head: &RmapHead,
    op: &mut impl AgeOp,
    unlock: impl FnOnce(HeadWord),
) -> ControlFlow<()> {
    let word = head.lock();
    if word.is_empty() {
        return ControlFlow::Continue(());
    }
    // SAFETY: the model keeps freed memory.
    let over = unsafe { walk_exclusive(head, word, op) };
    unlock(word);
    over
}

broken_bitlock!(DropsMany, "Its unlock forgets MANY.", {
    fn walk((): &mut (), head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        walk_and_unlock(head, op, |word| head.publish(word.without_many()))
    }
}, inherit {
    fn lock_for_edit(head: &RmapHead) -> HeadWord { Bitlock::lock_for_edit(head) }
    fn publish(head: &RmapHead, word: HeadWord) { Bitlock::publish(head, word); }
});

broken_bitlock!(MutatorSkipsBit, "Its mutators do not take the bit.", {
    fn lock_for_edit(head: &RmapHead) -> HeadWord { head.load().unlocked() }
}, inherit {
    fn walk(guard: &mut (), head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        Bitlock::walk(guard, head, op)
    }
    fn publish(head: &RmapHead, word: HeadWord) { Bitlock::publish(head, word); }
});

/// It reads chains without a lock and frees descriptors at once.
enum FreesWithoutWaiting {}

// SAFETY: it does not keep its promise; the model keeps freed memory.
unsafe impl Scheme for FreesWithoutWaiting {
    const EXCLUSION: Exclusion = Exclusion::Concurrent;
    type Guard<'a> = ReadSide<'a>;
    fn enter(context: AgerContext<'_>) -> ReadSide<'_> {
        Rcu::enter(context)
    }
    fn walk(guard: &mut ReadSide<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        Rcu::walk(guard, head, op)
    }
    fn was_fast(_: &ReadSide<'_>) -> bool {
        true
    }
    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        Rcu::lock_for_edit(head)
    }
    fn publish(head: &RmapHead, word: HeadWord) {
        Rcu::publish(head, word);
    }
}

#[test]
fn control_an_unlock_that_drops_many_is_caught() {
    let message = must_be_caught(|| {
        let mmu = mmu_with_chain(ShadowMmu::<DropsMany>::boxed, 2, 4);
        Ager::Age.run(&**mmu);
        assert_eq!(mmu.verify(), Ok(()));
    });
    assert!(
        message.contains("Missing"),
        "caught for another reason: {message}"
    );
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
        ager_against_page_reuse(&single_recheck::INFO, Ager::Age, 1);
    });
    assert!(
        message.contains("I-life"),
        "caught for another reason: {message}"
    );
}
