//! Operations on one chain, given its head word.
//!
//! Mutators take the word out of the head (with the scheme's lock held), call one
//! function here, and publish the word it returns. Nothing here locks, allocates
//! or panics. Called by [`ShadowMmu`](crate::shadow_mmu::ShadowMmu) and by the
//! schemes' walks.
//!
//! **I-chain** is kept by every function that changes a chain and checked by every
//! function that walks one on behalf of a mutator: a null entry or a count that
//! does not add up is [`PteListError::CorruptChain`].
//!
//! Stores into descriptors are relaxed. A mutator is ordered against all others by
//! mmu_lock, against locked walkers by the lock, and against lock-free walkers by
//! the release of the head word that follows every change: a descriptor they can
//! reach was complete when it was published. What a lock-free walker sees of a
//! change to a descriptor it has already reached is the old entry, the new one or
//! null; each is an SPTE of this rmap or nothing.

mod check;

use std::{ops::ControlFlow, ptr::NonNull};

pub use check::check;
use check::for_each_checked;

use crate::{
    desc::{DescCache, PTE_LIST_EXT, PteListDesc},
    error::PteListError,
    head::{Chain, HeadWord},
    prefetch::prefetch,
    reclaim::{Garbage, Retired},
    spte::Spte,
    sync::Ordering::Relaxed,
};

const EXT: u32 = PTE_LIST_EXT as u32;

/// Calls `visit` for each SPTE of the chain until it breaks. Null entries, which
/// only a lock-free walker can meet, are skipped.
///
/// # Safety
/// **I-life**: every descriptor and SPTE reachable from `word` stays allocated
/// until this returns.
#[inline]
pub unsafe fn walk(
    word: HeadWord,
    visit: &mut impl FnMut(&Spte) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match word.chain() {
        Chain::Empty => ControlFlow::Continue(()),
        // SAFETY: I-life, from the caller.
        Chain::One(spte) => visit(unsafe { spte.as_ref() }),
        // SAFETY: I-life, from the caller.
        Chain::Many(first) => unsafe { walk_descs(first, visit) },
    }
}

/// The part of [`walk`] for chains with descriptors.
///
/// # Safety
/// As for [`walk`].
unsafe fn walk_descs(
    first: NonNull<PteListDesc>,
    visit: &mut impl FnMut(&Spte) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut next = Some(first);
    while let Some(desc) = next {
        // SAFETY: I-life, from the caller.
        next = unsafe { walk_desc(desc.as_ref(), visit)? };
    }
    ControlFlow::Continue(())
}

/// Visits one descriptor's SPTEs and returns the next descriptor.
///
/// # Safety
/// As for [`walk`].
#[inline(always)]
unsafe fn walk_desc(
    desc: &PteListDesc,
    visit: &mut impl FnMut(&Spte) -> ControlFlow<()>,
) -> ControlFlow<(), Option<NonNull<PteListDesc>>> {
    desc.life.read();
    let used = desc.spte_count.load(Relaxed) as usize;
    for entry in desc.sptes.iter().take(used) {
        let Some(spte) = NonNull::new(entry.load(Relaxed)) else {
            continue;
        };
        // SAFETY: I-life, from the caller.
        visit(unsafe { spte.as_ref() })?;
    }
    let next = NonNull::new(desc.more.load(Relaxed));
    // All that was read belonged to a live descriptor.
    desc.life.read();
    ControlFlow::Continue(next)
}

/// [`walk`] that asks the cache for a descriptor's SPTEs, and for the next
/// descriptor, before it visits the first of them.
///
/// # Safety
/// As for [`walk`].
#[inline]
pub unsafe fn walk_prefetched(
    word: HeadWord,
    visit: &mut impl FnMut(&Spte) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Chain::Many(first) = word.chain() else {
        // SAFETY: I-life, from the caller.
        return unsafe { walk(word, visit) };
    };
    let mut next = Some(first);
    while let Some(desc) = next {
        // SAFETY: I-life, from the caller.
        let desc = unsafe { desc.as_ref() };
        prefetch(desc.more.load(Relaxed));
        let used = desc.spte_count.load(Relaxed) as usize;
        for entry in desc.sptes.iter().take(used) {
            prefetch(entry.load(Relaxed));
        }
        // SAFETY: I-life, from the caller.
        next = unsafe { walk_desc(desc, visit)? };
    }
    ControlFlow::Continue(())
}

