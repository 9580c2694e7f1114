//! `single-recheck`: lock-free clearing by looking at the head again. **Unsound**;
//! a negative control.
//!
//! With one SPTE in the rmap, the ager reads the SPTE, reads the head once more, and
//! clears Accessed with a compare-exchange: if the head has not changed, the value
//! came from a shadow page of KVM's, and if the SPTE has not changed either, it is
//! still that value. The thread itself says why this is wrong: between the two,
//! the shadow page can be freed, given to somebody else, and filled with the very
//! same value, and then the ager writes into a stranger's page (**I-life**).
//! Nothing here keeps the page: there is no read side, and pages are given away at
//! once. Longer chains take mmu_lock for write.
//!
//! What it gives up: I-life. The model checker must find it.

use std::ops::ControlFlow;

use crate::{
    head::{Chain, HeadWord, RmapHead},
    scheme::{AgeOp, AgerContext, NeedsMmuLock, Scheme, walk_exclusive},
    schemes::{Mmus, SchemeInfo},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "single-recheck",
    origin: "the thread (negative control)",
    summary: "lock-free clear by re-reading the head and compare-exchange; unsound",
    exact: true,
    consistent: false,
    parallel_agers: true,
    sound: false,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Chains,
    defers_descs: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<SingleRecheck>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum SingleRecheck {}

/// One aging callback.
pub struct Guard<'a> {
    context: AgerContext<'a>,
    fell_back: bool,
}

// SAFETY: I-life for descriptors: chains are walked with mmu_lock held for write. It
// does not hold for shadow pages; our pages are words inside the MMU that outlive
// every walk, so what breaks is the stranger's data and not memory.
unsafe impl Scheme for SingleRecheck {
    const NEEDS_MMU_LOCK: NeedsMmuLock = NeedsMmuLock::Chains;

    type Guard<'a> = Guard<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> Guard<'_> {
        Guard {
            context,
            fell_back: false,
        }
    }

    #[inline]
    fn walk(guard: &mut Guard<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        let word = head.load_acquire();
        match word.chain() {
            Chain::Empty => ControlFlow::Continue(()),
            Chain::One(spte) => {
                // SAFETY: shadow pages are allocated as long as the MMU is.
                let spte = unsafe { spte.as_ref() };
                op.visit_rechecked(spte, || head.load_acquire() == word)
            }
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
