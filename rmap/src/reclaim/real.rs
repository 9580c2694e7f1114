//! Reclamation for real builds: garbage with stamps, freed when its epoch has passed.

use std::{
    collections::VecDeque,
    marker::PhantomData,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use super::{
    Freed, Garbage,
    epochs::{Epochs, Oldest, Reader, Stamp},
};
use crate::desc::DescCache;

/// Pieces of garbage between two advances: each costs a system call that interrupts
/// the CPUs that run this process.
const ADVANCE_EVERY: usize = 64;

/// The epochs of the process.
static EPOCHS: LazyLock<Epochs> = LazyLock::new(Epochs::new);

thread_local! {
    static SEAT: Seat = Seat::take();
}

/// A thread's word, given back when the thread ends.
struct Seat {
    epochs: &'static Epochs,
    reader: &'static Reader,
}

impl Seat {
    /// Enters once as well, which registers the process for barriers.
    fn take() -> Self {
        let epochs = &*EPOCHS;
        let reader = epochs.join();
        epochs.enter(reader);
        reader.leave();
        Self { epochs, reader }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.epochs.leave_for_good(self.reader);
    }
}

/// Frees one MMU's descriptors and page tables, now or after the walkers have left.
#[derive(Debug, Default)]
pub struct Reclaim {
    waiting: Mutex<Waiting>,
}

/// Garbage in the order in which it was cut off.
#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<(Stamp, Garbage)>,
    since_advance: usize,
    descs: usize,
    tables: usize,
}

impl Waiting {
    fn push(&mut self, stamp: Stamp, garbage: Garbage) {
        // SAFETY: I-life: nothing that waits is freed.
        self.descs += unsafe { garbage.descs() };
        self.tables += garbage.tables();
        self.since_advance += 1;
        self.pieces.push_back((stamp, garbage));
    }

    /// Takes out what no reader can reach any more.
    fn take(&mut self, oldest: Oldest) -> Vec<Garbage> {
        let has_passed = |(stamp, _): &(Stamp, Garbage)| oldest.has_passed(*stamp);
        let count = self.pieces.iter().take_while(|p| has_passed(p)).count();
        let taken: Vec<Garbage> = self.pieces.drain(..count).map(|(_, g)| g).collect();
        for garbage in &taken {
            // SAFETY: I-life: taken, and not freed yet.
            self.descs -= unsafe { garbage.descs() };
            self.tables -= garbage.tables();
        }
        taken
    }
}

/// Keeps what was reachable on entry allocated until it is dropped.
#[must_use]
#[derive(Debug)]
pub struct ReadSide<'a> {
    /// The thread's word.
    reader: &'static Reader,
    /// It stays on the thread whose word it is.
    mmu: PhantomData<(&'a Reclaim, *const ())>,
}

impl Reclaim {
    /// Nothing to free yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets the calling thread its word if it has none yet, so that it can enter the
    /// read side under mmu_lock and allocate nothing there.
    #[inline]
    pub fn prepare(&self) {
        SEAT.with(|_| ());
    }

    /// Enters the read side.
    #[inline]
    pub fn enter(&self) -> ReadSide<'_> {
        let reader = SEAT.with(|seat| {
            seat.epochs.enter(seat.reader);
            seat.reader
        });
        ReadSide {
            reader,
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
        let stamp = EPOCHS.stamp();
        let mut waiting = self.waiting();
        waiting.push(stamp, garbage);
        if waiting.since_advance < ADVANCE_EVERY {
            return;
        }
        waiting.since_advance = 0;
        let ready = waiting.take(EPOCHS.advance());
        drop(waiting);
        for garbage in ready {
            // SAFETY: I-life: no reader inside was there when it was cut off.
            unsafe { garbage.take_apart(drop) };
        }
    }

    /// Waits until every walker now on the read side has left it. The caller holds
    /// no lock and is not on the read side.
    pub fn synchronize(&self) {
        let stamp = EPOCHS.stamp();
        while !EPOCHS.advance().has_passed(stamp) {
            std::thread::yield_now();
        }
    }

    /// Descriptors deferred and not freed yet.
    #[must_use]
    pub fn deferred_descs(&self) -> usize {
        self.waiting().descs
    }

    /// Page tables deferred and not freed yet.
    #[must_use]
    pub fn deferred_tables(&self) -> usize {
        self.waiting().tables
    }
}

impl Drop for Reclaim {
    fn drop(&mut self) {
        let waiting = self
            .waiting
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (_, garbage) in waiting.pieces.drain(..) {
            // SAFETY: I-life: every read side borrows what is dropped here.
            unsafe { garbage.take_apart(drop) };
        }
    }
}

impl Drop for ReadSide<'_> {
    #[inline]
    fn drop(&mut self) {
        self.reader.leave();
    }
}
