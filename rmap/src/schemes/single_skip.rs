//! `single-skip`: lock-free when an rmap has one SPTE; longer chains count as old.
//!
//! The thread's first sketch. Aging never waits for anybody and mutators pay
//! nothing. What it gives up is the truth about chains: a page that is mapped more
//! than once is reported old however hot it is, and is evicted.
//!
//! Orderings: as for the lock-free half of [`single_bitlock`](super::single_bitlock).

use std::ops::ControlFlow;

use crate::{
    head::{Chain, HeadWord, RmapHead},
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, FreePolicy, NeedsMmuLock, Scheme, visit_one},
    schemes::{Mmus, SchemeInfo},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "single-skip",
    origin: "the thread's first sketch",
    summary: "lock-free where one SPTE maps the page; longer chains are reported old",
    exact: false,
    consistent: false,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::SkipsChains,
    defers_descs: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<SingleSkip>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum SingleSkip {}

// SAFETY: I-life: no walk ever enters a chain; a lone SPTE is reached without a
// descriptor.
unsafe impl Scheme for SingleSkip {
    const PAGE_FREE: FreePolicy = FreePolicy::AfterReaders;

    const NEEDS_MMU_LOCK: NeedsMmuLock = NeedsMmuLock::SkipsChains;

    type Guard<'a> = ReadSide<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> ReadSide<'_> {
        context.reclaim.enter()
    }

    #[inline]
    fn walk(_: &mut ReadSide<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        match head.load_acquire().chain() {
            // SAFETY: I-life: the read side keeps the shadow page.
            Chain::One(spte) => unsafe { visit_one(spte, op) },
            Chain::Empty | Chain::Many(_) => ControlFlow::Continue(()),
        }
    }

    #[inline]
    fn was_fast(_: &ReadSide<'_>) -> bool {
        true
    }

    #[inline]
    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        head.load()
    }

    #[inline]
    fn publish(head: &RmapHead, word: HeadWord) {
        head.publish(word);
    }
}
