//! MGLRU's lookaround: where one page was young, its neighbours are asked as well.
//!
//! When reclaim finds a page young through the page tables, MGLRU also ages up to 64
//! pages around it, because they are cheap to reach now and likely to be young too;
//! what it finds young is kept from eviction. With the v5 series a secondary MMU takes
//! part if its answer about the first page was fast, and then only its fast part is
//! asked: [`Mmu::age_fast_only`]. What that part cannot see counts as old.
//!
//! Called by tests and workloads, which hold the decision against what
//! [`Mmu::test_age`] says, the oracle that sees both MMUs. It has no invariant of its
//! own.

use crate::{
    gfn::{Gfn, GfnRange, Level},
    mmu::{Aging, Mmu},
};

/// Pages one lookaround looks at, at most: the bits of a word.
pub const LOOKAROUND_PAGES: u64 = 64;

/// What a lookaround did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookaround {
    /// The answer about the page itself.
    pub page: Aging,
    /// The pages looked at, the page itself among them. Empty if there was no
    /// lookaround, because the page was old or the answer was not fast.
    pub window: GfnRange,
    young: u64,
}

impl Lookaround {
    /// Whether the lookaround found this page young. False for pages it did not look
    /// at.
    #[must_use]
    pub fn believes_young(&self, gfn: Gfn) -> bool {
        let inside = self.window.start <= gfn && gfn < self.window.end;
        inside && self.young >> (gfn.0 - self.window.start.0) & 1 != 0
    }

    /// Pages it found young, the page itself included.
    pub fn young(&self) -> impl Iterator<Item = Gfn> + '_ {
        let gfns = (self.window.start.0..self.window.end.0).map(Gfn);
        gfns.filter(|&gfn| self.believes_young(gfn))
    }
}

/// The pages MGLRU looks at around `gfn`: up to 64 in the same page table and inside
/// `vma`, with `gfn` in the middle where there is room on both sides.
fn window(gfn: Gfn, vma: GfnRange) -> GfnRange {
    let table = GfnRange::pages(Level::Size2M.align(gfn), Level::Size2M.npages());
    let Some(all) = table.intersection(&vma) else {
        return GfnRange::single(gfn);
    };
    if all.npages() <= LOOKAROUND_PAGES {
        return all;
    }
    let half = LOOKAROUND_PAGES / 2;
    let first = gfn.0.saturating_sub(half).max(all.start.0);
    let start = first.min(all.end.0 - LOOKAROUND_PAGES);
    GfnRange::pages(Gfn(start), LOOKAROUND_PAGES)
}

/// Ages `gfn` and, if it was young and the answer was fast, its neighbours inside
/// `vma`, which holds `gfn`.
#[must_use]
pub fn lookaround(mmu: &dyn Mmu, gfn: Gfn, vma: GfnRange) -> Lookaround {
    let page = mmu.age(GfnRange::single(gfn));
    if !page.young || !page.fast {
        return Lookaround {
            page,
            window: GfnRange::new(gfn, gfn),
            young: 0,
        };
    }
    let window = window(gfn, vma);
    let mut young = 0;
    for (other, bit) in (window.start.0..window.end.0).zip(0..LOOKAROUND_PAGES) {
        let is_young = other == gfn.0 || mmu.age_fast_only(GfnRange::single(Gfn(other))).young;
        young |= u64::from(is_young) << bit;
    }
    Lookaround {
        page,
        window,
        young,
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_window_stays_in_the_page_table_and_the_vma() {
        let vma = GfnRange::new(Gfn(100), Gfn(2000));
        let at = |gfn| {
            let window = window(Gfn(gfn), vma);
            (window.start.0, window.end.0)
        };
        assert_eq!(at(100), (100, 164));
        assert_eq!(at(300), (268, 332));
        assert_eq!(at(511), (448, 512));
        assert_eq!(at(512), (512, 576));
        assert_eq!(at(1999), (1936, 2000));
        let narrow = GfnRange::new(Gfn(510), Gfn(514));
        assert_eq!(window(Gfn(511), narrow), GfnRange::new(Gfn(510), Gfn(512)));
    }
}
