//! `bitlock-seed`: the per-rmap bit exactly as the July 2024 patch ordered it.
//!
//! It differs from [`bitlock`](super::bitlock) in three ways: the unlock is a plain
//! store without release; a waiter reads first and pauses afterwards; and the range
//! walk is gfn by gfn, so the head of a 2 MiB page is locked 512 times.
//!
//! What it gives up: correctness on weakly ordered machines. The acquiring half is
//! a full compare-exchange, but without release on the unlock the walk's reads may
//! still be under way when the next holder frees what they read (**I-life**), and a
//! mutator's writes may not have arrived when the next ager walks. On x86-64 a store
//! never passes an earlier load or store, so the plain store is enough there; a
//! compiler fence stands for the kernel's volatile access. The scheme therefore
//! exists on x86-64, and under the model checker, whose memory is weak and which
//! must catch it.

use std::ops::ControlFlow;

use crate::{
    head::{HeadWord, RmapHead},
    scheme::{AgeOp, AgerContext, NeedsMmuLock, Scheme, WalkOrder, walk_exclusive},
    schemes::{Mmus, SchemeInfo},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "bitlock-seed",
    origin: "the July 2024 patch",
    summary: "the bit lock with a plain-store unlock, walking gfn by gfn",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: cfg!(not(loom)),
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Never,
    defers_descs: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<BitlockSeed>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum BitlockSeed {}

// SAFETY: I-life: as for the bit lock, where the machine keeps stores behind
// earlier loads and stores; the registry offers it nowhere else.
unsafe impl Scheme for BitlockSeed {
    const ORDER: WalkOrder = WalkOrder::GfnOuter;

    type Guard<'a> = ();

    #[inline]
    fn enter(_: AgerContext<'_>) {}

    #[inline]
    fn walk((): &mut (), head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        let word = head.lock_seed();
        if word.is_empty() {
            return ControlFlow::Continue(());
        }
        // SAFETY: I-life: the bit keeps mutators out.
        let over = unsafe { walk_exclusive(head, word, op) };
        head.store_plain(word);
        over
    }

    #[inline]
    fn was_fast((): &()) -> bool {
        true
    }

    #[inline]
    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        head.lock_seed()
    }

    #[inline]
    fn publish(head: &RmapHead, word: HeadWord) {
        head.store_plain(word);
    }
}
