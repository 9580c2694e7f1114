//! `walk`: what one aging callback costs when nobody is in the way.
//!
//! One thread calls test_age or age on ranges of pages that all have the same
//! number of SPTEs. Range 1 is the real callback (reclaim and DAMON age page by
//! page) and is reported per callback; longer ranges are reported per gfn.
//!
//! - **hot**: the same small set of pages, at most half of the L2, walked in
//!   order over and over.
//! - **swept**: a set as large as the guest that `cargo xtask profile` records,
//!   walked in order as reclaim goes over its pages: what the set's size leaves in
//!   the caches is in them, so it is the state of the recorded callbacks.
//! - **llc**: for each cell a set of its own that the last-level cache holds and the L2
//!   does not, gone over once before a round and then visited as a cold one is: a walk
//!   that finds everything behind the L2, and nothing that a prefetcher could foresee.
//! - **cold**: for each cell a set of its own, visited in scattered order, one
//!   segment of it per pass and no cache line twice on a trip over all segments;
//!   before a round twice the last-level cache's size has been read since the set
//!   was last touched (`eviction.rs`).
//!
//! The share of young SPTEs is set outside the timed part, as the guest's
//! accesses would set it: `age` clears Accessed bits, so they are set again
//! after every pass. A round's figure is the median of its passes: a timer
//! interrupt costs the pass it falls into, not the round.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use report::schema::{Cache, Op, Params};
use rmap::Level;

use crate::disturb::ThreadWatch;
use crate::eviction::Touched;
use crate::plan::{Plan, Scale};
use crate::subject::{self, Kind};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::ground::{Ground, SEGMENTS, Track};
use crate::workloads::passes::{Passes, Timing};
use crate::workloads::vm;

/// Longest time one cell is measured in one round, both operations together.
const MOST_PER_ROUND: Duration = Duration::from_millis(40);
/// A cold set: more than a round walks and than a TLB of 4 KiB pages reaches, or
/// twice the last-level cache where that is smaller.
const COLD_BYTES: u64 = 16 << 20;
/// Times the L2 that a set in the last-level cache is: so much that little of it is in the
/// L2 when it is visited again. Where a quarter of the last-level cache is less, it is that.
const LLC_OF_L2: u64 = 8;
/// Pages of a hot set, at least and at most; the L2 decides between them.
const HOT_GFNS: (u64, u64) = (64, 1024);
/// Pages of a swept set: those of the test guest that `cargo xtask profile` starts.
const SWEPT_GFNS: u64 = 2048;
/// Chain lengths of the recordings a swept set is held against.
const SWEPT_CHAINS: [u32; 5] = [1, 4, 16, 64, 200];
/// A range of the whole hot set, and so of its slot.
const WHOLE_SLOT: u64 = HOT_GFNS.1;
/// Chain lengths around the edges of the layout, and up to KVM's limit.
const ALL_CHAINS: [u32; 14] = [0, 1, 2, 4, 8, 14, 15, 16, 32, 64, 128, 200, 256, 1000];
/// Chain lengths of peers, which are no part of the comparison with real callbacks and
/// slow to fill, in a quick run and in a full one.
const PEER_CHAINS: (&[u32], &[u32]) = (&[1, 16], &[0, 1, 2, 4, 16, 64, 256]);
/// Huge pages of a set.
const HUGE_PAGES: u64 = 2;
/// Every SPTE young: a running guest.
const YOUNG: f64 = 1.0;
/// No SPTE young: a paused guest, or the second pass of an ager.
const OLD: f64 = 0.0;

/// Chain lengths and ranges measured with one cache state and the same shares
/// of young SPTEs.
struct Grid {
    cache: Cache,
    young_shares: &'static [f64],
    range_pages: u64,
    chains: &'static [u32],
    level: Level,
    /// Whether subjects are left out that take long to fill a large set.
    only_quick_to_fill: bool,
}