/// SPTEs in the chain, from the first descriptor alone.
///
/// # Safety
/// **I-life**: the first descriptor stays allocated until this returns.
#[must_use]
pub unsafe fn count(word: HeadWord) -> u32 {
    match word.chain() {
        Chain::Empty => 0,
        Chain::One(_) => 1,
        Chain::Many(desc) => {
            // SAFETY: I-life, from the caller.
            let desc = unsafe { desc.as_ref() };
            desc.life.read();
            desc.tail_count
                .load(Relaxed)
                .saturating_add(desc.spte_count.load(Relaxed))
        }
    }
}

/// Adds `spte` after making sure that the chain does not hold it.
///
/// # Errors
/// [`AlreadyMapped`](PteListError::AlreadyMapped), a corrupt chain, an empty cache.
///
/// # Safety
/// As for [`add_absent`].
pub unsafe fn add(
    word: HeadWord,
    spte: NonNull<Spte>,
    cache: &mut DescCache,
) -> Result<(HeadWord, u32), PteListError> {
    // SAFETY: the caller's promise is the same.
    unsafe {
        if contains(word, spte)? {
            return Err(PteListError::AlreadyMapped);
        }
        add_absent(word, spte, cache)
    }
}

/// Adds `spte`, which the caller knows is not in the chain (a zapped SPTE never
/// is: I-chain), and returns the new word and length. Constant time, as in KVM.
///
/// # Errors
/// A corrupt first descriptor, or an empty cache. The chain is as it was.
///
/// # Safety
/// **I-life**: everything reachable from `word`, and `spte`, stays allocated while
/// the chain holds it. The caller is the only mutator of this chain.
pub unsafe fn add_absent(
    word: HeadWord,
    spte: NonNull<Spte>,
    cache: &mut DescCache,
) -> Result<(HeadWord, u32), PteListError> {
    let desc = match word.chain() {
        Chain::Empty => return Ok((HeadWord::one(spte), 1)),
        Chain::One(only) => {
            let desc = new_desc(cache, None, 0)?;
            push(desc, only);
            push(desc, spte);
            return Ok((HeadWord::many(NonNull::from(desc)), 2));
        }
        // SAFETY: I-life, from the caller.
        Chain::Many(desc) => unsafe { desc.as_ref() },
    };
    let used = checked_count(desc)?;
    let len = desc.tail_count.load(Relaxed).saturating_add(used);
    if used < EXT {
        push(desc, spte);
        return Ok((word, len.saturating_add(1)));
    }
    let front = new_desc(cache, Some(desc), len)?;
    push(front, spte);
    Ok((HeadWord::many(NonNull::from(front)), len.saturating_add(1)))
}

/// Adds `spte`, which the caller knows is not in the chain, where the chain's first
/// descriptor has room: the head word stays as it is. Returns the new length; `None`,
/// with nothing changed, where there is no chain or no room.
///
/// A walker may be inside: it sees the entry, or null, or the count without it, and
/// each is the chain after this or before.
///
/// # Safety
/// As for [`add_absent`].
pub unsafe fn append(word: HeadWord, spte: NonNull<Spte>) -> Option<u32> {
    let Chain::Many(desc) = word.chain() else {
        return None;
    };
    // SAFETY: I-life, from the caller.
    let desc = unsafe { desc.as_ref() };
    let used = checked_count(desc).ok().filter(|&used| used < EXT)?;
    push(desc, spte);
    Some(desc.tail_count.load(Relaxed).saturating_add(used + 1))
}

/// Takes an empty descriptor from the cache and puts it in front of `more`.
fn new_desc<'a>(
    cache: &mut DescCache,
    more: Option<&PteListDesc>,
    tail_count: u32,
) -> Result<&'a PteListDesc, PteListError> {
    let desc = cache.take().ok_or(PteListError::CacheEmpty)?;
    // SAFETY: the cache gave it away; nobody else knows it, and it lives until it
    // is retired from the chain it goes into.
    let desc = unsafe { desc.as_ref() };
    let more = more.map_or(std::ptr::null_mut(), |more| {
        std::ptr::from_ref(more).cast_mut()
    });
    desc.more.store(more, Relaxed);
    desc.tail_count.store(tail_count, Relaxed);
    Ok(desc)
}

/// Appends to a descriptor that is not full.
fn push(desc: &PteListDesc, spte: NonNull<Spte>) {
    let used = desc.spte_count.load(Relaxed);
    if let Some(entry) = desc.sptes.get(used as usize) {
        entry.store(spte.as_ptr(), Relaxed);
        desc.spte_count.store(used + 1, Relaxed);
    }
}

