//! `lookaround`: what MGLRU believes of a page's neighbours after a fast answer.
//!
//! One page is young in its first SPTE, which is the TDP MMU's under the schemes
//! that have one. Of its neighbours half were used, through the first SPTE (`tdp`),
//! or only through one (`shadow_only`) or two (`shadow_chain`) further SPTEs, which
//! are nested guests' and have rmaps. Then MGLRU's lookaround runs and its beliefs
//! are held against what was used: the oracle that sees both MMUs. Nothing else
//! runs, so every difference is the scheme's own.
//!
//! * `not_done`: lookarounds that did not happen, because the answer was not fast.
//! * `missed`: used neighbours taken for old, of those looked at.
//! * `imagined`: unused neighbours taken for young.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use report::proportion::Counts;
use report::schema::{Op, Params};
use rmap::{Access, Gfn, GfnRange, LOOKAROUND_PAGES, Mmu, RmapError, Vcpu};

use crate::disturb::ThreadWatch;
use crate::mmu_lock;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::vm;

/// Longest time one cell is measured in one round.
const MOST_PER_ROUND: Duration = Duration::from_millis(10);
/// Share of the neighbours that were used.
const USED: f64 = 0.5;
/// The page asked about: in the middle of the window.
const PAGE: u64 = LOOKAROUND_PAGES / 2;

/// Where the neighbours are young.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Where {
    name: &'static str,
    /// SPTEs of every page.
    chain_len: u32,
    /// The alias through which the guest used the neighbours.
    used_alias: u32,
}

const WHERES: [Where; 3] = [
    Where {
        name: "tdp",
        chain_len: 2,
        used_alias: 0,
    },
    Where {
        name: "shadow_only",
        chain_len: 2,
        used_alias: 1,
    },
    Where {
        name: "shadow_chain",
        chain_len: 3,
        used_alias: 2,
    },
];

/// The workload.
pub struct Lookaround;

