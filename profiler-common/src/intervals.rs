//! The table that turns a host virtual address into rmap heads.
//!
//! User space builds it from the memslots of all profiled VMs: disjoint
//! intervals sorted by address. It is double-buffered: user space fills the
//! half that is not in use and then publishes it by writing [`Table`], so the
//! kernel side always searches a complete half.

use crate::census::LEVELS;

/// Intervals per half.
pub const MAX_INTERVALS: usize = 8192;
/// Steps of a binary search over [`MAX_INTERVALS`].
pub const SEARCH_STEPS: u32 = MAX_INTERVALS.trailing_zeros() + 1;
/// Memslots one interval can refer to: the same address is in two of them when
/// a VM has a second address space for SMM.
pub const SLOTS_PER_INTERVAL: usize = 2;

/// [`Interval::flags`]: more than one VM, or too many memslots, hold the address.
pub const AMBIGUOUS: u32 = 1;

/// The heads of one memslot that cover an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Heads {
    /// `base_gfn` of the memslot.
    pub base_gfn: u64,
    /// gfn of the interval's first page.
    pub first_gfn: u64,
    /// Head arrays by level; 0 where the level has none.
    pub rmap: [u64; LEVELS],
    /// Address of the `kvm->memslots[]` entry to compare with `memslots`.
    pub memslots_at: u64,
    /// The set of memslots this was read from.
    pub memslots: u64,
    /// Its generation then.
    pub generation: u64,
}

/// Pages that belong to the same memslots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interval {
    /// First host virtual address.
    pub start: u64,
    /// Address after the last byte.
    pub end: u64,
    /// Number of the VM in this recording.
    pub vm: u32,
    /// [`AMBIGUOUS`] or 0.
    pub flags: u32,
    /// How many of `heads` are in use.
    pub slots: u64,
    /// Where the heads are.
    pub heads: [Heads; SLOTS_PER_INTERVAL],
}

/// Which half is in use and how many intervals it holds, in one word so that
/// it is published whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Table {
    /// `count << 1 | half`.
    pub word: u64,
}

impl Table {
    /// A table of `count` intervals in `half`.
    pub const fn new(half: u32, count: u32) -> Self {
        Self {
            word: ((count as u64) << 1) | (half as u64 & 1),
        }
    }

    /// The half in use, 0 or 1.
    #[inline(always)]
    pub const fn half(word: u64) -> u32 {
        (word & 1) as u32
    }

    /// The number of intervals in it.
    #[inline(always)]
    pub const fn count(word: u64) -> u32 {
        (word >> 1) as u32
    }
}

const _: () = assert!(MAX_INTERVALS.is_power_of_two());
const _: () = assert!(size_of::<Interval>() == 32 + SLOTS_PER_INTERVAL * 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_word_keeps_half_and_count() {
        for (half, count) in [(0, 0), (1, 0), (0, 1), (1, MAX_INTERVALS as u32)] {
            let word = Table::new(half, count).word;
            assert_eq!((Table::half(word), Table::count(word)), (half, count));
        }
    }
}
