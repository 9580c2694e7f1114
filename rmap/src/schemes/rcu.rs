//! `rcu`: whole chains read without any lock, descriptors freed after the readers.
//!
//! An ager enters an RCU-like read side, reads heads and chains while mutators may
//! be changing them, and leaves. Mutators hold mmu_lock for write and nothing more;
//! descriptors they take out are freed only when every ager that was inside has
//! left. This is the diff attached to the thread, made legal: nobody waits for
//! readers while holding mmu_lock.
//!
//! What it gives up:
//! * **Memory**: descriptors in limbo, see [`Mmu::deferred_descs`](crate::Mmu::deferred_descs).
//! * **A consistent chain**: a removal moves the first descriptor's last entry into
//!   the hole. If the hole is in the first descriptor and the walker is between the
//!   two, it misses that SPTE, so a young page may be reported old (false-old). If
//!   the hole is further back, the walker may see the SPTE twice, which is
//!   harmless (or, where stores are seen out of order, miss it as well). Without a
//!   concurrent mutator nothing is missed (**I-young**).
//! * An SPTE just removed may still be visited: it is zapped then, or already
//!   installed again for the same gfn (**I-zap**).
//!
//! Orderings: the head word is published with release and read with acquire, so a
//! descriptor that can be reached was complete, `more` included, when it was
//! published, and `more` never changes after that. Everything else in a descriptor
//! is read relaxed: each value it ever had is an SPTE of this rmap or null.

use std::ops::ControlFlow;

use crate::{
    head::{HeadWord, RmapHead},
    pte_list,
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, Exclusion, FreePolicy, NeedsMmuLock, Scheme},
    schemes::{Mmus, SchemeInfo},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "rcu",
    origin: "the diff attached to the thread, made legal",
    summary: "aging reads whole chains without a lock; frees are deferred",
    exact: true,
    consistent: false,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Never,
    defers_descs: true,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<Rcu>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum Rcu {}

// SAFETY: I-life: every walk happens inside the read side its guard holds, and
// descriptors are freed after the readers.
unsafe impl Scheme for Rcu {
    const FREE: FreePolicy = FreePolicy::AfterReaders;
    const PAGE_FREE: FreePolicy = FreePolicy::AfterReaders;
    const EXCLUSION: Exclusion = Exclusion::Concurrent;

    type Guard<'a> = ReadSide<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> ReadSide<'_> {
        context.reclaim.enter()
    }

    #[inline]
    fn walk(_: &mut ReadSide<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        let word = head.load_acquire();
        // SAFETY: I-life: the guard's read side keeps what `word` reaches.
        unsafe { pte_list::walk(word, &mut |spte| op.visit(spte)) }
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
