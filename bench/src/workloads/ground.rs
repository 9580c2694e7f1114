//! The pages a `walk` cell goes over, and in which order.
//!
//! A ground is a VM whose pages all have chains of one length. A hot ground is
//! walked in page order by all of its cells in turn. A scattered ground is cut into
//! one area per cell and each area into [`SEGMENTS`] segments, one of which is
//! walked per pass; an area's ranges are scattered over its segments by a fixed
//! bijection, so that no prefetcher helps. Eight heads share a cache line, and
//! eight SPTEs: of ranges that do, one is walked per trip over all segments, so
//! that no neighbour's line helps either.
//!
//! Invariant: on a scattered ground every range belongs to one area, and a trip touches
//! no cache line of heads or SPTEs in two callbacks. So a cell finds its pages as
//! it left them, and within a trip finds none of them cached. On a hot ground a cell sets
//! the state of the pages itself before it measures.

use anyhow::Result;
use rmap::Level;

use crate::workloads::vm::{self, Vm};

/// Segments of one area of a scattered ground: passes of one trip.
pub const SEGMENTS: u64 = 32;
/// Heads of a cache line, and SPTEs of one.
const LINE_PAGES: u64 = 8;

/// A VM and the way through its pages.
pub struct Ground {
    /// Name of the scheme.
    pub scheme: String,
    /// SPTEs of every page.
    pub chain_len: u32,
    /// Pages that one cell walks, a multiple of the range and, if scattered, of
    /// [`SEGMENTS`] ranges and of as many cache lines.
    pub gfns_per_cell: u64,
    /// Pages of one callback, a power of two.
    pub range_pages: u64,
    /// Level of the mappings; their size divides the ground.
    pub level: Level,
    areas: u64,
    vm: Option<Vm>,
    /// First pages of the ranges of the segment entered last.
    starts: Vec<u64>,
}

impl Ground {
    /// Plans a ground; [`build`](Self::build) makes it. `areas` is the number
    /// of cells of a scattered ground, and 0 for a hot one.
    #[must_use]
    pub fn new(
        scheme: &str,
        chain_len: u32,
        gfns_per_cell: u64,
        range_pages: u64,
        areas: usize,
    ) -> Self {
        Self {
            scheme: scheme.to_owned(),
            chain_len,
            gfns_per_cell,
            range_pages,
            level: Level::Size4K,
            areas: areas as u64,
            vm: None,
            starts: Vec::new(),
        }
    }

    /// The same with pages of this level.
    #[must_use]
    pub fn at(self, level: Level) -> Self {
        Self { level, ..self }
    }

    /// Bytes that a walk over one cell's pages may read: heads, descriptors, SPTEs.
    #[must_use]
    pub fn walked_bytes_per_cell(&self) -> u64 {
        let chains = self.gfns_per_cell / self.level.npages();
        let chains_bytes = chains * vm::walked_bytes_per_gfn(self.chain_len);
        match self.level {
            Level::Size4K => chains_bytes,
            _ => chains_bytes + self.gfns_per_cell * vm::walked_bytes_per_gfn(0),
        }
    }

    /// Whether the ground is walked segment by segment.
    #[must_use]
    pub fn is_scattered(&self) -> bool {
        self.areas > 0
    }

    /// Pages of the VM.
    #[must_use]
    pub fn gfns(&self) -> u64 {
        self.gfns_per_cell * self.areas.max(1)
    }

    /// Maps all pages, unless that was done.
    ///
    /// # Errors
    /// When the model refuses a mapping.
    pub fn build(&mut self) -> Result<()> {
        if self.vm.is_none() {
            let (scheme, gfns) = (&self.scheme, self.gfns());
            self.vm = Some(Vm::build_at(self.level, scheme, gfns, self.chain_len)?);
        }
        Ok(())
    }

    /// The pages of a cell: its area of a scattered ground, all of a hot one.
    fn pages_of(&self, cell: usize) -> (u64, u64) {
        let area = if self.is_scattered() { cell as u64 } else { 0 };
        (area * self.gfns_per_cell, self.gfns_per_cell)
    }

    /// Ranges that share cache lines on a scattered ground.
    #[must_use]
    pub fn lanes(&self) -> u64 {
        (LINE_PAGES / self.range_pages).max(1)
    }

    /// Bytes that a pass over one segment of a scattered ground may read, cache lines
    /// counted whole.
    #[must_use]
    pub fn walked_bytes_per_segment(&self) -> u64 {
        self.walked_bytes_per_cell() / SEGMENTS
    }

    /// Chooses what is walked next: the whole of a hot ground, or the segment
    /// of the cell's area that was walked longest ago.
    pub fn enter(&mut self, track: &mut Track) {
        let (first, pages) = self.pages_of(track.cell);
        let ranges = pages / self.range_pages;
        let starts = if self.is_scattered() {
            let (segment, trip) = track.advance();
            let lanes = self.lanes();
            let lines = ranges / lanes;
            let count = lines / SEGMENTS;
            let from = segment * count;
            let scattered =
                (from..from + count).map(move |index| scatter(index, lines) * lanes + trip % lanes);
            Box::new(scattered) as Box<dyn Iterator<Item = u64>>
        } else {
            Box::new(0..ranges)
        };
        self.starts.clear();
        self.starts
            .extend(starts.map(|range| first + range * self.range_pages));
    }

    /// Sets the Accessed bit on this share of the SPTEs of all of a cell's
    /// pages and clears it on the others.
    pub fn set_all_young(&self, track: &Track, share: f64) {
        let (first, pages) = self.pages_of(track.cell);
        if let Some(vm) = &self.vm {
            vm.set_young(first, pages, share);
        }
    }