/// A descriptor's own count, if it can be true.
fn checked_count(desc: &PteListDesc) -> Result<u32, PteListError> {
    match desc.spte_count.load(Relaxed) {
        0 => Err(PteListError::CorruptChain("a descriptor holds no entry")),
        used if used > EXT => Err(PteListError::CorruptChain(
            "a descriptor claims too many entries",
        )),
        used => Ok(used),
    }
}

/// Removes `spte` by moving the first descriptor's last entry into its place, and
/// returns the new word. A first descriptor that becomes empty is retired.
///
/// # Errors
/// [`NotMapped`](PteListError::NotMapped) or a corrupt chain. The chain is as it was.
///
/// # Safety
/// As for [`add_absent`]. Whoever frees what was retired waits for the walkers
/// that the scheme allows beside a mutator.
pub unsafe fn remove(
    word: HeadWord,
    spte: NonNull<Spte>,
    retired: &mut Retired,
) -> Result<HeadWord, PteListError> {
    let first = match word.chain() {
        Chain::Empty => return Err(PteListError::NotMapped),
        Chain::One(only) if only == spte => return Ok(HeadWord::EMPTY),
        Chain::One(_) => return Err(PteListError::NotMapped),
        Chain::Many(first) => first,
    };
    // SAFETY: I-life, from the caller.
    let (desc, slot) = unsafe { find(first, spte)? }.ok_or(PteListError::NotMapped)?;
    // SAFETY: I-life, from the caller.
    let head_desc = unsafe { first.as_ref() };
    let last = checked_count(head_desc)? - 1;
    let (Some(hole), Some(moved)) = (desc.sptes.get(slot), head_desc.sptes.get(last as usize))
    else {
        return Err(PteListError::CorruptChain(
            "a descriptor claims too many entries",
        ));
    };
    // The hole is filled before the source is emptied: where stores are seen in
    // order, a lock-free walker that reaches the hole last sees the moved entry.
    hole.store(moved.load(Relaxed), Relaxed);
    moved.store(std::ptr::null_mut(), Relaxed);
    head_desc.spte_count.store(last, Relaxed);
    if last > 0 {
        return Ok(word);
    }
    retired.push(Garbage::One(first));
    Ok(NonNull::new(head_desc.more.load(Relaxed)).map_or(HeadWord::EMPTY, HeadWord::many))
}

/// Whether the chain holds `spte`.
///
/// # Errors
/// A corrupt chain.
///
/// # Safety
/// As for [`add_absent`].
pub unsafe fn contains(word: HeadWord, spte: NonNull<Spte>) -> Result<bool, PteListError> {
    match word.chain() {
        Chain::Empty => Ok(false),
        Chain::One(only) => Ok(only == spte),
        // SAFETY: I-life, from the caller.
        Chain::Many(first) => Ok(unsafe { find(first, spte)? }.is_some()),
    }
}

/// The descriptor and the position that hold `spte`.
///
/// # Safety
/// As for [`add_absent`].
unsafe fn find<'a>(
    first: NonNull<PteListDesc>,
    spte: NonNull<Spte>,
) -> Result<Option<(&'a PteListDesc, usize)>, PteListError> {
    let mut next = Some(first);
    while let Some(desc) = next {
        // SAFETY: I-life, from the caller.
        let desc = unsafe { desc.as_ref() };
        desc.life.read();
        let used = checked_count(desc)? as usize;
        for (slot, entry) in desc.sptes.iter().take(used).enumerate() {
            let found = entry.load(Relaxed);
            if found.is_null() {
                return Err(PteListError::CorruptChain("an entry is null"));
            }
            if found == spte.as_ptr() {
                return Ok(Some((desc, slot)));
            }
        }
        next = NonNull::new(desc.more.load(Relaxed));
    }
    Ok(None)
}

/// Hands every SPTE of the chain to `zap`, retires all descriptors, and returns
/// the number of SPTEs. The caller publishes the empty word.
///
/// # Errors
/// A corrupt chain: nothing is retired, and the SPTEs before the fault are zapped.
///
/// # Safety
/// As for [`remove`].
pub unsafe fn zap_all(
    word: HeadWord,
    mut zap: impl FnMut(&Spte),
    retired: &mut Retired,
) -> Result<u32, PteListError> {
    let first = match word.chain() {
        Chain::Empty => return Ok(0),
        Chain::One(spte) => {
            // SAFETY: I-life, from the caller.
            zap(unsafe { spte.as_ref() });
            return Ok(1);
        }
        Chain::Many(first) => first,
    };
    // SAFETY: I-life, from the caller.
    let len = unsafe { for_each_checked(first, &mut zap)? };
    retired.push(Garbage::Chain(first));
    Ok(len)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
