//! `single-bitlock`: lock-free when an rmap has one SPTE, the bit lock for chains.
//!
//! Most rmaps hold exactly one SPTE, and then the head word is the SPTE's address:
//! there is nothing to walk and nothing that could be freed under the walker but
//! the shadow page, which the read side keeps. So an ager touches the head's cache
//! line read-only, and the bit is left to real chains.
//!
//! That spares mutators the bit as well, wherever no ager can be inside, or none minds:
//! * an rmap without a descriptor is never locked, so the mutator that holds mmu_lock
//!   for write is the only one to change its word, and changes it by a plain store;
//! * an SPTE more in a descriptor that has room changes no word and frees nothing: the
//!   ager inside sees it or not, as if it had come before or after.
//!
//! A removal from a chain, and an addition that takes a new descriptor, wait for the
//! bit as in [`bitlock`](super::bitlock).
//!
//! What it gives up: the SPTE may be zapped, and another added, while the ager looks
//! at it. It sees the rmap as it was when it read the head.
//!
//! Orderings: the head is read with acquire, against the release that published
//! it, so the SPTE is seen installed. Chains are the bit lock's business: an ager takes
//! the bit by a compare-exchange from a word with MANY, so a chain that has gone
//! meanwhile is not locked but looked at again, with acquire.

use std::ops::ControlFlow;

use crate::{
    head::{Chain, HeadWord, RmapHead},
    pte_list,
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, FreePolicy, NeedsMmuLock, Scheme, visit_one},
    schemes::{Mmus, SchemeInfo},
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
    needs_mmu_lock: NeedsMmuLock::Never,
    defers_descs: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<SingleBitlock>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum SingleBitlock {}

/// Gives `walk` a chain with its bit held; `None` if the rmap has no chain any more.
#[inline]
fn with_chain(
    head: &RmapHead,
    walk: impl FnOnce(HeadWord) -> ControlFlow<()>,
) -> Option<ControlFlow<()>> {
    let word = head.lock_chain();
    if !word.is_many() {
        return None;
    }
    head.assert_no_mutator();
    let over = walk(word);
    head.unlock(word);
    Some(over)
}

/// Visits the SPTEs of one rmap: a lone one without a lock, a chain under its bit, by
/// `walk_chain`.
///
/// # Safety
/// **I-life**: the caller is on the read side.
#[inline(always)]
pub(super) unsafe fn walk_one_or_chain<O: AgeOp>(
    head: &RmapHead,
    op: &mut O,
    walk_chain: impl Fn(HeadWord, &mut O) -> ControlFlow<()>,
) -> ControlFlow<()> {
    loop {
        match head.load_acquire().chain() {
            Chain::Empty => return ControlFlow::Continue(()),
            // SAFETY: I-life: the read side keeps the shadow page.
            Chain::One(spte) => return unsafe { visit_one(spte, op) },
            Chain::Many(_) => {
                if let Some(over) = with_chain(head, |word| walk_chain(word, op)) {
                    return over;
                }
            }
        }
    }
}

// SAFETY: I-life: chains are walked with the bit held, and whoever takes an entry or a
// descriptor out of one holds it too; a lone SPTE is reached without a descriptor.
unsafe impl Scheme for SingleBitlock {
    const PAGE_FREE: FreePolicy = FreePolicy::AfterReaders;
    const APPENDS_UNLOCKED: bool = true;

    type Guard<'a> = ReadSide<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> ReadSide<'_> {
        context.reclaim.enter()
    }

    #[inline]
    fn walk(_: &mut ReadSide<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        // SAFETY: I-life: the guard is the read side, and the bit keeps removals out.
        unsafe {
            walk_one_or_chain(head, op, |word, op| {
                pte_list::walk(word, &mut |spte| op.visit(spte))
            })
        }
    }

    #[inline]
    fn was_fast(_: &ReadSide<'_>) -> bool {
        true
    }

    #[inline]
    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        head.lock_chain()
    }

    #[inline]
    fn publish(head: &RmapHead, word: HeadWord) {
        head.publish(word);
    }
}
