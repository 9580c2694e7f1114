//! `bitlock`: a spin bit in each rmap's head, as merged in Linux 6.15.
//!
//! An ager takes no global lock. It sets the LOCKED bit of one head with a
//! compare-exchange (acquire), walks the chain, and clears the bit with a store
//! (release). Mutators hold mmu_lock for write and take the bit as well; walks
//! under mmu_lock that change nothing do not take it, so they cannot deadlock on it
//! (**I-progress**). Empty rmaps are never locked.
//!
//! What it gives up: two agers on one rmap wait for each other, and a mutator may
//! have to wait for the ager that is inside, both by spinning.
//!
//! One difference from the kernel, shared by all schemes that walk level by level:
//! the kernel steps from the range's first gfn, aligned or not, by the pages of one
//! huge page, and so may step over the head of the range's last huge page and report
//! it old; here every head that overlaps the range is visited. For single pages and
//! ranges aligned to the level it is the same.
//!
//! Orderings: acquire on taking the bit pairs with release on clearing it, so each
//! holder sees the chain as the last one left it, and (the other half of the same
//! pair) a mutator's changes and frees come after the walk it waited for. An ager
//! that reads 0 takes nothing and needs no ordering.

use std::ops::ControlFlow;

use crate::{
    head::{HeadWord, RmapHead},
    scheme::{AgeOp, AgerContext, NeedsMmuLock, Scheme, walk_exclusive},
    schemes::{Mmus, SchemeInfo},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "bitlock",
    origin: "Linux 6.15",
    summary: "aging takes a spin bit in each rmap head; no global lock",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Never,
    defers_descs: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<Bitlock>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum Bitlock {}

// SAFETY: I-life: walks and mutations of a non-empty chain happen with its bit
// held. A mutator may fill an empty chain without the bit: no walk is inside it.
unsafe impl Scheme for Bitlock {
    type Guard<'a> = ();

    #[inline]
    fn enter(_: AgerContext<'_>) {}

    #[inline]
    fn walk((): &mut (), head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        let word = head.lock();
        if word.is_empty() {
            return ControlFlow::Continue(());
        }
        // SAFETY: I-life: the bit keeps mutators out.
        let over = unsafe { walk_exclusive(head, word, op) };
        head.unlock(word);
        over
    }

    #[inline]
    fn was_fast((): &()) -> bool {
        true
    }

    #[inline]
    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        head.lock()
    }

    #[inline]
    fn publish(head: &RmapHead, word: HeadWord) {
        head.publish(word);
    }
}