    /// Ages all of a cell's pages: all that a walk of them reads has been read then.
    pub fn age_all(&self, track: &Track) {
        let (first, pages) = self.pages_of(track.cell);
        if let Some(vm) = &self.vm {
            std::hint::black_box(vm.mmu().age(vm::range(first, pages)));
        }
    }

    /// Callbacks in one pass over the segment entered.
    #[must_use]
    pub fn callbacks(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Like [`set_all_young`](Self::set_all_young), for the pages entered last only.
    pub fn set_young(&self, share: f64) {
        let Some(vm) = &self.vm else { return };
        for &start in &self.starts {
            vm.set_young(start, self.range_pages, share);
        }
    }

    /// First pages of the ranges entered last.
    #[must_use]
    pub fn starts(&self) -> &[u64] {
        &self.starts
    }

    /// The VM and the starts of the ranges to walk in it, if it was built.
    #[must_use]
    pub fn way(&self) -> Option<(&Vm, &[u64])> {
        Some((self.vm.as_ref()?, &self.starts))
    }
}

/// A bijection on `0..count` without visible pattern: one on the next power of
/// two, followed until it comes back below `count`.
fn scatter(index: u64, count: u64) -> u64 {
    let size = count.next_power_of_two();
    let mut x = scatter_below_power(index, size);
    while x >= count {
        x = scatter_below_power(x, size);
    }
    x
}

/// A bijection on `0..size`; `size` is a power of two.
fn scatter_below_power(index: u64, size: u64) -> u64 {
    let (mask, half) = (size - 1, size.ilog2().div_ceil(2).max(1));
    let mut x = index;
    for multiplier in [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9] {
        x = x.wrapping_mul(multiplier) & mask;
        x ^= x >> half;
    }
    x
}

/// A cell's way over its ground.
#[derive(Debug, Clone)]
pub struct Track {
    cell: usize,
    next: u64,
}

impl Track {
    /// The way of the ground's cell of that number.
    #[must_use]
    pub fn new(cell: usize) -> Self {
        Self { cell, next: 0 }
    }

    /// Whether this is the first cell of its ground.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.cell == 0
    }

    /// Segments entered so far.
    #[must_use]
    pub fn entered(&self) -> u64 {
        self.next
    }

    /// The segment that comes next, and the trip it belongs to.
    fn advance(&mut self) -> (u64, u64) {
        let next = self.next;
        self.next += 1;
        (next % SEGMENTS, next / SEGMENTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattering_is_a_bijection_without_neighbours() {
        for count in [2, 4, 32, 1 << 10, 1 << 17, 3, 96, 5000, (1 << 16) + 32] {
            let mut seen = vec![false; count as usize];
            let places: Vec<u64> = (0..count).map(|i| scatter(i, count)).collect();
            for &place in &places {
                assert!(!std::mem::replace(&mut seen[place as usize], true));
            }
            let near = places
                .windows(2)
                .filter(|p| p[0].abs_diff(p[1]) <= 8)
                .count();
            assert!(
                count < 1024 || near < count as usize / 20,
                "{near} of {count}"
            );
        }
    }

    #[test]
    fn the_cells_of_a_cold_ground_share_no_page_and_a_segment_comes_again_last() {
        let mut ground = Ground::new("any", 1, 1 << 11, 2, 2);
        let mut visits = vec![0; 1 << 12];
        for cell in 0..2 {
            let mut track = Track::new(cell);
            for _ in 0..SEGMENTS * ground.lanes() {
                ground.enter(&mut track);
                for &start in &ground.starts {
                    visits[start as usize] += 1;
                    visits[start as usize + 1] += 1;
                }
            }
        }
        assert!(visits.iter().all(|&v| v == 1));
    }

    #[test]
    fn a_trip_touches_no_cache_line_twice() {
        for range_pages in [1, 4, 8, 64] {
            let mut ground = Ground::new("any", 1, SEGMENTS * 128, range_pages, 1);
            let mut track = Track::new(0);
            for _ in 0..2 * ground.lanes() {
                let mut lines = std::collections::HashSet::new();
                for _ in 0..SEGMENTS {
                    ground.enter(&mut track);
                    for &start in &ground.starts {
                        let ends = [start, start + range_pages - 1].map(|gfn| gfn / LINE_PAGES);
                        assert!((ends[0]..=ends[1]).all(|line| lines.insert(line)));
                    }
                }
                assert_eq!(lines.len() as u64, SEGMENTS * 128 / LINE_PAGES);
            }
        }
    }

    #[test]
    fn a_cells_state_covers_exactly_the_pages_it_walks() {
        let mut ground = Ground::new("rwlock-write", 2, 1 << 9, 1, 2);
        ground.build().unwrap();
        ground.set_all_young(&Track::new(1), 0.0);
        for (cell, young) in [(0, true), (1, false)] {
            let mut track = Track::new(cell);
            for _ in 0..SEGMENTS * ground.lanes() {
                ground.enter(&mut track);
                let (vm, starts) = ground.way().unwrap();
                let found = |&s: &u64| vm.mmu().test_age(crate::workloads::vm::range(s, 1)).young;
                assert!(starts.iter().all(|s| found(s) == young));
            }
        }
    }

    #[test]
    fn a_hot_ground_is_walked_in_page_order_by_every_cell() {
        let mut ground = Ground::new("any", 1, 64, 16, 0);
        for cell in [0, 1] {
            ground.enter(&mut Track::new(cell));
            assert_eq!(ground.starts, [0, 16, 32, 48]);
        }
    }
}
