//! Cold caches: reading enough else before a set is walked again.
//!
//! A set is cold when twice the last-level cache's size has been read since it was
//! last touched. In a run of many subjects the others' sets see to that; what is
//! missing is read from a buffer that nobody measures. So a cold set may be much
//! smaller than the cache, which in a host of many cores is hundreds of MiB.

use std::hint::black_box;

/// Bytes read before a set counts as evicted, times the last-level cache.
const FACTOR: u64 = 2;
/// Words of a cache line.
const LINE_WORDS: usize = 8;
/// Bytes of a word.
const WORD_BYTES: u64 = 8;

/// Counts what was read, and reads what is missing.
#[derive(Debug)]
pub struct Evictor {
    /// Bytes to be read before a set is walked again.
    needed: u64,
    /// Bytes read so far, by the cells that said so and by evictions.
    read: u64,
    /// Made when first needed: most workloads never do.
    buffer: Vec<u64>,
}

/// When a set was last touched, by the bytes read until then.
#[derive(Debug, Clone, Copy, Default)]
pub struct Touched(u64);

impl Evictor {
    /// For a last-level cache of this size.
    #[must_use]
    pub fn new(llc_bytes: u64) -> Self {
        Self {
            needed: llc_bytes * FACTOR,
            read: 0,
            buffer: Vec::new(),
        }
    }

    /// Notes that a cell has read so much, its set last.
    pub fn touch(&mut self, bytes: u64) -> Touched {
        self.read += bytes;
        Touched(self.read)
    }

    /// Reads what is missing until a set touched then has left the caches. A set
    /// just built counts as touched before anything was read.
    pub fn evict(&mut self, touched: Touched) {
        let missing = self.needed.saturating_sub(self.read - touched.0);
        if missing == 0 {
            return;
        }
        let words = (self.needed / WORD_BYTES) as usize;
        if self.buffer.is_empty() {
            // Not zero, so that every page is memory of its own.
            self.buffer = vec![1; words];
        }
        // From the end that was read longest ago; where it is does not matter more
        // than that it is as long as what is missing.
        let first = words.saturating_sub(missing.div_ceil(WORD_BYTES) as usize);
        let lines = self.buffer[first..].iter().step_by(LINE_WORDS);
        black_box(lines.fold(0, |sum: u64, word| sum.wrapping_add(*word)));
        self.read += missing;
    }
}

#[cfg(test)]
impl Evictor {
    /// Bytes read so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_did_not_read_is_read() {
        let mut evictor = Evictor::new(1 << 20);
        evictor.evict(Touched::default());
        assert_eq!(evictor.read, 2 << 20);
        let mine = evictor.touch(1 << 10);
        evictor.touch(1 << 20);
        evictor.evict(mine);
        assert_eq!(evictor.read, mine.0 + (2 << 20));
        evictor.touch(9 << 20);
        let before = evictor.read;
        evictor.evict(mine);
        assert_eq!(evictor.read, before);
    }

    #[test]
    fn a_run_without_cold_sets_takes_no_memory() {
        let mut evictor = Evictor::new(1 << 40);
        evictor.touch(5);
        assert!(evictor.buffer.is_empty());
    }
}
