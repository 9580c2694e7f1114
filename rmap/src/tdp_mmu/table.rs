//! One page table of the TDP MMU, and the per-vCPU cache of them.
//!
//! 512 entries in 4 KiB, as the hardware's. At height 0 each entry maps 4 KiB, at
//! height 1 2 MiB, at height 2 1 GiB; the root is at height 3. **I-life**: a table
//! that was cut off is freed when nobody can be inside it any more.

use std::ptr::NonNull;

use crate::{
    gfn::{Gfn, GfnRange, LEVEL_SHIFT},
    memslot::SPTES_PER_PAGE,
    spte::{Entry, Spte, SpteWord},
    sync::Canary,
};

/// Height of the root: four levels of tables, as in four-level paging.
pub(super) const ROOT_HEIGHT: u32 = 3;

/// The gfns that the tables can map.
pub const MAX_GFN: u64 = 1 << ((ROOT_HEIGHT + 1) * LEVEL_SHIFT);

/// One page table.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct TdpTable {
    sptes: [Spte; SPTES_PER_PAGE],
    /// Read by everybody who walks the table, written when it is freed.
    pub(crate) life: Canary,
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<TdpTable>() == 4096, "one page table is one page");

impl TdpTable {
    /// A table without mappings.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sptes: std::array::from_fn(|_| Spte::new()),
            life: Canary::new(),
        }
    }

    /// All entries.
    pub(crate) fn sptes(&self) -> &[Spte; SPTES_PER_PAGE] {
        &self.sptes
    }

    /// The entry on the way to `gfn`, in a table of this height.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "a remainder is in bounds: no check is left"
    )]
    pub(crate) fn spte(&self, gfn: Gfn, height: u32) -> &Spte {
        &self.sptes[(gfn.0 >> (height * LEVEL_SHIFT)) as usize % SPTES_PER_PAGE]
    }

    /// The entries whose pages hold a gfn of `range`, which lies inside what the table
    /// can map, each with the first gfn of its page.
    #[inline]
    pub(crate) fn overlapping(
        &self,
        range: GfnRange,
        height: u32,
    ) -> impl Iterator<Item = (Gfn, &Spte)> {
        let shift = height * LEVEL_SHIFT;
        let first = range.start.0 >> shift;
        let indices = first..((range.end.0 - 1) >> shift) + 1;
        let start = first as usize % SPTES_PER_PAGE;
        let sptes = self.sptes.get(start..).unwrap_or(&[]).iter();
        indices
            .zip(sptes)
            .map(move |(index, spte)| (Gfn(index << shift), spte))
    }

    /// Spreads one mapping over all entries of a table nobody knows yet, of this
    /// height.
    pub(crate) fn fill_split(&self, word: SpteWord, height: u32) {
        for (spte, index) in self.sptes.iter().zip(0..) {
            spte.install(word.split(index, height * LEVEL_SHIFT));
        }
    }
}

impl Default for TdpTable {
    fn default() -> Self {
        Self::new()
    }
}

/// The entry that leads to `table`.
pub(crate) fn entry_of(table: NonNull<TdpTable>) -> Entry {
    Entry::table(table.cast())
}

/// Tables one vCPU has ready, so that nothing is allocated under mmu_lock.
#[derive(Debug, Default)]
pub struct TableCache(Vec<Box<TdpTable>>);

impl TableCache {
    /// The most tables one fault needs: one for each height below the root.
    const CAPACITY: usize = ROOT_HEIGHT as usize;

    /// An empty cache.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Fills the cache. Call before taking mmu_lock.
    #[inline]
    pub(crate) fn top_up(&mut self) {
        if self.0.len() < Self::CAPACITY {
            self.0.resize_with(Self::CAPACITY, Box::default);
        }
    }

    /// Takes an empty table out.
    pub(crate) fn take(&mut self) -> Option<NonNull<TdpTable>> {
        Some(NonNull::from(Box::leak(self.0.pop()?)))
    }

    /// Puts back a table that nobody else has seen, emptied.
    ///
    /// # Safety
    /// It came from [`take`](Self::take) and was published to nobody.
    pub(crate) unsafe fn put_back(&mut self, table: NonNull<TdpTable>) {
        // SAFETY: from the caller.
        let table = unsafe { Box::from_raw(table.as_ptr()) };
        for spte in &table.sptes {
            spte.install(SpteWord::ZAPPED);
        }
        self.0.push(table);
    }
}

/// A table cut off from the tree, with nobody left inside it; freed on drop.
#[derive(Debug)]
pub(crate) struct OwnedTable(NonNull<TdpTable>);

// SAFETY: a table is made of atomics and this is its one owner.
unsafe impl Send for OwnedTable {}

impl OwnedTable {
    /// Takes a table over.
    ///
    /// # Safety
    /// **I-life**: it comes from a leaked box, cannot be reached from the tree, and
    /// nobody else frees it. Who can still be inside it must be gone before the drop.
    pub(crate) unsafe fn new(table: NonNull<TdpTable>) -> Self {
        Self(table)
    }

    /// The table.
    pub(crate) fn table(&self) -> &TdpTable {
        // SAFETY: owned, so still allocated.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for OwnedTable {
    fn drop(&mut self) {
        // SAFETY: I-life, from `new`.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
