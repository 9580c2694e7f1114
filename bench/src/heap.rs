//! How much memory the program has allocated.
//!
//! The allocator is the system's; while a [`Census`] is open it also adds up what
//! is allocated and freed, so that every subject's memory is counted in the same
//! way and by its owner's own requests, not by what happens to be resident. A
//! block counts with all it takes from the heap: its usable size and the word the
//! C library keeps in front of it. Outside a census an allocation pays for one
//! load of a flag that nobody writes.
//!
//! Invariant: blocks are counted with the same size when they come and when they
//! go, so that what was allocated and freed within a census adds up to nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

/// What the C library keeps for each block.
const BLOCK_HEADER: i64 = 8;

static COUNTING: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// The system's allocator, counted.
struct Counted;

impl Counted {
    /// Adds a block that came (`sign` 1) or goes (-1).
    #[inline(always)]
    fn note(block: *mut u8, sign: i64) {
        if COUNTING.load(Relaxed) && !block.is_null() {
            BYTES.fetch_add(sign * block_bytes(block), Relaxed);
        }
    }
}

#[cold]
fn block_bytes(block: *mut u8) -> i64 {
    // SAFETY: the block came from the system's allocator, which is malloc's, and
    // was not freed yet.
    let usable = unsafe { libc::malloc_usable_size(block.cast()) };
    usable as i64 + BLOCK_HEADER
}

// SAFETY: every call goes to the system's allocator with the arguments it came
// with; noting a block only looks at its size.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        let block = unsafe { System.alloc(layout) };
        Self::note(block, 1);
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        let block = unsafe { System.alloc_zeroed(layout) };
        Self::note(block, 1);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        Self::note(block, -1);
        // SAFETY: the caller keeps GlobalAlloc's contract.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let before = if COUNTING.load(Relaxed) {
            block_bytes(block)
        } else {
            0
        };
        // SAFETY: the caller keeps GlobalAlloc's contract.
        let moved = unsafe { System.realloc(block, layout, new_size) };
        if !moved.is_null() && COUNTING.load(Relaxed) {
            BYTES.fetch_add(block_bytes(moved) - before, Relaxed);
        }
        moved
    }
}

/// Counts what the whole program allocates, from its start to its end. One at a
/// time; a second one waits for nobody and is refused.
pub struct Census {
    start: i64,
}

impl Census {
    /// Starts counting; `None` while another census is open.
    #[must_use]
    pub fn start() -> Option<Self> {
        if COUNTING.swap(true, Relaxed) {
            return None;
        }
        Some(Self {
            start: BYTES.load(Relaxed),
        })
    }

    /// Bytes allocated and not freed since the start; below zero if more was
    /// freed.
    #[must_use]
    pub fn bytes(&self) -> i64 {
        BYTES.load(Relaxed) - self.start
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        COUNTING.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far more than the other tests of this program allocate at a time.
    const LARGE: usize = 256 << 20;

    fn census() -> Census {
        loop {
            if let Some(census) = Census::start() {
                return census;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_comes_is_counted_and_what_goes_is_taken_off() {
        let near = |bytes: i64, mib: i64| (bytes - (mib << 20)).abs() < 64 << 20;
        let census = census();
        let mut block: Vec<u8> = Vec::with_capacity(LARGE);
        assert!(near(census.bytes(), 256), "{}", census.bytes());
        block.reserve_exact(2 * LARGE);
        assert!(near(census.bytes(), 512), "{}", census.bytes());
        drop(block);
        assert!(near(census.bytes(), 0), "{}", census.bytes());
        let zeroed = vec![0_u8; LARGE];
        assert!(near(census.bytes(), 256), "{}", census.bytes());
        drop(zeroed);
        assert!(Census::start().is_none(), "one census at a time");
    }

    #[test]
    fn a_block_counts_with_what_the_c_library_keeps_for_it() {
        let mut block = Box::new([0_u64; 3]);
        // SAFETY: the block is this box's, and lives.
        let usable = unsafe { libc::malloc_usable_size(block.as_mut_ptr().cast()) };
        let bytes = block_bytes(block.as_mut_ptr().cast());
        assert!(usable >= 24 && bytes == usable as i64 + 8, "{bytes}");
    }
}
