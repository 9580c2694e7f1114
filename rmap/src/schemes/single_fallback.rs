//! `single-fallback`: lock-free when an rmap has one SPTE; for longer chains
//! mmu_lock is taken for write.
//!
//! The thread's answer to [`single_skip`](super::single_skip)'s wrong answers, and
//! its worry: where chains are long, aging is back to stopping every fault, once
//! per rmap instead of once per callback.
//!
//! Orderings: as for the lock-free half of [`single_bitlock`](super::single_bitlock),
//! and mmu_lock's own.

use std::ops::ControlFlow;

use crate::{
    head::{Chain, HeadWord, RmapHead},
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, FreePolicy, NeedsMmuLock, Scheme, visit_one, walk_exclusive},
    schemes::{Mmus, SchemeInfo},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "single-fallback",
    origin: "the thread's worry",
    summary: "lock-free where one SPTE maps the page, mmu_lock for write for chains",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Chains,
    defers_descs: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<SingleFallback>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum SingleFallback {}

/// One aging callback.
pub struct Guard<'a> {
    context: AgerContext<'a>,
    _side: ReadSide<'a>,
    fell_back: bool,
}

// SAFETY: I-life: chains are walked with mmu_lock held for write, as mutators
// change them; a lone SPTE is reached without a descriptor.
unsafe impl Scheme for SingleFallback {
    const PAGE_FREE: FreePolicy = FreePolicy::AfterReaders;

    const NEEDS_MMU_LOCK: NeedsMmuLock = NeedsMmuLock::Chains;

    type Guard<'a> = Guard<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> Guard<'_> {
        Guard {
            context,
            _side: context.reclaim.enter(),
            fell_back: false,
        }
    }

    #[inline]
    fn walk(guard: &mut Guard<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        match head.load_acquire().chain() {
            Chain::Empty => ControlFlow::Continue(()),
            // SAFETY: I-life: the read side keeps the shadow page.
            Chain::One(spte) => unsafe { visit_one(spte, op) },
            Chain::Many(_) => {
                guard.fell_back = true;
                let _mmu_lock = guard.context.mmu_lock.write();
                // SAFETY: I-life: mmu_lock keeps mutators out.
                unsafe { walk_exclusive(head, head.load(), op) }
            }
        }
    }

    #[inline]
    fn was_fast(guard: &Guard<'_>) -> bool {
        !guard.fell_back
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
