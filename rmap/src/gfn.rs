//! Guest frame numbers, ranges of them, page levels and mappings.
//!
//! Plain values without invariants of their own; anybody may build them. Whether
//! they lie inside a memslot is decided where they are used.

use std::fmt;

/// log2 of the entries in one page table: 512, as on x86-64.
#[cfg(not(any(loom, shuttle)))]
pub const LEVEL_SHIFT: u32 = 9;
/// Two entries a table in the model, so that every level has its heads.
#[cfg(any(loom, shuttle))]
pub const LEVEL_SHIFT: u32 = 1;

/// A guest frame number: a guest physical address in units of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(pub u64);

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gfn {:#x}", self.0)
    }
}

/// The gfns from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GfnRange {
    /// First gfn of the range.
    pub start: Gfn,
    /// First gfn after the range.
    pub end: Gfn,
}

impl GfnRange {
    /// The gfns from `start` up to, not including, `end`. Empty if `end <= start`.
    #[must_use]
    pub const fn new(start: Gfn, end: Gfn) -> Self {
        Self { start, end }
    }

    /// `npages` gfns from `start` on, cut off at the end of the address space.
    #[must_use]
    pub const fn pages(start: Gfn, npages: u64) -> Self {
        Self {
            start,
            end: Gfn(start.0.saturating_add(npages)),
        }
    }

    /// One gfn.
    #[must_use]
    pub const fn single(gfn: Gfn) -> Self {
        Self::pages(gfn, 1)
    }

    /// Number of gfns in the range.
    #[must_use]
    pub const fn npages(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// The part of the range that is made of whole pages of `level`, if there is one.
    #[must_use]
    pub fn whole_pages(&self, level: Level) -> Option<Self> {
        let start = level.align(Gfn(self.start.0.checked_add(level.npages() - 1)?));
        let whole = Self::new(start, level.align(self.end));
        (whole.npages() > 0).then_some(whole)
    }

    /// The gfns in both ranges, if there are any.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }
}

/// The size of the page a mapping covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// 4 KiB.
    Size4K,
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl Level {
    /// Number of levels which have rmaps.
    pub const COUNT: usize = 3;
    /// All levels, smallest page first: the order in which a walk visits them.
    pub const ALL: [Self; Self::COUNT] = [Self::Size4K, Self::Size2M, Self::Size1G];

    /// 0, 1 or 2: the position in per-level arrays (KVM's level less one).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// How far a gfn is shifted to give its index at this level.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self as u32 * LEVEL_SHIFT
    }

    /// 4 KiB pages under one page of this level.
    #[must_use]
    pub const fn npages(self) -> u64 {
        1 << self.shift()
    }

    /// First gfn of the page of this level that holds `gfn`.
    #[must_use]
    pub const fn align(self, gfn: Gfn) -> Gfn {
        Gfn(gfn.0 >> self.shift() << self.shift())
    }
}

/// One SPTE by its place: the page it maps and the page-table page it sits in.
///
/// `alias` chooses among the shadow pages that may map the gfn, as a guest does
/// by mapping one gpa at several virtual addresses: alias k is column k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Any gfn inside the mapped page.
    pub gfn: Gfn,
    /// Size of the mapped page.
    pub level: Level,
    /// Column of shadow pages, below [`MmuConfig::aliases`](crate::MmuConfig::aliases).
    pub alias: u32,
}

impl Mapping {
    /// The SPTE for `gfn` at `level` in column `alias`.
    #[must_use]
    pub const fn new(gfn: Gfn, level: Level, alias: u32) -> Self {
        Self { gfn, level, alias }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}, alias {}", self.gfn, self.level, self.alias)
    }
}
