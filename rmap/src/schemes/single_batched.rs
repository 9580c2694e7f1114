//! `single-batched`: [`single-bitlock`](super::single_bitlock) for ranges, by cache lines
//! of heads.
//!
//! The protocol is that of `single-bitlock`: one SPTE is looked at without a lock,
//! chains under their bit. What differs is the walk of a range of eight pages and
//! more, eight heads at a time:
//! * *read ahead*: the cache lines of heads are asked for ahead of the walk, and of eight
//!   neighbours the SPTE of the first, for the SPTEs of neighbouring pages are neighbours
//!   too, or the descriptors of all eight; under a chain's bit a descriptor's SPTEs and
//!   the next descriptor before the first is visited. So the misses of many pages overlap,
//!   also where clearing Accessed is an atomic operation that would let none start early;
//! * *skip empty*: eight empty heads are passed over with one test;
//! * *together*: the SPTEs of eight pages with one each are read with no branch between
//!   them, and one test says that none is young.
//!
//! [`ABLATIONS`] are the same with some of these ideas left out, to show what each buys.
//!
//! What it gives up: what `single-bitlock` does, and what was asked for in vain where a
//! test_age leaves at the first pages of a range.
//!
//! Orderings: those of `single-bitlock`. A word read ahead is never followed: it only
//! says where to prefetch, and each head is read again, with acquire, when its turn
//! comes (**I-life**). Heads walked together are read with acquire each, before any of
//! their SPTEs: each page's walk begins when its head is read, and the eight walks
//! overlap, as those of eight agers would. An ager that reads eight heads as empty needs
//! no ordering, as with one.

use std::{ops::ControlFlow, ptr::NonNull};

use crate::{
    head::{Chain, HeadWord, RmapHead},
    prefetch::prefetch,
    pte_list,
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, FreePolicy, Scheme, visit_one},
    schemes::{Mmus, SchemeInfo, bitlock::Bitlock},
    shadow_mmu::ShadowMmu,
    spte::Spte,
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "single-batched",
    origin: "ours",
    summary: "single-bitlock that takes the heads of a range eight at a time",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    mmus: Mmus::Shadow,
    build: ShadowMmu::<SingleBatched>::boxed,
};

/// A variant's line.
const fn ablation<const IDEAS: u8>(name: &'static str, summary: &'static str) -> SchemeInfo {
    SchemeInfo {
        name,
        summary,
        build: ShadowMmu::<Batched<IDEAS>>::boxed,
        ..INFO
    }
}

/// The scheme with one idea, without one, and with none: measured only when named.
pub static ABLATIONS: [SchemeInfo; 7] = [
    ablation::<0>("batched-none", "single-batched without its ideas"),
    ablation::<READ_AHEAD>("batched-ahead", "of single-batched only the reading ahead"),
    ablation::<SKIP_EMPTY>(
        "batched-skip",
        "of single-batched only the skipping of empty heads",
    ),
    ablation::<TOGETHER>(
        "batched-together",
        "of single-batched only reading SPTEs together",
    ),
    ablation::<{ ALL & !READ_AHEAD }>("batched-no-ahead", "single-batched without reading ahead"),
    ablation::<{ ALL & !SKIP_EMPTY }>(
        "batched-no-skip",
        "single-batched without skipping empty heads",
    ),
    ablation::<{ ALL & !TOGETHER }>(
        "batched-no-together",
        "single-batched without reading SPTEs together",
    ),
];

/// What heads point to is asked for before they are walked.
const READ_AHEAD: u8 = 1 << 0;
/// Empty heads are passed over with one test.
const SKIP_EMPTY: u8 = 1 << 1;
/// Lone SPTEs are tested with one test.
const TOGETHER: u8 = 1 << 2;
/// Every idea.
const ALL: u8 = READ_AHEAD | SKIP_EMPTY | TOGETHER;

/// Heads passed over or asked for together: one cache line of them.
#[cfg(not(any(loom, shuttle)))]
const BATCH: usize = 8;
/// Two in the models, so that their few pages make a batch.
#[cfg(any(loom, shuttle))]
const BATCH: usize = 2;

/// The scheme.
pub type SingleBatched = Batched<ALL>;

/// The scheme with some of its ideas.
#[derive(Debug)]
pub enum Batched<const IDEAS: u8> {}

impl<const IDEAS: u8> Batched<IDEAS> {
    const fn has(idea: u8) -> bool {
        IDEAS & idea != 0
    }
}

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

/// The SPTEs of a batch of pages that have one each; `None` if some page has not.
///
/// # Safety
/// **I-life**: the caller is on the read side as long as it uses them.
#[inline(always)]
unsafe fn lone_sptes(batch: &[RmapHead; BATCH]) -> Option<[&Spte; BATCH]> {
    let mut sptes = [NonNull::dangling(); BATCH];
    for (head, spte) in batch.iter().zip(&mut sptes) {
        let Chain::One(lone) = head.load_acquire().chain() else {
            return None;
        };
        *spte = lone;
    }
    // SAFETY: from the caller; every element was overwritten by a head's SPTE.
    Some(sptes.map(|spte| unsafe { spte.as_ref() }))
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

impl<const IDEAS: u8> Batched<IDEAS> {
    /// Visits one batch.
    #[inline(always)]
    fn walk_batch(
        guard: &mut ReadSide<'_>,
        batch: &[RmapHead; BATCH],
        op: &mut impl AgeOp,
    ) -> ControlFlow<()> {
        if Self::has(TOGETHER)
            // SAFETY: I-life: `guard` is the read side.
            && let Some(sptes) = unsafe { lone_sptes(batch) }
        {
            return op.visit_all(&sptes);
        }
        if Self::has(SKIP_EMPTY) && is_empty(batch) {
            return ControlFlow::Continue(());
        }
        batch
            .iter()
            .try_for_each(|head| Self::walk(guard, head, op))
    }

    /// Visits a range of several batches.
    #[inline(never)]
    fn walk_batches(
        guard: &mut ReadSide<'_>,
        heads: &[RmapHead],
        op: &mut impl AgeOp,
    ) -> ControlFlow<()> {
        let (batches, rest) = heads.as_chunks::<BATCH>();
        if Self::has(READ_AHEAD) {
            (0..2 * AHEAD).for_each(|ahead| ask_for_heads(batches.get(ahead)));
            (0..AHEAD).for_each(|ahead| ask_for_targets(batches.get(ahead)));
        }
        for (index, batch) in batches.iter().enumerate() {
            if Self::has(READ_AHEAD) {
                ask_for_heads(batches.get(index + 2 * AHEAD));
                ask_for_targets(batches.get(index + AHEAD));
            }
            Self::walk_batch(guard, batch, op)?;
        }
        rest.iter().try_for_each(|head| Self::walk(guard, head, op))
    }
}

// SAFETY: I-life: chains are walked with the bit held, as mutators change them; a
// lone SPTE is reached without a descriptor, and its page stays until the read side
// is left.
unsafe impl<const IDEAS: u8> Scheme for Batched<IDEAS> {
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
            Chain::Many(_) if Self::has(READ_AHEAD) => walk_chain(head, op),
            Chain::Many(_) => Bitlock::walk(&mut (), head, op),
        }
    }

    #[inline]
    fn walk_range(
        guard: &mut ReadSide<'_>,
        heads: &[RmapHead],
        op: &mut impl AgeOp,
    ) -> ControlFlow<()> {
        if heads.len() >= BATCH {
            return Self::walk_batches(guard, heads, op);
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
