//! When a descriptor that left its chain, or a page table that was cut off, may be
//! used again.
//!
//! Mutators collect what they take out of chains in [`Retired`] while they hold
//! mmu_lock, and hand it over afterwards. Where no walker can still be inside (the
//! locking schemes) it goes straight back to the vCPU's cache; where lock-free
//! walkers may be, it is deferred until every walker that was inside a
//! [read side](Reclaim::enter) then has left (**I-life**). Waiting for them on the
//! spot is not an option: mmu_lock is a spinning lock in the kernel, and its holder
//! may not sleep.
//!
//! Who is inside is told by epochs (`reclaim/epochs.rs`), whose read side costs as
//! little as the kernel's. Under the model checkers there is a small model of the same
//! promise instead, in `reclaim/model.rs`, built so that it orders no more than the
//! promise does and so hides no missing ordering elsewhere; the epochs have a model
//! check of their own.

use std::ptr::NonNull;

#[cfg(not(shuttle))]
mod barrier;
#[cfg(not(shuttle))]
pub mod epochs;
#[cfg(any(loom, shuttle))]
mod model;
#[cfg(not(any(loom, shuttle)))]
mod real;

#[cfg(any(loom, shuttle))]
pub use model::{ReadSide, Reclaim};
#[cfg(not(any(loom, shuttle)))]
pub use real::{ReadSide, Reclaim};

use crate::{desc::PteListDesc, sync::Ordering::Relaxed, tdp_mmu::TdpTable};

/// Descriptors that left their chain, or a page table that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Garbage {
    /// One descriptor; its `more` still points into the live chain.
    One(NonNull<PteListDesc>),
    /// A whole chain from its first descriptor on.
    Chain(NonNull<PteListDesc>),
    /// One page table of the TDP MMU, no longer reachable from the root. The tables
    /// below it are garbage of their own.
    Table(NonNull<TdpTable>),
}

/// One allocation, taken out of garbage.
#[derive(Debug)]
pub enum Freed {
    /// An empty descriptor.
    Desc(Box<PteListDesc>),
    /// A page table with whatever was in it.
    Table(Box<TdpTable>),
}

// SAFETY: descriptors and page tables are made of atomics; what the pointer may be used for is
// decided by I-life, not by the thread.
unsafe impl Send for Garbage {}

impl Garbage {
    /// Takes the garbage apart into boxes.
    ///
    /// # Safety
    /// **I-life**: no walker can reach them any more, and nobody takes them apart
    /// a second time.
    pub unsafe fn take_apart(self, mut each: impl FnMut(Freed)) {
        let (first, whole) = match self {
            Self::One(desc) => (desc, false),
            Self::Chain(desc) => (desc, true),
            Self::Table(table) => {
                // SAFETY: from the caller; tables in the tree come from leaked boxes.
                let table = unsafe { Box::from_raw(table.as_ptr()) };
                table.life.retire();
                return each(Freed::Table(table));
            }
        };
        let mut next = Some(first);
        while let Some(desc) = next {
            // SAFETY: from the caller; descriptors in chains come from leaked boxes.
            let desc = unsafe { Box::from_raw(desc.as_ptr()) };
            desc.life.retire();
            let more = NonNull::new(desc.more.load(Relaxed));
            next = if whole { more } else { None };
            desc.reset();
            each(Freed::Desc(desc));
        }
    }

    /// Page tables in this piece of garbage.
    #[must_use]
    pub fn tables(self) -> usize {
        usize::from(matches!(self, Self::Table(_)))
    }

    /// Descriptors in this piece of garbage.
    ///
    /// # Safety
    /// **I-life**: they are still allocated.
    #[must_use]
    pub unsafe fn descs(self) -> usize {
        let first = match self {
            Self::One(_) => return 1,
            Self::Table(_) => return 0,
            Self::Chain(first) => first,
        };
        let mut len = 0;
        let mut next = Some(first);
        while let Some(desc) = next {
            len += 1;
            // SAFETY: from the caller.
            next = NonNull::new(unsafe { desc.as_ref() }.more.load(Relaxed));
        }
        len
    }
}

/// What one operation took out of chains while it held mmu_lock.
#[derive(Debug, Default)]
pub struct Retired(Vec<Garbage>);

impl Retired {
    /// Nothing retired.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes room for `pieces`, so that [`push`](Self::push) does not allocate under
    /// mmu_lock. An operation retires at most one piece per rmap or page
    /// table.
    #[inline]
    pub fn reserve(&mut self, pieces: usize) {
        self.0.reserve(pieces);
    }

    /// Notes one piece.
    #[inline]
    pub fn push(&mut self, garbage: Garbage) {
        self.0.push(garbage);
    }

    /// Hands every piece over.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Garbage> + '_ {
        self.0.drain(..)
    }

    /// Nothing is retired.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