/// The quick grids are for the comparison with real callbacks: young, one page,
/// and of the rest what shows its direction.
const QUICK: [Grid; 9] = [
    Grid::new(
        Cache::Hot,
        &[YOUNG],
        1,
        &[0, 1, 2, 4, 14, 15, 16, 64, 200, 256],
    ),
    Grid::new(Cache::Hot, &[OLD], 1, &[1, 4, 16, 64, 256]),
    Grid::new(Cache::Hot, &[YOUNG], 64, &[0, 1, 4, 16, 64]),
    Grid::new(Cache::Hot, &[OLD], 64, &[1, 16]),
    Grid::new(Cache::Hot, &[OLD], WHOLE_SLOT, &[1]),
    Grid::new(Cache::Swept, &[YOUNG, OLD], 1, &SWEPT_CHAINS).only_quick_to_fill(),
    Grid::new(Cache::Llc, &[YOUNG, OLD], 1, &[1, 16, 64]).only_quick_to_fill(),
    Grid::new(Cache::Cold, &[YOUNG, OLD], 1, &[1, 16, 64]).only_quick_to_fill(),
    Grid::new(Cache::Cold, &[YOUNG, OLD], 64, &[1]).only_quick_to_fill(),
];

const FULL: [Grid; 14] = [
    Grid::new(Cache::Hot, &[YOUNG, OLD], 1, &ALL_CHAINS),
    Grid::new(Cache::Hot, &[YOUNG, OLD], 64, &ALL_CHAINS),
    Grid::new(Cache::Hot, &[YOUNG, OLD], 8, &[1, 16]),
    Grid::new(Cache::Hot, &[YOUNG, OLD], 512, &[0, 1, 16]),
    Grid::new(Cache::Hot, &[YOUNG, OLD], WHOLE_SLOT, &[0, 1]),
    Grid::new(Cache::Swept, &[YOUNG, OLD], 1, &SWEPT_CHAINS).only_quick_to_fill(),
    Grid::new(Cache::Swept, &[YOUNG, OLD], 64, &SWEPT_CHAINS).only_quick_to_fill(),
    Grid::new(Cache::Llc, &[YOUNG, OLD], 1, &SWEPT_CHAINS).only_quick_to_fill(),
    Grid::new(Cache::Cold, &[YOUNG, OLD], 1, &[1, 16]),
    Grid::new(Cache::Cold, &[YOUNG, OLD], 64, &[1, 16]),
    Grid::new(Cache::Cold, &[YOUNG, OLD], 1, &[0, 2, 4, 14, 15, 64, 200]).only_quick_to_fill(),
    Grid::huge(Level::Size2M, 1, &[1, 16]),
    Grid::huge(Level::Size2M, Level::Size2M.npages(), &[1, 16]),
    Grid::huge(Level::Size1G, Level::Size1G.npages(), &[1]),
];

impl Grid {
    const fn new(
        cache: Cache,
        young_shares: &'static [f64],
        range_pages: u64,
        chains: &'static [u32],
    ) -> Self {
        Self {
            cache,
            young_shares,
            range_pages,
            chains,
            level: Level::Size4K,
            only_quick_to_fill: false,
        }
    }

    /// Old huge pages in a small set: a callback of one 4K page, or of one huge page.
    const fn huge(level: Level, range_pages: u64, chains: &'static [u32]) -> Self {
        Self {
            level,
            ..Self::new(Cache::Hot, &[OLD], range_pages, chains)
        }
    }

    const fn only_quick_to_fill(self) -> Self {
        Self {
            only_quick_to_fill: true,
            ..self
        }
    }

