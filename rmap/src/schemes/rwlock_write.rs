//! `rwlock-write`: aging holds mmu_lock for write.
//!
//! What KVM did before 6.15. Nothing runs beside aging: no fault, no zap, no other
//! ager. What it gives up is exactly that.
//!
//! Orderings: mmu_lock's own. Every walk and every mutation happens inside it, so
//! the head word is read relaxed and the chain is what the last holder left.

use std::ops::ControlFlow;

use crate::{
    head::{HeadWord, RmapHead},
    mmu_lock::WriteGuard,
    scheme::{AgeOp, AgerContext, NeedsMmuLock, Scheme, walk_exclusive},
    schemes::{Mmus, SchemeInfo},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "rwlock-write",
    origin: "kernels before 6.15",
    summary: "aging holds mmu_lock for write",
    exact: true,
    consistent: true,
    parallel_agers: false,
    sound: true,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Always,
    defers_descs: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<RwlockWrite>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum RwlockWrite {}

// SAFETY: I-life: walks and mutations all happen with mmu_lock held for write, so
// none is inside a chain while another is.
unsafe impl Scheme for RwlockWrite {
    const NEEDS_MMU_LOCK: NeedsMmuLock = NeedsMmuLock::Always;

    type Guard<'a> = WriteGuard<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> WriteGuard<'_> {
        context.mmu_lock.write()
    }

    #[inline]
    fn walk(_: &mut WriteGuard<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        // SAFETY: I-life: the guard keeps mutators out.
        unsafe { walk_exclusive(head, head.load(), op) }
    }

    #[inline]
    fn was_fast(_: &WriteGuard<'_>) -> bool {
        false
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