impl Workload for Lookaround {
    fn name(&self) -> &'static str {
        "lookaround"
    }

    fn summary(&self) -> &'static str {
        "MGLRU's beliefs about a young page's neighbours, against an oracle"
    }

    fn least_cpus(&self) -> usize {
        1
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let lengths = WHERES.map(|place| place.chain_len);
        let kept = plan.keep_chains(self.name(), &lengths)?;
        let mut cells = Vec::new();
        for (family, place) in WHERES.into_iter().enumerate() {
            for scheme in plan.schemes.iter().filter_map(|name| rmap::scheme(name)) {
                if kept.contains(&place.chain_len) && place.chain_len <= scheme.max_aliases() {
                    cells.push((family as u32, place, scheme));
                }
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        let cell = |(family, place, scheme): (u32, Where, &'static rmap::SchemeInfo)| Cell {
            scheme: scheme.name.to_owned(),
            params: Params {
                chain_len: Some(place.chain_len),
                young_in: Some(place.name.to_owned()),
                young_share: Some(USED),
                range_pages: Some(1),
                level: Some(1),
                slot_pages: Some(LOOKAROUND_PAGES),
                agers: Some(1),
                ..Params::default()
            },
            family,
            resident_bytes: vm::resident_bytes(LOOKAROUND_PAGES, place.chain_len),
            measure: Box::new(LookaroundCell {
                scheme,
                place,
                slice,
                rng: Rng::new(plan.seed),
                mmu: None,
            }),
        };
        Ok(cells.into_iter().map(cell).collect())
    }
}

struct LookaroundCell {
    scheme: &'static rmap::SchemeInfo,
    place: Where,
    slice: Duration,
    rng: Rng,
    mmu: Option<Box<dyn Mmu>>,
}

/// What lookarounds believed.
#[derive(Debug, Default)]
struct Beliefs {
    not_done: Counts,
    missed: Counts,
    imagined: Counts,
}

impl Measure for LookaroundCell {
    fn prepare(&mut self) -> Result<()> {
        let config = mmu_lock::config(LOOKAROUND_PAGES, self.place.chain_len);
        let mmu = (self.scheme.build)(&config)?;
        map_all(&*mmu, self.place.chain_len)?;
        self.mmu = Some(mmu);
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let mmu = self.mmu.as_deref().context("the pages were not mapped")?;
        let watch = ThreadWatch::start();
        let (start, mut beliefs) = (Instant::now(), Beliefs::default());
        while start.elapsed() < self.slice {
            look_once(mmu, self.place, &mut self.rng, &mut beliefs);
        }
        let readings = [
            ("not_done", beliefs.not_done),
            ("missed", beliefs.missed),
            ("imagined", beliefs.imagined),
        ];
        Ok(Measured {
            readings: readings
                .into_iter()
                .filter_map(|(metric, counts)| Reading::share(Op::Age, metric, counts))
                .collect(),
            threads: vec![watch.stop()],
        })
    }
}

fn map_all(mmu: &dyn Mmu, chain_len: u32) -> Result<(), RmapError> {
    let mut vcpu = Vcpu::new();
    for gfn in 0..LOOKAROUND_PAGES {
        for alias in 0..chain_len {
            mmu.fault(&mut vcpu, vm::mapping(gfn, alias), Access::Read)?;
        }
    }
    Ok(())
}

/// Makes all pages old, uses some, and lets lookaround judge.
fn look_once(mmu: &dyn Mmu, place: Where, rng: &mut Rng, beliefs: &mut Beliefs) {
    let vma = vm::range(0, LOOKAROUND_PAGES);
    mmu.set_young_share(vma, 0, 0);
    mmu.touch(vm::mapping(PAGE, 0));
    let used = rng.next_u64() & !(1 << PAGE);
    let was_used = |gfn: u64| used >> gfn & 1 != 0;
    for gfn in (0..LOOKAROUND_PAGES).filter(|&gfn| was_used(gfn)) {
        mmu.touch(vm::mapping(gfn, place.used_alias));
    }
    let around = rmap::lookaround(mmu, Gfn(PAGE), vma);
    let GfnRange { start, end } = around.window;
    beliefs.not_done.add(one(start == end));
    for gfn in (start.0..end.0).filter(|&gfn| gfn != PAGE) {
        let believed = around.believes_young(Gfn(gfn));
        if was_used(gfn) {
            beliefs.missed.add(one(!believed));
        } else {
            beliefs.imagined.add(one(believed));
        }
    }
}

fn one(hit: bool) -> Counts {
    Counts {
        hits: u64::from(hit),
        trials: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beliefs(scheme: &str, place: Where) -> Beliefs {
        let scheme = rmap::scheme(scheme).unwrap();
        let config = mmu_lock::config(LOOKAROUND_PAGES, place.chain_len);
        let mmu = (scheme.build)(&config).unwrap();
        map_all(&*mmu, place.chain_len).unwrap();
        let (mut beliefs, mut rng) = (Beliefs::default(), Rng::new(1));
        for _ in 0..20 {
            look_once(&*mmu, place, &mut rng, &mut beliefs);
        }
        beliefs
    }

    #[test]
    fn where_both_mmus_are_asked_lookaround_knows_what_the_oracle_knows() {
        for place in WHERES {
            let Beliefs {
                not_done,
                missed,
                imagined,
            } = beliefs("tiered", place);
            assert_eq!((not_done.hits, not_done.trials), (0, 20));
            assert!(missed.trials > 300 && imagined.trials > 300);
            assert_eq!((missed.hits, imagined.hits), (0, 0), "{}", place.name);
        }
    }

    #[test]
    fn a_fast_answer_hides_the_neighbours_chains() {
        let [tdp, shadow_only, shadow_chain] = WHERES.map(|w| beliefs("tiered-was-fast", w));
        assert_eq!((tdp.missed.hits, shadow_only.missed.hits), (0, 0));
        assert_eq!(shadow_chain.missed.hits, shadow_chain.missed.trials);
        assert_eq!(shadow_chain.imagined.hits, 0);
    }

    #[test]
    fn a_scheme_that_is_never_fast_is_left_out_of_lookaround() {
        let beliefs = beliefs("rwlock-write", WHERES[0]);
        assert_eq!((beliefs.not_done.hits, beliefs.missed.trials), (20, 0));
    }
}
