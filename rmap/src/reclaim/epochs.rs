//! Who is on the read side, told by plain stores.
//!
//! The kernel's `rcu_read_lock` costs next to nothing, so a read side that costs an
//! atomic operation would be charged to every lock-free scheme and decide the
//! comparison with the bit. Here an ager announces itself by a store to a word of its
//! own, with nothing but a compiler barrier after it; the full barrier that this needs
//! is paid by whoever frees, who has the kernel run one on all CPUs that run this
//! process (membarrier(2), as liburcu does).
//!
//! Time is cut into epochs. A reader's word holds the epoch in which it entered, 0
//! when it is outside. Garbage is stamped with the epoch after it was cut off. To free,
//! one advances the epoch, runs the heavy barrier and looks at all words:
//!
//! **Garbage stamped `s` is free when every reader inside entered in `s + 2` or
//! later.** A reader's word becomes visible before its heavy barrier, or its reads come
//! after it. If the reader is seen in epoch `s + 2`, it read the second of two advances,
//! and the heavy barrier of the first was over by then: whoever stamped `s` did so
//! before that barrier, so what it had cut off was cut off for the reader. If it is not
//! seen, its reads come after a barrier that the cut came before.
//!
//! Orderings: a reader's word is stored with release and looked at with acquire, so that
//! what a reader did inside happens before the free. The rest is the barriers', the epoch
//! itself included: it is written after one barrier and read before another. Where
//! the kernel refuses membarrier both sides run a full fence; loom knows fences only, and
//! checks that variant (`rmap/tests/loom/epochs.rs`). With the light barriers being fences
//! there, it cannot see the heavy one missing: two light ones would do.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::barrier::{heavy_barrier, light_barrier};

/// The epoch of a reader that is outside.
const OUTSIDE: u64 = 0;
/// The first epoch.
const FIRST: u64 = 1;
/// Advances between a stamp and the freeing of what it was put on.
const ADVANCES: u64 = 2;

/// A reader's word, alone on its cache lines (two: the hardware fetches pairs).
#[repr(align(128))]
#[derive(Debug)]
pub struct Reader {
    epoch: AtomicU64,
    /// Read sides the thread is inside, in whatever order it leaves them. Only the
    /// thread itself looks.
    depth: AtomicU32,
}

impl Reader {
    fn new() -> Self {
        Self {
            epoch: AtomicU64::new(OUTSIDE),
            depth: AtomicU32::new(0),
        }
    }

    /// Leaves the read side, as often as it was entered; by the thread whose word it is.
    #[inline]
    pub fn leave(&self) {
        let depth = self.depth.load(Relaxed) - 1;
        self.depth.store(depth, Relaxed);
        if depth == 0 {
            self.epoch.store(OUTSIDE, Release);
        }
    }
}

/// The epoch, and all readers.
#[derive(Debug)]
pub struct Epochs {
    current: AtomicU64,
    readers: Mutex<Readers>,
}

/// Readers' words: of threads that live, and of threads that have ended.
#[derive(Debug, Default)]
struct Readers {
    all: Vec<&'static Reader>,
    unused: Vec<&'static Reader>,
}

/// The epoch in which something was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

/// The oldest epoch in which a reader may still be.
#[derive(Debug, Clone, Copy)]
pub struct Oldest(u64);

impl Oldest {
    /// No barrier, no answer: nothing stamped has passed.
    const UNKNOWN: Self = Self(FIRST);

    /// Whether no reader can reach what was stamped so.
    #[must_use]
    pub fn has_passed(self, stamp: Stamp) -> bool {
        stamp.0 + ADVANCES <= self.0
    }
}

impl Epochs {
    /// The first epoch, without readers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            current: AtomicU64::new(FIRST),
            readers: Mutex::default(),
        }
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A word for one thread, which gives it back with [`leave_for_good`](Self::leave_for_good).
    /// Words are never freed: there are as many as threads ever were at one time.
    #[must_use]
    pub fn join(&self) -> &'static Reader {
        let mut readers = self.readers();
        readers.unused.pop().unwrap_or_else(|| {
            let reader = Box::leak(Box::new(Reader::new()));
            readers.all.push(reader);
            reader
        })
    }

    /// Takes back the word of a thread that ends, outside the read side.
    pub fn leave_for_good(&self, reader: &'static Reader) {
        self.readers().unused.push(reader);
    }

    /// Enters the read side; by the thread whose word it is.
    #[inline]
    pub fn enter(&self, reader: &Reader) {
        let depth = reader.depth.load(Relaxed);
        reader.depth.store(depth + 1, Relaxed);
        if depth == 0 {
            reader.epoch.store(self.current.load(Relaxed), Release);
            light_barrier();
        }
    }

    /// The stamp of what the caller has cut off by now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        light_barrier();
        Stamp(self.current.load(Relaxed))
    }

    /// Goes on to the next epoch and looks where the readers are.
    #[must_use]
    pub fn advance(&self) -> Oldest {
        let readers = self.readers();
        let next = self.current.fetch_add(1, Relaxed) + 1;
        if !heavy_barrier() {
            // Whoever is seen in an epoch relies on the barriers of all advances but the
            // last: this advance was none.
            self.current.store(next - 1, Relaxed);
            return Oldest::UNKNOWN;
        }
        let inside = readers.all.iter().map(|reader| reader.epoch.load(Acquire));
        let oldest = inside.filter(|&epoch| epoch != OUTSIDE).min();
        Oldest(oldest.unwrap_or(next))
    }
}

impl Default for Epochs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_inside_holds_back_what_was_cut_off_meanwhile() {
        let epochs = Epochs::new();
        let reader = epochs.join();
        epochs.enter(reader);
        let stamp = epochs.stamp();
        for _ in 0..5 {
            assert!(!epochs.advance().has_passed(stamp));
        }
        reader.leave();
        let passed = epochs.advance().has_passed(stamp);
        assert!(passed, "five advances were enough once the reader had left");
    }

    #[test]
    fn one_advance_is_not_enough() {
        let epochs = Epochs::new();
        let stamp = epochs.stamp();
        assert!(!epochs.advance().has_passed(stamp));
        assert!(epochs.advance().has_passed(stamp));
    }

    #[test]
    fn a_reader_is_inside_until_it_has_left_as_often_as_it_entered() {
        let epochs = Epochs::new();
        let reader = epochs.join();
        epochs.enter(reader);
        epochs.enter(reader);
        let stamp = epochs.stamp();
        reader.leave();
        for _ in 0..3 {
            assert!(!epochs.advance().has_passed(stamp));
        }
        reader.leave();
        assert!(epochs.advance().has_passed(stamp));
    }

    #[test]
    fn the_word_of_a_thread_that_ended_is_used_again() {
        let epochs = Epochs::new();
        let first = epochs.join();
        epochs.leave_for_good(first);
        assert!(std::ptr::eq(epochs.join(), first));
        assert_eq!(epochs.readers().all.len(), 1);
    }
}
