//! `rwlock-read`: aging holds mmu_lock for read.
//!
//! What other architectures did on the way. Agers run beside each other, and SPTEs
//! are changed atomically, so that is all they need; mutators wait for agers and
//! agers for mutators. What it gives up is faults while aging runs, and agers still
//! meet on the lock's own cache line.
//!
//! Orderings: mmu_lock's own, as for `rwlock-write`.

use std::ops::ControlFlow;

use crate::{
    head::{HeadWord, RmapHead},
    mmu_lock::ReadGuard,
    scheme::{AgeOp, AgerContext, NeedsMmuLock, Scheme, walk_exclusive},
    schemes::{Mmus, SchemeInfo},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "rwlock-read",
    origin: "other architectures' step",
    summary: "aging holds mmu_lock for read",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Always,
    defers_descs: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<RwlockRead>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum RwlockRead {}

// SAFETY: I-life: mutations happen with mmu_lock held for write, walks with it held
// for read, so no walk is inside a chain that changes.
unsafe impl Scheme for RwlockRead {
    const NEEDS_MMU_LOCK: NeedsMmuLock = NeedsMmuLock::Always;

    type Guard<'a> = ReadGuard<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> ReadGuard<'_> {
        context.mmu_lock.read()
    }

    #[inline]
    fn walk(_: &mut ReadGuard<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        // SAFETY: I-life: the guard keeps mutators out.
        unsafe { walk_exclusive(head, head.load(), op) }
    }

    #[inline]
    fn was_fast(_: &ReadGuard<'_>) -> bool {
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
