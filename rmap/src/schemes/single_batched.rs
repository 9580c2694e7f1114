//! `single-batched`: [`single-bitlock`](super::single_bitlock) for ranges, read ahead.
//!
//! The protocol is that of `single-bitlock`: one SPTE is looked at without a lock,
//! chains under their bit. What differs is the walk of a range of more than eight
//! pages. The cache lines of the heads are asked for ahead of the walk, and of eight
//! neighbours the SPTE of the first, for the SPTEs of neighbouring pages are neighbours
//! too; or the descriptors of all eight. So the misses of many pages overlap, also where
//! clearing Accessed is an atomic operation that would let none of them start early.
//! Eight empty heads are passed over with one test. Under a chain's bit, the SPTEs of a descriptor and the
//! next descriptor are asked for before the first is visited.
//!
//! What it gives up: what `single-bitlock` does, and an instruction or two per page
//! where everything is in the cache already.
//!
//! Orderings: those of `single-bitlock`. A word read ahead is never followed: it only
//! says where to prefetch, and each head is read again, with acquire, when its turn
//! comes (**I-life**). An ager that reads eight heads as empty needs no ordering, as
//! with one.

use std::ops::ControlFlow;

use crate::{
    head::{Chain, HeadWord, RmapHead},
    prefetch::prefetch,
    pte_list,
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, FreePolicy, Scheme, visit_one},
    schemes::{Mmus, SchemeInfo, bitlock::Bitlock},
    shadow_mmu::ShadowMmu,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "single-batched",
    origin: "ours",
    summary: "single-bitlock that prefetches along a range and skips empty heads",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<SingleBatched>::boxed,
};

/// Heads passed over or asked for together: one cache line of them.
#[cfg(not(loom))]
const BATCH: usize = 8;
/// Two in the model, so that its few pages make a batch.
#[cfg(loom)]
const BATCH: usize = 2;

/// The scheme.
#[derive(Debug)]
pub enum SingleBatched {}

/// Whether no head of a batch leads anywhere.
#[inline(always)]
fn is_empty(batch: &[RmapHead; BATCH]) -> bool {
    batch.iter().all(|head| head.load().is_empty())
}

/// Batches whose heads, and what these point to, are asked for ahead of the walk.
const AHEAD: usize = 8;

/// Asks the cache for a batch of heads.
#[inline(always)]
fn ask_for_heads(batch: Option<&[RmapHead; BATCH]>) {
    if let Some([first, ..]) = batch {
        prefetch(std::ptr::from_ref(first));
    }
}

/// Asks the cache for what a batch of heads points to: one line where they are lone
/// SPTEs, which are neighbours as their pages are, and one for each chain.
#[inline(always)]
fn ask_for_targets(batch: Option<&[RmapHead; BATCH]>) {
    let Some(batch) = batch else { return };
    match batch[0].load().chain() {
        Chain::Empty => {}
        Chain::One(spte) => prefetch(spte.as_ptr()),
        Chain::Many(_) => batch.iter().for_each(|head| prefetch(head.load().target())),
    }
}

/// Visits the heads of a range of several batches.
#[inline(never)]
fn walk_batches(
    guard: &mut ReadSide<'_>,
    heads: &[RmapHead],
    op: &mut impl AgeOp,
) -> ControlFlow<()> {
    let (batches, rest) = heads.as_chunks::<BATCH>();
    (0..2 * AHEAD).for_each(|ahead| ask_for_heads(batches.get(ahead)));
    (0..AHEAD).for_each(|ahead| ask_for_targets(batches.get(ahead)));
    for (index, batch) in batches.iter().enumerate() {
        ask_for_heads(batches.get(index + 2 * AHEAD));
        ask_for_targets(batches.get(index + AHEAD));
        if !is_empty(batch) {
            batch
                .iter()
                .try_for_each(|head| SingleBatched::walk(guard, head, op))?;
        }
    }
    rest.iter()
        .try_for_each(|head| SingleBatched::walk(guard, head, op))
}

/// Visits a chain under its bit.
#[inline(never)]
fn walk_chain(head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
    let word = head.lock();
    if word.is_empty() {
        return ControlFlow::Continue(());
    }
    head.assert_no_mutator();
    // SAFETY: I-life: the bit keeps mutators out.
    let over = unsafe { pte_list::walk_prefetched(word, &mut |spte| op.visit(spte)) };
    head.unlock(word);
    over
}

// SAFETY: I-life: chains are walked with the bit held, as mutators change them; a
// lone SPTE is reached without a descriptor, and its page stays until the read side
// is left.
unsafe impl Scheme for SingleBatched {
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
            Chain::Many(_) => walk_chain(head, op),
        }
    }

    #[inline]
    fn walk_range(
        guard: &mut ReadSide<'_>,
        heads: &[RmapHead],
        op: &mut impl AgeOp,
    ) -> ControlFlow<()> {
        if heads.len() > BATCH {
            return walk_batches(guard, heads, op);
        }
        heads
            .iter()
            .try_for_each(|head| Self::walk(guard, head, op))
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