    /// The subjects measured with chains of this length.
    fn subjects(&self, plan: &Plan, chain_len: u32) -> Vec<String> {
        let whole_empty_slot = chain_len == 0 && self.range_pages == WHOLE_SLOT;
        let for_peers = match plan.scale {
            Scale::Quick => PEER_CHAINS.0.contains(&chain_len),
            Scale::Full => PEER_CHAINS.1.contains(&chain_len),
        };
        subject::keep(&plan.schemes, |s| {
            chain_len <= s.max_aliases
                && (s.kind != Kind::Peer || for_peers)
                && (s.quick_to_fill || !self.only_quick_to_fill)
                && (whole_empty_slot || !s.reads_heads_only)
                && (s.huge_pages || self.level == Level::Size4K)
        })
    }
}

fn grids(scale: Scale) -> &'static [Grid] {
    match scale {
        Scale::Quick => &QUICK,
        Scale::Full => &FULL,
    }
}

/// The workload.
pub struct Walk;

impl Workload for Walk {
    fn name(&self) -> &'static str {
        "walk"
    }

    fn summary(&self) -> &'static str {
        "test_age and age by chain length, uncontended, hot and cold caches"
    }

    fn least_cpus(&self) -> usize {
        1
    }

    fn weight(&self) -> u32 {
        40
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let grids = grids(plan.scale);
        plan.keep_chains(self.name(), grids[0].chains)?;
        let mut cells = Vec::new();
        let mut family = 0;
        for grid in grids {
            for chain_len in plan.chains_of(grid.chains) {
                for scheme in &grid.subjects(plan, chain_len) {
                    add_cells(&mut cells, plan, scheme, grid, chain_len, family);
                }
                family += 1;
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        Ok(cells
            .into_iter()
            .map(|cell| cell.finish(plan, slice))
            .collect())
    }
}

/// The cells of one scheme, chain length and range, one per young share. They
/// share a ground.
fn add_cells(
    cells: &mut Vec<WalkCell>,
    plan: &Plan,
    scheme: &str,
    grid: &Grid,
    chain_len: u32,
    family: u32,
) {
    let (cache, range_pages) = (grid.cache, grid.range_pages);
    let gfns = match grid.level {
        Level::Size4K => set_gfns(plan, cache, chain_len, range_pages),
        level => HUGE_PAGES * level.npages(),
    };
    // A page without SPTEs is neither young nor old.
    let shares = if chain_len == 0 {
        &grid.young_shares[..1]
    } else {
        grid.young_shares
    };
    let areas = if is_scattered(cache) { shares.len() } else { 0 };
    let ground = Ground::new(scheme, chain_len, gfns, range_pages, areas).at(grid.level);
    let ground = Rc::new(RefCell::new(ground));
    for (cell, &young_share) in shares.iter().enumerate() {
        cells.push(WalkCell {
            ground: Rc::clone(&ground),
            track: Track::new(cell),
            cache,
            young_share,
            family,
            passes: Passes::new(plan.clock),
            touched: Touched::default(),
        });
    }
}

/// Pages of one cell's set, which segments and ranges divide.
fn set_gfns(plan: &Plan, cache: Cache, chain_len: u32, range_pages: u64) -> u64 {
    let each = vm::walked_bytes_per_gfn(chain_len);
    match cache {
        Cache::Hot => {
            let fits = (plan.caches.l2_bytes / 2 / each).max(1);
            let fits = (1_u64 << fits.ilog2()).clamp(HOT_GFNS.0, HOT_GFNS.1);
            fits.max(range_pages)
        }
        Cache::Swept => SWEPT_GFNS,
        Cache::Llc => {
            let bytes = (plan.caches.l2_bytes * LLC_OF_L2).min(plan.caches.llc_bytes / 4);
            whole_trips(bytes.div_ceil(each), range_pages)
        }
        Cache::Cold => {
            let bytes = COLD_BYTES.min(plan.caches.llc_bytes * 2);
            whole_trips(bytes.div_ceil(each), range_pages)
        }
    }
}

/// Pages of a scattered set, at least so many.
fn whole_trips(gfns: u64, range_pages: u64) -> u64 {
    gfns.next_multiple_of(SEGMENTS * HOT_GFNS.0.max(range_pages))
}

/// Whether a set is visited in scattered order, by each cell one of its own.
fn is_scattered(cache: Cache) -> bool {
    matches!(cache, Cache::Llc | Cache::Cold)
}

/// Memory a ground takes. Huge pages leave the tables below them out, and no cell
/// of theirs is large.
fn resident_bytes(ground: &Ground) -> u64 {
    match ground.level {
        Level::Size4K => vm::resident_bytes(ground.gfns(), ground.chain_len),
        _ => vm::resident_bytes(ground.gfns(), 0),
    }
}

/// One young share of one ground.
struct WalkCell {
    ground: Rc<RefCell<Ground>>,
    track: Track,
    cache: Cache,
    young_share: f64,
    family: u32,
    passes: Passes,
    /// When a cold set was last walked.
    touched: Touched,
}

impl WalkCell {
    fn finish(mut self, plan: &Plan, slice: Duration) -> Cell {
        self.passes.set_slice(slice / 2);
        let ground = self.ground.borrow();
        let chain_len = ground.chain_len;
        let params = Params {
            chain_len: Some(chain_len),
            range_pages: Some(ground.range_pages),
            level: Some(ground.level.index() as u8 + 1),
            young_share: (chain_len > 0).then_some(self.young_share),
            cache: Some(self.cache),
            working_set_bytes: Some(ground.walked_bytes_per_cell()),
            slot_pages: Some(ground.gfns()),
            cpus: Some(vec![plan.cpus.leader() as u32]),
            ..Params::default()
        };
        // The cells of one ground share its memory: the first answers for it.
        let resident_bytes = if self.track.is_first() {
            resident_bytes(&ground)
        } else {
            0
        };
        let scheme = ground.scheme.clone();
        drop(ground);
        Cell {
            scheme,
            params,
            family: self.family,
            resident_bytes,
            measure: Box::new(self),
        }
    }
}

impl WalkCell {
    /// The figure per SPTE, where there are several to a page, of one page or a range
    /// of 64, and all are visited: none of them is young.
    fn per_spte(&self, ground: &Ground, reading: &Reading) -> Option<Reading> {
        let told = ground.chain_len > 1
            && matches!(ground.range_pages, 1 | 64)
            && ground.level == Level::Size4K
            && self.young_share == OLD;
        let ns = reading.value / f64::from(ground.chain_len);
        told.then(|| Reading::new(reading.op, "ns_per_spte", ns))
    }
}

impl Measure for WalkCell {
    fn prepare(&mut self) -> Result<()> {
        let mut ground = self.ground.borrow_mut();
        ground.build()?;
        ground.set_all_young(&self.track, self.young_share);
        Ok(())
    }

    fn measure(&mut self, tools: &mut Tools) -> Result<Measured> {
        let mut ground = self.ground.borrow_mut();
        let entered = self.track.entered();
        match self.cache {
            Cache::Cold => tools.evictor.evict(self.touched),
            // Goes over all of it, and leaves it as it was.
            Cache::Llc => {
                ground.age_all(&self.track);
                ground.set_all_young(&self.track, self.young_share);
            }
            Cache::Hot | Cache::Swept => {}
        }
        let watch = ThreadWatch::start();
        let mut readings = Vec::with_capacity(4);
        for op in [Op::TestAge, Op::Age] {
            let timing = Timing {
                op,
                young_share: self.young_share,
                repeatable: !is_scattered(self.cache)
                    && (op == Op::TestAge || self.young_share == 0.0),
            };
            let reading = self
                .passes
                .run(timing, &mut ground, &mut self.track, tools)?;
            let per_spte = self.per_spte(&ground, &reading);
            readings.push(reading);
            readings.extend(per_spte);
        }
        let threads = vec![watch.stop()];
        if self.cache == Cache::Cold {
            let segments = self.track.entered() - entered;
            let bytes = segments * ground.walked_bytes_per_segment();
            self.touched = tools.evictor.touch(bytes);
        }
        Ok(Measured { readings, threads })
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
