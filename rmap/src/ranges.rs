//! The gfn ranges of a VM's memslots, checked.
//!
//! Built once, with the MMU; never changes. Sorted and disjoint.

use crate::{
    config::{MAX_ALIASES, MmuConfig},
    error::RmapError,
    gfn::{Gfn, GfnRange},
};

/// The memslots' ranges, by gfn.
#[derive(Debug)]
pub(crate) struct SlotRanges(Vec<GfnRange>);

impl SlotRanges {
    /// Checks the configured slots, which must end at or before `max_gfn`.
    ///
    /// # Errors
    /// The configuration is contradictory.
    pub(crate) fn new(config: &MmuConfig, max_gfn: u64) -> Result<Self, RmapError> {
        if config.aliases == 0 || config.aliases > MAX_ALIASES {
            return Err(RmapError::NoAliases);
        }
        let mut ranges = Vec::with_capacity(config.memslots.len());
        for slot in &config.memslots {
            let range = GfnRange::pages(slot.base_gfn, slot.npages);
            if range.npages() == 0 || range.end.0 > max_gfn {
                return Err(RmapError::BadMemslot(slot.base_gfn));
            }
            ranges.push(range);
        }
        ranges.sort_by_key(|range| range.start);
        for pair in ranges.windows(2) {
            if let [left, right] = pair
                && left.end > right.start
            {
                return Err(RmapError::OverlappingMemslots(right.start));
            }
        }
        Ok(Self(ranges))
    }

    /// All ranges, by gfn.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, GfnRange> {
        self.0.iter()
    }

    /// Whether a memslot holds `gfn`.
    ///
    /// # Errors
    /// None does.
    #[inline]
    pub(crate) fn check(&self, gfn: Gfn) -> Result<(), RmapError> {
        let after = self.0.partition_point(|range| range.start <= gfn);
        let range = after.checked_sub(1).and_then(|index| self.0.get(index));
        match range {
            Some(range) if gfn < range.end => Ok(()),
            _ => Err(RmapError::NoMemslot(gfn)),
        }
    }

    /// The parts of `range` that lie in memslots.
    #[inline]
    pub(crate) fn overlapping(&self, range: GfnRange) -> impl Iterator<Item = GfnRange> + '_ {
        let first = self.0.partition_point(|slot| slot.end <= range.start);
        let slots = self.0.get(first..).unwrap_or(&[]).iter();
        slots.map_while(move |slot| slot.intersection(&range))
    }
}
