//! Reclamation for real builds, on `crossbeam-epoch`.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use super::{Freed, Garbage};
use crate::desc::DescCache;

/// What waits to be freed.
#[derive(Debug, Default)]
struct Deferred {
    descs: AtomicUsize,
    tables: AtomicUsize,
}

/// Frees one MMU's descriptors and page tables, now or after the walkers have left.
#[derive(Debug, Default)]
pub struct Reclaim {
    deferred: Arc<Deferred>,
}

/// Keeps what was reachable on entry allocated until it is dropped.
#[must_use]
#[derive(Debug)]
pub struct ReadSide<'a> {
    guard: crossbeam_epoch::Guard,
    mmu: PhantomData<&'a Reclaim>,
}

impl Reclaim {
    /// Nothing to free yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters the read side.
    #[inline]
    pub fn enter(&self) -> ReadSide<'_> {
        ReadSide {
            guard: crossbeam_epoch::pin(),
            mmu: PhantomData,
        }
    }

    /// Frees descriptors into the vCPU's cache, and to the allocator beyond its
    /// capacity; page tables to the allocator.
    ///
    /// # Safety
    /// **I-life**: no walker can reach the garbage any more.
    pub unsafe fn free_now(&self, garbage: Garbage, cache: &mut DescCache) {
        // SAFETY: from the caller; retired garbage is handed over once.
        unsafe {
            garbage.take_apart(|freed| match freed {
                Freed::Desc(desc) => drop(cache.put(desc)),
                Freed::Table(table) => drop(table),
            });
        }
    }

    /// Frees after every walker now on the read side has left it.
    ///
    /// # Safety
    /// **I-life**: whoever enters the read side from now on cannot reach the
    /// garbage, and nobody frees it a second time.
    pub unsafe fn defer(&self, garbage: Garbage) {
        // SAFETY: not freed yet.
        let descs = unsafe { garbage.descs() };
        let tables = garbage.tables();
        self.deferred.descs.fetch_add(descs, Relaxed);
        self.deferred.tables.fetch_add(tables, Relaxed);
        let deferred = Arc::clone(&self.deferred);
        let side = self.enter();
        // SAFETY: from the caller; the closure runs once, when the epoch has passed.
        unsafe {
            side.guard.defer_unchecked(move || {
                garbage.take_apart(drop);
                deferred.descs.fetch_sub(descs, Relaxed);
                deferred.tables.fetch_sub(tables, Relaxed);
            });
        }
    }

    /// Waits until every walker now on the read side has left it. The caller holds
    /// no lock and is not on the read side.
    pub fn synchronize(&self) {
        let done = Arc::new(AtomicBool::new(false));
        let left = Arc::clone(&done);
        crossbeam_epoch::pin().defer(move || left.store(true, Release));
        while !done.load(Acquire) {
            crossbeam_epoch::pin().flush();
            std::thread::yield_now();
        }
    }

    /// Descriptors deferred and not freed yet.
    #[must_use]
    pub fn deferred_descs(&self) -> usize {
        self.deferred.descs.load(Relaxed)
    }

    /// Page tables deferred and not freed yet.
    #[must_use]
    pub fn deferred_tables(&self) -> usize {
        self.deferred.tables.load(Relaxed)
    }
}
