//! Schemes with one rule broken, for the negative controls of the checkers.

use std::ops::ControlFlow;

use rmap::{
    head::{HeadWord, RmapHead},
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, Exclusion, FreePolicy, Scheme, walk_exclusive},
    schemes::{bitlock::Bitlock, rcu::Rcu},
};

/// A bit lock with one of its four parts replaced.
macro_rules! broken_bitlock {
    ($name:ident, $doc:literal, { $($part:item)* }, inherit { $($inherited:item)* }) => {
        #[doc = $doc]
        pub(crate) enum $name {}
        // SAFETY: it does not keep its promise; the models keep freed memory.
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
    // SAFETY: the models keep freed memory.
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

broken_bitlock!(MutatorSkipsLonesBit, "Its mutators do not take the bit of lone SPTEs, which its agers do.", {
    fn lock_for_edit(head: &RmapHead) -> HeadWord { head.lock_chain() }
}, inherit {
    fn walk(guard: &mut (), head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        Bitlock::walk(guard, head, op)
    }
    fn publish(head: &RmapHead, word: HeadWord) { Bitlock::publish(head, word); }
});

/// It reads chains without a lock and frees descriptors at once.
pub(crate) enum FreesWithoutWaiting {}

// SAFETY: it does not keep its promise; the models keep freed memory.
unsafe impl Scheme for FreesWithoutWaiting {
    const PAGE_FREE: FreePolicy = FreePolicy::AfterReaders;
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
