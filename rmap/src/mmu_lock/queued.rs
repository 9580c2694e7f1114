//! A queued fair rwlock that behaves as the kernel's does outside of interrupts.
//!
//! It is what mmu_lock is by default, so that waiting for it costs what waiting
//! costs in the kernel. Invariant: a writer is alone, and nobody who waits is passed
//! by somebody who came later, once the first of the queue has announced itself. [`MmuLock`](super::MmuLock) uses it. Neither side may
//! be taken by a thread that holds the lock already: it would wait for itself.
//!
//! Readers get in at once unless a writer has the lock or waits for it. Whoever does
//! not get in queues up first in, first out, readers and writers alike, and only the
//! first of the queue looks at the lock: a reader waits for the writer to leave, a
//! writer for everybody. A writer that is first in the queue shuts new readers out,
//! so neither side starves.
//!
//! Left out is what interrupts need: in the kernel a reader in an interrupt passes
//! waiting writers, as the interrupted thread may hold the lock. The model has none.
//! The queue is a pair of tickets and not a list of nodes: all who wait look at one
//! counter, which is the same order and, with many CPUs, more cache traffic. And a
//! writer leaves by a read-modify-write, where the kernel's stores the byte that only
//! writers change: Rust has no atomics of mixed sizes, and the rest of the word counts
//! readers who come meanwhile.
//!
//! Waiting is spinning, as in the kernel. A kernel thread spins with preemption
//! disabled; ours may have lost its CPU, or the one it waits for may have, so
//! after `SPINS` rounds a waiter offers its CPU to others.
//!
//! Orderings: every way in is an acquire of the lock word, every way out a release.
//! All changes are read-modify-writes, so a release reaches whoever acquires later,
//! however many changes lie between. The queue's own hand-over is acquire/release too.

use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    spin_loop, yield_now,
};

/// A writer has the lock.
const LOCKED: u64 = 1 << 0;
/// The first of the queue is a writer.
const WAITING: u64 = 1 << 1;
/// One reader; the count is in the bits from here on.
const READER: u64 = 1 << 2;

/// Rounds a waiter spins before it offers its CPU: about a microsecond or two.
const SPINS: u32 = 128;

/// The lock.
#[derive(Debug)]
pub struct QueuedRwLock {
    word: AtomicU64,
    next_ticket: AtomicU64,
    now_serving: AtomicU64,
}

/// Held for read; released on drop.
#[must_use]
#[derive(Debug)]
pub struct ReadGuard<'a>(&'a QueuedRwLock);

/// Held for write; released on drop.
#[must_use]
#[derive(Debug)]
pub struct WriteGuard<'a>(&'a QueuedRwLock);

impl QueuedRwLock {
    /// A lock nobody holds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            next_ticket: AtomicU64::new(0),
            now_serving: AtomicU64::new(0),
        }
    }

    /// Takes the lock for read.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_> {
        if self.word.fetch_add(READER, Acquire) & (LOCKED | WAITING) != 0 {
            self.read_queued();
        }
        ReadGuard(self)
    }

    #[cold]
    fn read_queued(&self) {
        self.word.fetch_add(READER.wrapping_neg(), Relaxed);
        self.wait_in_queue();
        // The look that finds no writer has the ordering.
        self.word.fetch_add(READER, Relaxed);
        wait_until(|| self.word.load(Acquire) & LOCKED == 0);
        self.leave_queue();
    }

    /// Takes the lock for write.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_> {
        if self
            .word
            .compare_exchange(0, LOCKED, Acquire, Relaxed)
            .is_err()
        {
            self.write_queued();
        }
        WriteGuard(self)
    }

    #[cold]
    fn write_queued(&self) {
        self.wait_in_queue();
        if self
            .word
            .compare_exchange(0, LOCKED, Acquire, Relaxed)
            .is_err()
        {
            // Only the first of the queue sets or clears it.
            self.word.fetch_add(WAITING, Relaxed);
            wait_until(|| {
                self.word.load(Relaxed) == WAITING
                    && self
                        .word
                        .compare_exchange(WAITING, LOCKED, Acquire, Relaxed)
                        .is_ok()
            });
        }
        self.leave_queue();
    }

    /// Acquire, with release in [`leave_queue`](Self::leave_queue): what the last in front
    /// did to the word comes first, so that [`WAITING`] is never set twice. (loom performs
    /// each thread's accesses in order and cannot see it missing.)
    fn wait_in_queue(&self) {
        let ticket = self.next_ticket.fetch_add(1, Relaxed);
        wait_until(|| self.now_serving.load(Acquire) == ticket);
    }

    fn leave_queue(&self) {
        self.now_serving.fetch_add(1, Release);
    }
}

impl Default for QueuedRwLock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.word.fetch_add(READER.wrapping_neg(), Release);
    }
}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.word.fetch_add(LOCKED.wrapping_neg(), Release);
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let mut spins = 0;
    while !done() {
        if spins < SPINS {
            spins += 1;
            spin_loop();
        } else {
            yield_now();
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::{
        sync::{Mutex, atomic::AtomicU64 as Counter},
        thread,
        time::Duration,
    };

    use super::*;

    #[test]
    fn writers_exclude_everybody_with_more_threads_than_cpus() {
        let lock = QueuedRwLock::new();
        let (a, b) = (Counter::new(0), Counter::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let guard = lock.write();
                        let seen = a.load(Relaxed);
                        a.store(seen + 1, Relaxed);
                        b.store(b.load(Relaxed) + 1, Relaxed);
                        drop(guard);
                        let _guard = lock.read();
                        assert_eq!(a.load(Relaxed), b.load(Relaxed));
                    }
                });
            }
        });
        assert_eq!(a.into_inner(), 4000);
    }

    #[test]
    fn readers_share() {
        let lock = QueuedRwLock::new();
        let _first = lock.read();
        let _second = lock.read();
    }

    #[test]
    fn a_waiting_writer_goes_before_new_readers() {
        let lock = QueuedRwLock::new();
        let order = Mutex::new(Vec::new());
        let first = lock.read();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _guard = lock.write();
                order.lock().unwrap().push("writer");
            });
            wait_until(|| lock.word.load(Relaxed) & WAITING != 0);
            scope.spawn(|| {
                let _guard = lock.read();
                order.lock().unwrap().push("reader");
            });
            wait_until(|| lock.next_ticket.load(Relaxed) == 2);
            thread::sleep(Duration::from_millis(10));
            assert!(
                order.lock().unwrap().is_empty(),
                "somebody passed the reader"
            );
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), ["writer", "reader"]);
    }

    #[test]
    fn readers_and_writers_are_served_in_the_order_they_came() {
        const COMERS: [&str; 5] = ["writer", "reader", "writer", "writer", "reader"];
        let lock = QueuedRwLock::new();
        let order = Mutex::new(Vec::new());
        let first = lock.write();
        thread::scope(|scope| {
            for (before, comer) in (0..).zip(COMERS) {
                wait_until(|| lock.next_ticket.load(Relaxed) == before);
                let (lock, order) = (&lock, &order);
                scope.spawn(move || {
                    let _held = match comer {
                        "writer" => (Some(lock.write()), None),
                        _ => (None, Some(lock.read())),
                    };
                    order.lock().unwrap().push(comer);
                });
            }
            wait_until(|| lock.next_ticket.load(Relaxed) == 5);
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), COMERS);
    }
}
