//! The pages a `walk` cell goes over, and in which order.
//!
//! A ground is a VM whose pages all have chains of one length, cut into
//! segments. A hot ground is one segment in page order. A cold ground has
//! [`SEGMENTS`], and its ranges are scattered over them by a fixed bijection, so
//! that neither a prefetcher nor a neighbour's cache line helps.
//!
//! Invariant: every range belongs to exactly one segment, and every segment to
//! exactly one [`Track`], so no cell ever finds a page in a state that another
//! cell left it in, except on a hot ground, where a cell sets the state itself
//! before each measurement.

use anyhow::Result;

use crate::workloads::vm::Vm;

/// Segments of a cold ground.
pub const SEGMENTS: usize = 32;

/// A VM and the way through its pages.
pub struct Ground {
    /// Name of the scheme.
    pub scheme: String,
    /// SPTEs of every page.
    pub chain_len: u32,
    /// Pages, a power of two.
    pub gfns: u64,
    /// Pages of one callback, a power of two.
    pub range_pages: u64,
    segments: usize,
    vm: Option<Vm>,
    /// First pages of the ranges of the segment entered last.
    starts: Vec<u64>,
}

impl Ground {
    /// Plans a ground; [`build`](Self::build) makes it.
    #[must_use]
    pub fn new(scheme: &str, chain_len: u32, gfns: u64, range_pages: u64, segments: usize) -> Self {
        let ranges = (gfns / range_pages) as usize / segments;
        Self {
            scheme: scheme.to_owned(),
            chain_len,
            gfns,
            range_pages,
            segments,
            vm: None,
            starts: Vec::with_capacity(ranges),
        }
    }

    /// Maps all pages, unless that was done.
    ///
    /// # Errors
    /// When the model refuses a mapping.
    pub fn build(&mut self) -> Result<()> {
        if self.vm.is_none() {
            self.vm = Some(Vm::build(&self.scheme, self.gfns, self.chain_len)?);
        }
        Ok(())
    }

    /// Makes a segment the one that is walked next.
    pub fn enter(&mut self, segment: usize) {
        let ranges = self.gfns / self.range_pages;
        let per_segment = ranges / self.segments as u64;
        let first = segment as u64 * per_segment;
        let scattered = self.segments > 1;
        let range = |index| {
            if scattered {
                scatter(index, ranges)
            } else {
                index
            }
        };
        self.starts.clear();
        self.starts
            .extend((first..first + per_segment).map(|i| range(i) * self.range_pages));
    }

    /// Callbacks in one pass over the segment entered.
    #[must_use]
    pub fn callbacks(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Sets the Accessed bit on this share of the segment's SPTEs and clears
    /// it on the others.
    pub fn set_young(&self, share: f64) {
        let Some(vm) = &self.vm else { return };
        for &start in &self.starts {
            vm.set_young(start, self.range_pages, share);
        }
    }

    /// The VM and the starts of the ranges to walk in it, if it was built.
    #[must_use]
    pub fn way(&self) -> Option<(&Vm, &[u64])> {
        Some((self.vm.as_ref()?, &self.starts))
    }
}

/// A bijection on `0..count` without visible pattern; `count` is a power of two.
fn scatter(index: u64, count: u64) -> u64 {
    let (mask, half) = (count - 1, count.ilog2().div_ceil(2).max(1));
    let mut x = index;
    for multiplier in [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9] {
        x = x.wrapping_mul(multiplier) & mask;
        x ^= x >> half;
    }
    x
}

/// The segments of a ground that one cell walks, in turn.
#[derive(Debug, Clone)]
pub struct Track {
    turn: usize,
    turns: usize,
    segments: usize,
    next: usize,
}

impl Track {
    /// Segments `turn`, `turn + turns`, …; a ground of one segment is walked by
    /// all.
    #[must_use]
    pub fn new(turn: usize, turns: usize, segments: usize) -> Self {
        Self {
            turn,
            turns,
            segments,
            next: 0,
        }
    }

    /// Whether this is the first cell of its ground.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.turn == 0
    }

    /// The track's segments.
    #[must_use]
    pub fn all(&self) -> Vec<usize> {
        if self.segments == 1 {
            return vec![0];
        }
        (self.turn..self.segments).step_by(self.turns).collect()
    }

    /// The segment to walk next: the one that was walked longest ago.
    pub fn advance(&mut self) -> usize {
        let all = self.all();
        let segment = all[self.next % all.len()];
        self.next += 1;
        segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattering_is_a_bijection_without_neighbours() {
        for bits in [1, 2, 5, 10, 17] {
            let count = 1_u64 << bits;
            let mut seen = vec![false; count as usize];
            let places: Vec<u64> = (0..count).map(|i| scatter(i, count)).collect();
            for &place in &places {
                assert!(!std::mem::replace(&mut seen[place as usize], true));
            }
            let near = places
                .windows(2)
                .filter(|p| p[0].abs_diff(p[1]) <= 8)
                .count();
            assert!(bits < 10 || near < count as usize / 20, "{near} of {count}");
        }
    }

    #[test]
    fn the_tracks_of_a_cold_ground_share_no_page_and_leave_none_out() {
        let mut ground = Ground::new("any", 1, 1 << 12, 2, SEGMENTS);
        let mut visits = vec![0; 1 << 12];
        for turn in 0..3 {
            for segment in Track::new(turn, 3, SEGMENTS).all() {
                ground.enter(segment);
                for &start in &ground.starts {
                    visits[start as usize] += 1;
                    visits[start as usize + 1] += 1;
                }
            }
        }
        assert!(visits.iter().all(|&v| v == 1));
    }

    #[test]
    fn a_segment_comes_again_only_after_all_others() {
        let mut track = Track::new(1, 2, SEGMENTS);
        let walked: Vec<_> = (0..16).map(|_| track.advance()).collect();
        assert_eq!(walked, (1..SEGMENTS).step_by(2).collect::<Vec<_>>());
        assert_eq!(track.advance(), 1);
    }

    #[test]
    fn a_hot_ground_is_walked_in_page_order() {
        let mut ground = Ground::new("any", 1, 64, 16, 1);
        ground.enter(0);
        assert_eq!(ground.starts, [0, 16, 32, 48]);
        assert_eq!(Track::new(1, 2, 1).all(), [0]);
    }
}
