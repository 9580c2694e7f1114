//! `single-bitlock`: lock-free when an rmap has one SPTE, the bit lock for chains.
//!
//! Most rmaps hold exactly one SPTE, and then the head word is the SPTE's address:
//! there is nothing to walk and nothing that could be freed under the walker but
//! the shadow page, which the read side keeps. So an ager touches the head's cache
//! line read-only, and the bit is left to real chains. Mutators take the bit
//! always, as in [`bitlock`](super::bitlock).
//!
//! What it gives up: the SPTE may be zapped, and another added, while the ager looks
//! at it. It sees the rmap as it was when it read the head.
//!
//! Orderings: the head is read with acquire, against the release that published
//! it, so the SPTE is seen installed. Chains are the bit lock's business.

use std::ops::ControlFlow;

use crate::{
    head::{Chain, HeadWord, RmapHead},
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, FreePolicy, Scheme, visit_one},
    schemes::{Mmus, SchemeInfo, bitlock::Bitlock},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "single-bitlock",
    origin: "ours",
    summary: "lock-free where one SPTE maps the page, the bit lock for chains",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<SingleBitlock>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum SingleBitlock {}

// SAFETY: I-life: chains are walked with the bit held, as mutators change them; a
// lone SPTE is reached without a descriptor.
unsafe impl Scheme for SingleBitlock {
    const PAGE_FREE: FreePolicy = FreePolicy::AfterReaders;

    type Guard<'a> = ReadSide<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> ReadSide<'_> {
        context.reclaim.enter()
    }

    #[inline]
    fn walk(_: &mut ReadSide<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        match head.load_acquire().chain() {
            Chain::Empty => ControlFlow::Continue(()),
            // SAFETY: I-life: the read side keeps the shadow page.
            Chain::One(spte) => unsafe { visit_one(spte, op) },
            Chain::Many(_) => Bitlock::walk(&mut (), head, op),
        }
    }

    #[inline]
    fn was_fast(_: &ReadSide<'_>) -> bool {
        true
    }

    #[inline]
    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        Bitlock::lock_for_edit(head)
    }

    #[inline]
    fn publish(head: &RmapHead, word: HeadWord) {
        Bitlock::publish(head, word);
    }
}
