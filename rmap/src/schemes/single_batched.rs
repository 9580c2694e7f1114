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

use std::ops::ControlFlow;

use crate::{
    head::{HeadWord, RmapHead},
    heads::{BATCH, Batch, LISTED, Mapped, lone_sptes},
    prefetch::prefetch,
    pte_list,
    reclaim::ReadSide,
    scheme::{AgeOp, AgerContext, FreePolicy, NeedsMmuLock, Scheme},
    schemes::{
        Mmus, SchemeInfo,
        single_bitlock::{SingleBitlock, walk_one_or_chain},
    },
    shadow_mmu::ShadowMmu,
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
    needs_mmu_lock: NeedsMmuLock::Never,
    defers_descs: false,
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

/// Batches whose targets are asked for ahead of the walk.
const AHEAD: usize = 8;

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

/// Asks the cache for what a batch of heads points to: one line where they are lone
/// SPTEs, which are neighbours as their pages are, and one for each chain.
#[inline(always)]
fn ask_for_targets(batch: &Batch) {
    let word = batch[0].load();
    if word.is_many() {
        batch.iter().for_each(ask_for_target);
    } else if !word.is_empty() {
        prefetch(word.target());
    }
}

/// Asks the cache for what a head points to.
#[inline(always)]
fn ask_for_target(head: &RmapHead) {
    prefetch(head.load().target());
}

/// Visits a chain, whose bit is held, descriptor by descriptor and each asked for
/// before.
#[inline(never)]
fn walk_chain_ahead(word: HeadWord, op: &mut impl AgeOp) -> ControlFlow<()> {
    // SAFETY: I-life: the bit keeps removals out.
    unsafe { pte_list::walk_prefetched(word, &mut |spte| op.visit(spte)) }
}

impl<const IDEAS: u8> Batched<IDEAS> {
    /// Visits a range of several batches. Nothing is asked for or listed before the
    /// first has been visited: there a test_age of young pages ends.
    #[inline(never)]
    fn walk_batches(
        guard: &mut ReadSide<'_>,
        heads: &[RmapHead],
        op: &mut impl AgeOp,
    ) -> ControlFlow<()> {
        let (batches, rest) = heads.as_chunks::<BATCH>();
        let (first, mut batches) = batches.split_at(batches.len().min(1));
        for batch in first {
            Self::walk_batch(guard, batch.each_ref(), op)?;
        }
        if Self::has(READ_AHEAD) {
            batches.iter().take(AHEAD).for_each(ask_for_targets);
        }
        while !batches.is_empty() {
            let lone = Self::walk_lone(guard, batches, op)?;
            batches = batches.get(lone..).unwrap_or_default();
            if !batches.is_empty() {
                let listed = Self::walk_mapped(guard, batches, op)?;
                batches = batches.get(listed..).unwrap_or_default();
            }
        }
        rest.iter().try_for_each(|head| Self::walk(guard, head, op))
    }

    /// Visits eight heads.
    #[inline(always)]
    fn walk_batch(
        guard: &mut ReadSide<'_>,
        heads: [&RmapHead; BATCH],
        op: &mut impl AgeOp,
    ) -> ControlFlow<()> {
        if Self::has(TOGETHER)
            // SAFETY: I-life: `guard` is the read side.
            && let Some(sptes) = unsafe { lone_sptes(heads) }
        {
            return op.visit_all(&sptes);
        }
        let mut heads = heads.into_iter();
        heads.try_for_each(|head| Self::walk(guard, head, op))
    }

    /// Visits batches up to the first that a list is better for, and returns how many:
    /// all of them where there are no lists.
    #[inline(always)]
    fn walk_lone(
        guard: &mut ReadSide<'_>,
        batches: &[Batch],
        op: &mut impl AgeOp,
    ) -> ControlFlow<(), usize> {
        for (visited, batch) in batches.iter().enumerate() {
            if Self::has(READ_AHEAD)
                && let Some(coming) = batches.get(visited + AHEAD)
            {
                ask_for_targets(coming);
            }
            if !Self::has(SKIP_EMPTY) {
                Self::walk_batch(guard, batch.each_ref(), op)?;
                continue;
            }
            // SAFETY: I-life: `guard` is the read side.
            match unsafe { lone_sptes(batch.each_ref()) } {
                Some(sptes) if Self::has(TOGETHER) => op.visit_all(&sptes)?,
                _ => return ControlFlow::Continue(visited),
            }
        }
        ControlFlow::Continue(batches.len())
    }

    /// Lists the heads that lead anywhere, part by part, each while the part before is
    /// still to be visited; the number of batches until a part is mapped throughout, and
    /// a list no use.
    #[inline(never)]
    fn walk_mapped(
        guard: &mut ReadSide<'_>,
        batches: &[Batch],
        op: &mut impl AgeOp,
    ) -> ControlFlow<(), usize> {
        let (mut first, mut second) = (Mapped::none(), Mapped::none());
        let (mut listed, mut before) = (&mut first, &mut second);
        let mut done = 0;
        while let Some(part) = batches.get(done..).filter(|part| !part.is_empty()) {
            listed.list(part);
            done = batches.len().min(done + LISTED);
            if Self::has(READ_AHEAD) {
                let (eights, rest) = listed.batches();
                eights.flatten().chain(rest).for_each(ask_for_target);
            }
            Self::walk_listed(guard, before, op)?;
            std::mem::swap(&mut listed, &mut before);
            if before.is_all() {
                break;
            }
        }
        Self::walk_listed(guard, before, op)?;
        ControlFlow::Continue(done)
    }

    /// Visits the heads listed.
    #[inline(always)]
    fn walk_listed(
        guard: &mut ReadSide<'_>,
        listed: &Mapped<'_>,
        op: &mut impl AgeOp,
    ) -> ControlFlow<()> {
        let (mut eights, mut rest) = listed.batches();
        eights.try_for_each(|heads| Self::walk_batch(guard, heads, op))?;
        rest.try_for_each(|head| Self::walk(guard, head, op))
    }
}

// SAFETY: I-life: as for `SingleBitlock`, whose protocol this is.
unsafe impl<const IDEAS: u8> Scheme for Batched<IDEAS> {
    const PAGE_FREE: FreePolicy = FreePolicy::AfterReaders;
    const APPENDS_UNLOCKED: bool = true;

    type Guard<'a> = ReadSide<'a>;

    #[inline]
    fn enter(context: AgerContext<'_>) -> ReadSide<'_> {
        context.reclaim.enter()
    }

    #[inline]
    fn walk(guard: &mut ReadSide<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        if !Self::has(READ_AHEAD) {
            return SingleBitlock::walk(guard, head, op);
        }
        // SAFETY: I-life: the guard is the read side, and the bit keeps removals out.
        unsafe { walk_one_or_chain(head, op, walk_chain_ahead) }
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
        SingleBitlock::lock_for_edit(head)
    }

    #[inline]
    fn publish(head: &RmapHead, word: HeadWord) {
        SingleBitlock::publish(head, word);
    }
}
