//! Reclamation under the model checkers.
//!
//! The promise to model: garbage retired at some moment is freed only after every
//! read side entered before that moment was left. The bookkeeping uses plain
//! standard types, which the checker neither schedules nor learns orderings from;
//! the two counters are the only edges, and they are the promise's own: leaving a
//! read side happens before the free it allowed, and so does retiring; and retiring
//! happens before the entering of who is not waited for, so that he sees what was cut
//! off, which RCU promises and the models of the epochs show. Nobody learns anything of
//! others by leaving, or by retiring.
//!
//! Nothing is really deallocated while a model runs, so that a scheme which frees
//! too early is caught by the canary and not by luck.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Freed, Garbage};
use crate::{
    desc::DescCache,
    sync::{
        AtomicU64,
        Ordering::{Acquire, Release},
        yield_now,
    },
};

/// Frees one MMU's descriptors, now or after the walkers have left.
#[derive(Debug)]
pub struct Reclaim {
    books: Mutex<Books>,
    /// Counted up by leaving, read by freeing.
    exits: AtomicU64,
    /// Counted up by retiring, read by freeing and by entering.
    retirements: AtomicU64,
}

#[derive(Debug, Default)]
struct Books {
    next_reader: u64,
    inside: Vec<u64>,
    waiting: Vec<Waiting>,
    /// Boxed each, so that a walker that should not be there finds them unmoved.
    freed: Vec<Freed>,
}

/// One piece of garbage and the read sides it waits for.
#[derive(Debug)]
struct Waiting {
    garbage: Garbage,
    descs: usize,
    readers: Vec<u64>,
}

/// Keeps what was reachable on entry allocated until it is dropped.
#[must_use]
#[derive(Debug)]
pub struct ReadSide<'a> {
    reclaim: &'a Reclaim,
    reader: u64,
}

impl Reclaim {
    /// Nothing to free yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            books: Mutex::default(),
            exits: AtomicU64::new(0),
            retirements: AtomicU64::new(0),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing has to be prepared in a model.
    pub fn prepare(&self) {}

    /// Enters the read side.
    pub fn enter(&self) -> ReadSide<'_> {
        let reader = self.books().enter();
        self.retirements.fetch_add(0, Acquire);
        ReadSide {
            reclaim: self,
            reader,
        }
    }

    /// Frees at once.
    ///
    /// # Safety
    /// **I-life**: no walker can reach the garbage any more. The model checks it.
    pub unsafe fn free_now(&self, garbage: Garbage, _cache: &mut DescCache) {
        // SAFETY: boxes are kept, not deallocated.
        unsafe { garbage.take_apart(|freed| self.books().freed.push(freed)) };
    }

    /// Frees after every walker now on the read side has left it.
    ///
    /// # Safety
    /// **I-life**: whoever enters the read side from now on cannot reach the
    /// garbage, and nobody frees it a second time. The model checks it.
    pub unsafe fn defer(&self, garbage: Garbage) {
        self.retirements.fetch_add(1, Release);
        // SAFETY: not freed yet.
        let descs = unsafe { garbage.descs() };
        let ready = self.books().retire(garbage, descs);
        self.free(ready);
    }

    /// Waits until every walker now on the read side has left it. The caller holds
    /// no lock and is not on the read side.
    pub fn synchronize(&self) {
        self.retirements.fetch_add(1, Release);
        let readers = self.books().inside.clone();
        loop {
            self.exits.fetch_add(0, Acquire);
            if !self
                .books()
                .inside
                .iter()
                .any(|reader| readers.contains(reader))
            {
                return;
            }
            yield_now();
        }
    }

    /// Descriptors deferred and not freed yet.
    #[must_use]
    pub fn deferred_descs(&self) -> usize {
        self.books().waiting.iter().map(|one| one.descs).sum()
    }

    /// Page tables deferred and not freed yet.
    #[must_use]
    pub fn deferred_tables(&self) -> usize {
        let books = self.books();
        books.waiting.iter().map(|one| one.garbage.tables()).sum()
    }

    fn free(&self, ready: Vec<Garbage>) {
        if ready.is_empty() {
            return;
        }
        self.exits.fetch_add(0, Acquire);
        self.retirements.fetch_add(0, Acquire);
        for garbage in ready {
            // SAFETY: boxes are kept, not deallocated.
            unsafe { garbage.take_apart(|freed| self.books().freed.push(freed)) };
        }
    }
}

impl Default for Reclaim {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ReadSide<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.reclaim.exits.fetch_add(1, Release);
        let ready = self.reclaim.books().leave(self.reader);
        self.reclaim.free(ready);
    }
}

impl Books {
    fn enter(&mut self) -> u64 {
        self.next_reader += 1;
        self.inside.push(self.next_reader);
        self.next_reader
    }

    fn retire(&mut self, garbage: Garbage, descs: usize) -> Vec<Garbage> {
        if self.inside.is_empty() {
            return vec![garbage];
        }
        self.waiting.push(Waiting {
            garbage,
            descs,
            readers: self.inside.clone(),
        });
        Vec::new()
    }

    fn leave(&mut self, reader: u64) -> Vec<Garbage> {
        self.inside.retain(|&other| other != reader);
        for one in &mut self.waiting {
            one.readers.retain(|&other| other != reader);
        }
        let ready = self.waiting.extract_if(.., |one| one.readers.is_empty());
        ready.map(|one| one.garbage).collect()
    }
}
