//! Chain descriptors and the per-vCPU cache of them.
//!
//! A descriptor is two cache lines: a pointer to the next one, two counts, and 14
//! SPTE pointers. New entries go into the first descriptor of a chain; when it is
//! full, a new one is put in front. So every descriptor but the first is full, the
//! first knows how many entries the others hold, and the length of any chain costs
//! one cache line (**I-chain**).
//!
//! The fields are atomics because the `rcu` scheme reads chains while they change.
//! Who may read or write them, and with what ordering, is [`pte_list`](crate::pte_list)'s
//! business.

use std::ptr::NonNull;

use crate::{
    spte::Spte,
    sync::{AtomicPtr, AtomicU32, Canary, Ordering::Relaxed},
};

/// SPTE pointers in one descriptor.
#[cfg(not(any(loom, shuttle)))]
pub const PTE_LIST_EXT: usize = 14;
/// Two in the model, so that three SPTEs make a chain of two descriptors.
#[cfg(any(loom, shuttle))]
pub const PTE_LIST_EXT: usize = 2;

/// Up to [`PTE_LIST_EXT`] SPTEs of one rmap.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct PteListDesc {
    /// The next descriptor; null in the last. Never changes once published.
    pub(crate) more: AtomicPtr<PteListDesc>,
    /// Entries in use here, from the front.
    pub(crate) spte_count: AtomicU32,
    /// Entries in all descriptors after this one.
    pub(crate) tail_count: AtomicU32,
    /// The SPTEs; null beyond `spte_count`.
    pub(crate) sptes: [AtomicPtr<Spte>; PTE_LIST_EXT],
    /// Read by every walker that touches the descriptor, written when it is freed.
    pub(crate) life: Canary,
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(
    size_of::<PteListDesc>() == 128,
    "two cache lines, as in the kernel"
);

impl PteListDesc {
    /// An empty descriptor, in no chain.
    #[must_use]
    pub fn new() -> Self {
        Self {
            more: AtomicPtr::new(std::ptr::null_mut()),
            spte_count: AtomicU32::new(0),
            tail_count: AtomicU32::new(0),
            sptes: std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut())),
            life: Canary::new(),
        }
    }

    /// Empties a descriptor that no chain holds.
    pub(crate) fn reset(&self) {
        self.more.store(std::ptr::null_mut(), Relaxed);
        self.spte_count.store(0, Relaxed);
        self.tail_count.store(0, Relaxed);
        for spte in &self.sptes {
            spte.store(std::ptr::null_mut(), Relaxed);
        }
    }
}

impl Default for PteListDesc {
    fn default() -> Self {
        Self::new()
    }
}

/// Descriptors one vCPU has ready, so that nothing is allocated under mmu_lock.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "descriptors leave one by one and must not move"
)]
pub struct DescCache(Vec<Box<PteListDesc>>);

impl DescCache {
    /// Descriptors a full cache holds, as in KVM.
    #[cfg(not(any(loom, shuttle)))]
    pub const CAPACITY: usize = 40;
    /// One in the model: no operation needs more.
    #[cfg(any(loom, shuttle))]
    pub const CAPACITY: usize = 1;

    /// An empty cache.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Fills an empty cache. Call before taking mmu_lock; one descriptor is enough
    /// for any one operation.
    #[inline]
    pub fn top_up(&mut self) {
        if self.0.is_empty() {
            self.fill();
        }
    }

    #[cold]
    fn fill(&mut self) {
        self.0.resize_with(Self::CAPACITY, Box::default);
    }

    /// Descriptors in the cache.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The cache holds no descriptor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes an empty descriptor out.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<NonNull<PteListDesc>> {
        let desc = self.0.pop()?;
        Some(NonNull::from(Box::leak(desc)))
    }

    /// Puts a descriptor back; gives it back to the caller if the cache is full.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn put(&mut self, desc: Box<PteListDesc>) -> Option<Box<PteListDesc>> {
        if self.0.len() >= Self::CAPACITY {
            return Some(desc);
        }
        self.0.push(desc);
        None
    }
}
