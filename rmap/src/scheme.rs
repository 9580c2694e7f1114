//! What a lock scheme decides.
//!
//! A scheme says how an ager enters an rmap, how a mutator does, and when a
//! descriptor that left a chain may be used again. Everything else is shared by all
//! schemes, so that a measured difference is a difference in locking.
//!
//! One aging callback runs [`Scheme::enter`] once, then [`Scheme::walk_range`] for the
//! heads of the range (by default [`Scheme::walk`] for each), then drops what `enter` returned. One mutation runs, with
//! mmu_lock held for write, [`Scheme::lock_for_edit`], a function of
//! [`pte_list`](crate::pte_list), and [`Scheme::publish`].

use std::{ops::ControlFlow, ptr::NonNull};

use crate::{
    head::{HeadWord, RmapHead},
    mmu_lock::MmuLock,
    reclaim::Reclaim,
    spte::Spte,
};

/// In which order an aging callback visits the heads of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkOrder {
    /// Level by level, one step per page of that level: every head once.
    LevelOuter,
    /// Gfn by gfn and all levels for each, so that the head of a huge page is
    /// visited once for each of its small pages.
    GfnOuter,
}

/// When something that left the rmaps may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreePolicy {
    /// At once: no ager is inside a chain that a mutator has locked.
    Now,
    /// After every ager now on the read side has left it.
    AfterReaders,
}

/// Whether agers may be inside a chain while a mutator changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// Never. The model checker holds the scheme to it.
    Exclusive,
    /// They may; chains are read as they change.
    Concurrent,
}

/// What of an aging callback needs mmu_lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeedsMmuLock {
    /// Nothing.
    Never,
    /// Rmaps with a descriptor; the rest is done as
    /// [`SingleSkip`](crate::schemes::single_skip::SingleSkip) does it.
    Chains,
    /// The same, but it is not taken and such rmaps are passed over.
    SkipsChains,
    /// All of it.
    Always,
}

/// What the schemes may take while they age.
#[derive(Debug, Clone, Copy)]
pub struct AgerContext<'a> {
    /// The VM's mmu_lock.
    pub mmu_lock: &'a MmuLock,
    /// The VM's read side.
    pub reclaim: &'a Reclaim,
}

/// What an aging callback does with one SPTE it has reached.
pub trait AgeOp {
    /// Looks at the SPTE, perhaps makes it old, and breaks if the callback is over.
    fn visit(&mut self, spte: &Spte) -> ControlFlow<()>;

    /// [`visit`](Self::visit) for each of these, in order.
    #[inline(always)]
    fn visit_all<const N: usize>(&mut self, sptes: &[&Spte; N]) -> ControlFlow<()> {
        if Spte::none_young(sptes) {
            return ControlFlow::Continue(());
        }
        sptes.iter().try_for_each(|spte| self.visit(spte))
    }

    /// [`visit`](Self::visit) without a lock: changes the SPTE only if `still_mapped` says yes
    /// after the SPTE was read, and the SPTE is what it was.
    fn visit_rechecked(
        &mut self,
        spte: &Spte,
        still_mapped: impl FnOnce() -> bool,
    ) -> ControlFlow<()>;
}

/// One lock scheme.
///
/// # Safety
/// The implementor upholds **I-life** for [`ShadowMmu`](crate::shadow_mmu::ShadowMmu),
/// which frees descriptors by [`FREE`](Self::FREE): with [`FreePolicy::Now`] no
/// walk is inside a chain between `lock_for_edit` and `publish`, and a walk that
/// starts after `publish` starts from the published word; with
/// [`FreePolicy::AfterReaders`] every walk happens between `enter` and the drop of
/// its guard, and the guard holds a read side. With [`Exclusion::Exclusive`] the
/// first half of that holds whatever the policy.
pub unsafe trait Scheme: Send + Sync + 'static {
    /// Order of an aging callback's walk.
    const ORDER: WalkOrder = WalkOrder::LevelOuter;
    /// When descriptors may be used again.
    const FREE: FreePolicy = FreePolicy::Now;
    /// When a shadow page may be given away whose SPTEs have left their rmaps.
    const PAGE_FREE: FreePolicy = FreePolicy::Now;
    /// Whether agers and mutators meet in a chain.
    const EXCLUSION: Exclusion = Exclusion::Exclusive;
    /// Whether a mutator may append to a descriptor that has room without
    /// [`lock_for_edit`](Self::lock_for_edit): no walk minds an entry more.
    const APPENDS_UNLOCKED: bool = false;
    /// What of a callback needs mmu_lock. With [`NeedsMmuLock::Chains`] and
    /// [`NeedsMmuLock::SkipsChains`] mutators take nothing but mmu_lock.
    const NEEDS_MMU_LOCK: NeedsMmuLock = NeedsMmuLock::Never;

    /// What an aging callback holds from beginning to end.
    type Guard<'a>;

    /// Starts an aging callback.
    fn enter(context: AgerContext<'_>) -> Self::Guard<'_>;

    /// Runs `op` on the SPTEs of one rmap.
    fn walk(guard: &mut Self::Guard<'_>, head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()>;

    /// Runs `op` on the SPTEs of the rmaps of neighbouring pages: one after the
    /// other, unless the scheme gains by knowing them together.
    #[inline]
    fn walk_range(
        guard: &mut Self::Guard<'_>,
        heads: &[RmapHead],
        op: &mut impl AgeOp,
    ) -> ControlFlow<()> {
        heads
            .iter()
            .try_for_each(|head| Self::walk(guard, head, op))
    }

    /// Whether the callback got by without waiting for mmu_lock.
    fn was_fast(guard: &Self::Guard<'_>) -> bool;

    /// Lets a mutator in, which holds mmu_lock for write, and returns the word.
    fn lock_for_edit(head: &RmapHead) -> HeadWord;

    /// Publishes the mutator's word and lets others in.
    fn publish(head: &RmapHead, word: HeadWord);
}

/// Walks a chain that no mutator can be changing.
///
/// # Safety
/// **I-life**: the caller has locked mutators out of the chain that `word` begins.
#[inline]
pub unsafe fn walk_exclusive(
    head: &RmapHead,
    word: HeadWord,
    op: &mut impl AgeOp,
) -> ControlFlow<()> {
    head.assert_no_mutator();
    // SAFETY: from the caller: what the chain holds cannot leave it meanwhile.
    unsafe { crate::pte_list::walk(word, &mut |spte| op.visit(spte)) }
}

/// Visits the SPTE of an rmap that has one, without a lock.
///
/// # Safety
/// **I-life**: the SPTE's shadow page stays allocated until this returns.
#[inline]
pub unsafe fn visit_one(spte: NonNull<Spte>, op: &mut impl AgeOp) -> ControlFlow<()> {
    // SAFETY: from the caller.
    op.visit(unsafe { spte.as_ref() })
}
