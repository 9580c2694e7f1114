//! `accuracy`: how often a scheme's answer is wrong.
//!
//! One thread makes a page old, perhaps uses it as the guest would, asks with
//! test_age or age whether it is young, and knows the truth; others meanwhile
//! zap and fault SPTEs of the same pages, at a pace or back to back. Each judged
//! page has one SPTE that stays mapped, its anchor, through which alone the judge
//! uses it, so a page just used *is* young, whatever the others do to the rest of
//! its chain. A page not used is old unless a fault made it young meanwhile,
//! which a ledger tells; where it cannot, the callback counts as undecided and
//! for nothing else.
//!
//! Every second page is judged; on the others the churning threads zap and fault
//! all SPTEs, so that schemes without chains see mutators too. Shares are counted
//! over all rounds and printed with their intervals. `deferred_descs_peak` is the
//! most descriptors (128 bytes each) seen waiting for readers at one time.

use std::time::Duration;

use anyhow::{Context as _, Result};
use report::schema::{Op, Params};
use rmap::{Access, Mmu, Vcpu};

use crate::clock::Clock;
use crate::duty::Roster;
use crate::mmu_lock;
use crate::plan::{Plan, Scale};
use crate::rng::Rng;
use crate::subject;
use crate::team::{self, Member};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::vm;

mod ledger;
mod threads;

use ledger::Ledger;
use threads::{Page, Part, Stage, Verdicts};

/// Longest time one cell is measured in one round.
const MOST_PER_ROUND: Duration = Duration::from_millis(40);
/// Pages of a slot in which judge and churning threads meet now and then.
const MANY_PAGES: u64 = 64;
/// Pages of a slot in which they meet all the time: one is judged.
const FEW_PAGES: u64 = 2;

/// A chain-length mix: SPTEs and the percentage of pages that have as many.
type Mix = &'static [(u32, u32)];

/// What is varied: mixes, what the churning threads do, and chances that a page
/// was used.
struct Grid {
    mixes: &'static [Mix],
    churns: &'static [Churn],
    young_shares: &'static [f64],
}

/// How many pages there are and how often one is changed.
#[derive(Debug, Clone, Copy)]
struct Churn {
    pages: u64,
    /// `None`: nobody changes anything.
    interval: Option<Duration>,
}

const fn churn(pages: u64, interval: Option<Duration>) -> Churn {
    Churn { pages, interval }
}

/// The control.
const QUIET: Churn = churn(MANY_PAGES, None);
const PACED: Churn = churn(MANY_PAGES, Some(Duration::from_micros(20)));
const BACK_TO_BACK: Churn = churn(MANY_PAGES, Some(Duration::ZERO));
/// The worst there is: one rmap changes all the time.
const ONE_RMAP: Churn = churn(FEW_PAGES, Some(Duration::ZERO));

const QUICK: Grid = Grid {
    mixes: &[&[(1, 100)], &[(16, 100)]],
    churns: &[QUIET, ONE_RMAP],
    young_shares: &[0.5],
};

const FULL: Grid = Grid {
    mixes: &[
        &[(1, 100)],
        &[(2, 100)],
        &[(4, 100)],
        &[(16, 100)],
        &[(64, 100)],
        &[(1, 90), (4, 9), (16, 1)],
    ],
    churns: &[QUIET, PACED, BACK_TO_BACK, ONE_RMAP],
    young_shares: &[0.1, 0.9],
};

/// The workload.
pub struct Accuracy;

impl Workload for Accuracy {
    fn name(&self) -> &'static str {
        "accuracy"
    }

    fn summary(&self) -> &'static str {
        "false-old and false-young answers beside mutators, against the truth"
    }

    fn least_cpus(&self) -> usize {
        2
    }

    fn weight(&self) -> u32 {
        6
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let grid = match plan.scale {
            Scale::Quick => &QUICK,
            Scale::Full => &FULL,
        };
        let longest: Vec<u32> = grid.mixes.iter().map(|mix| longest(mix)).collect();
        let kept = plan.keep_chains(self.name(), &longest)?;
        let mut cells = Vec::new();
        for (family, mix) in grid.mixes.iter().enumerate() {
            if !kept.contains(&longest[family]) {
                continue;
            }
            for &churn in grid.churns {
                for &young_share in grid.young_shares {
                    for scheme in &subject::lock_schemes(&plan.schemes) {
                        let cell = AccuracyCell::new(plan, scheme, mix, churn, young_share)?;
                        cells.extend(cell.map(|cell| (family as u32, cell)));
                    }
                }
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        Ok(cells
            .into_iter()
            .map(|(family, cell)| cell.into_cell(family, slice))
            .collect())
    }
}

fn longest(mix: Mix) -> u32 {
    mix.iter()
        .map(|&(chain_len, _)| chain_len)
        .max()
        .unwrap_or(0)
}

/// The chain lengths of 100 pages in random order, as the mix has it.
fn deal(mix: Mix, rng: &mut Rng) -> Vec<u32> {
    let mut hand: Vec<u32> = mix
        .iter()
        .flat_map(|&(chain_len, percent)| std::iter::repeat_n(chain_len, percent as usize))
        .collect();
    rng.shuffle(&mut hand);
    hand
}

struct AccuracyCell {
    scheme: String,
    mix: Mix,
    churn: Churn,
    young_share: f64,
    cpus: Vec<usize>,
    clock: Clock,
    slice: Duration,
    rng: Rng,
    pages: Vec<Page>,
    mmu: Option<Box<dyn Mmu>>,
}

impl AccuracyCell {
    /// `None` if the scheme has no rmaps as long as the mix wants them.
    fn new(
        plan: &Plan,
        scheme: &str,
        mix: Mix,
        churn: Churn,
        young_share: f64,
    ) -> Result<Option<Self>> {
        let info =
            rmap::scheme(scheme).with_context(|| format!("there is no scheme '{scheme}'"))?;
        let most = info.max_aliases();
        if longest(mix) > most {
            return Ok(None);
        }
        let mut rng = Rng::new(plan.seed);
        let hand = deal(mix, &mut rng);
        let page = |gfn: u64| {
            let chain_len = hand[gfn as usize % hand.len()];
            Page {
                chain_len,
                anchor: gfn
                    .is_multiple_of(2)
                    .then(|| rng.below(u64::from(chain_len)) as u32),
                spare: chain_len < most,
            }
        };
        let pages = (0..churn.pages).map(page).collect();
        let threads = if churn.interval.is_some() { 2 } else { 1 };
        Ok(Some(Self {
            scheme: scheme.to_owned(),
            mix,
            churn,
            young_share,
            cpus: plan.cpus.first(threads)?.to_vec(),
            clock: plan.clock,
            slice: MOST_PER_ROUND,
            rng,
            pages,
            mmu: None,
        }))
    }

    fn into_cell(mut self, family: u32, slice: Duration) -> Cell {
        self.slice = slice;
        let uniform = match self.mix {
            [(chain_len, _)] => Some(*chain_len),
            _ => None,
        };
        let mix = || {
            let part = |(chain_len, percent): &(u32, u32)| format!("{chain_len}:{percent}");
            self.mix.iter().map(part).collect::<Vec<_>>().join(",")
        };
        let params = Params {
            chain_len: uniform,
            chain_mix: uniform.is_none().then(mix),
            range_pages: Some(1),
            level: Some(1),
            young_share: Some(self.young_share),
            slot_pages: Some(self.churn.pages),
            agers: Some(1),
            vcpus: Some(u32::from(self.churn.interval.is_some())),
            op_interval_ns: self
                .churn
                .interval
                .map(|interval| interval.as_nanos() as u64),
            cpus: Some(self.cpus.iter().map(|&cpu| cpu as u32).collect()),
            ..Params::default()
        };
        Cell {
            scheme: self.scheme.clone(),
            params,
            family,
            resident_bytes: vm::resident_bytes(self.churn.pages, longest(self.mix) + 1),
            measure: Box::new(self),
        }
    }
}

impl Measure for AccuracyCell {
    fn prepare(&mut self) -> Result<()> {
        let info = rmap::scheme(&self.scheme).context("the scheme is gone")?;
        let aliases = info.aliases(longest(self.mix) + 1);
        let mmu = (info.build)(&mmu_lock::config(self.churn.pages, aliases))?;
        let mut vcpu = Vcpu::new();
        for (gfn, page) in (0..).zip(&self.pages) {
            for alias in 0..page.chain_len {
                mmu.fault(&mut vcpu, vm::mapping(gfn, alias), Access::Write)?;
            }
        }
        self.mmu = Some(mmu);
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let mmu = self.mmu.as_deref().context("the pages were not mapped")?;
        let (ledger, judging) = (Ledger::new(self.churn.pages), Roster::default());
        let stage = Stage {
            mmu,
            pages: &self.pages,
            ledger: &ledger,
            clock: self.clock,
            slice: self.slice,
            interval: self.churn.interval.unwrap_or_default(),
            young_share: self.young_share,
            judging: &judging,
        };
        let stage = &stage;
        let seeds = (self.rng.next_u64(), self.rng.next_u64());
        let mut members: Vec<Member<'_, Result<Part>>> =
            vec![Box::new(move |seat| stage.judge(seat, seeds.0))];
        if self.churn.interval.is_some() {
            members.push(Box::new(move |seat| stage.churn(seat, seeds.1)));
        }
        let parts: Result<Vec<Part>> = team::run(&self.cpus, members)?.into_iter().collect();
        let parts = parts?;
        mmu.verify()?;
        let judged = parts.first().context("nobody judged")?;
        let mut readings = readings(Op::TestAge, &judged.test_age);
        readings.extend(self::readings(Op::Age, &judged.age));
        let peak = judged.deferred_peak as f64;
        readings.push(Reading::new(Op::Zap, "deferred_descs_peak", peak));
        Ok(Measured {
            readings,
            threads: parts.into_iter().map(|part| part.disturbance).collect(),
        })
    }
}

fn readings(op: Op, verdicts: &Verdicts) -> Vec<Reading> {
    [
        ("false_old", verdicts.false_old),
        ("false_young", verdicts.false_young),
        ("undecided", verdicts.undecided),
    ]
    .into_iter()
    .filter_map(|(metric, counts)| Reading::share(op, metric, counts))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    /// Wrong answers of all kinds: of young pages, of old pages.
    fn wrong(scheme: &str, mix: Mix, churn: Churn) -> [u64; 2] {
        let plan = plan();
        let cell = AccuracyCell::new(&plan, scheme, mix, churn, 0.5).unwrap();
        let mut cell = cell.unwrap();
        cell.slice = Duration::from_millis(30);
        cell.prepare().unwrap();
        let mut tools = Tools::of_tests();
        let measured = cell.measure(&mut tools).unwrap();
        ["false_old", "false_young"].map(|metric| {
            let of_metric = measured.readings.iter().filter(|r| r.metric == metric);
            let counts: Vec<_> = of_metric.map(|r| r.counts.unwrap()).collect();
            assert_eq!(counts.len(), 2, "{scheme}: test_age and age");
            assert!(counts.iter().all(|c| c.trials > 0), "{scheme}");
            counts.iter().map(|c| c.hits).sum()
        })
    }

    #[test]
    fn i_young_an_exact_scheme_is_never_wrong_without_mutators() {
        for scheme in rmap::schemes().iter().filter(|s| s.exact) {
            let longest = scheme.aliases(16);
            let mix: Mix = if longest < 16 {
                &[(1, 100)]
            } else {
                &[(16, 100)]
            };
            assert_eq!(wrong(scheme.name, mix, QUIET), [0, 0], "{}", scheme.name);
        }
    }

    #[test]
    fn i_young_a_consistent_scheme_is_never_wrong_beside_mutators() {
        if plan().cpus.as_slice().len() < 2 {
            return;
        }
        for scheme in rmap::schemes().iter().filter(|s| s.exact && s.consistent) {
            let mix: Mix = if scheme.max_aliases() < 4 {
                &[(1, 100)]
            } else {
                &[(4, 100)]
            };
            let [false_old, _] = wrong(scheme.name, mix, BACK_TO_BACK);
            assert_eq!(false_old, 0, "{}", scheme.name);
        }
    }

    #[test]
    fn a_scheme_that_skips_long_chains_is_caught() {
        let [false_old, false_young] = wrong("single-skip", &[(4, 100)], QUIET);
        assert!(false_old > 100, "{false_old}");
        assert_eq!(false_young, 0);
        assert_eq!(wrong("single-skip", &[(1, 100)], QUIET), [0, 0]);
    }

    #[test]
    fn a_mix_deals_what_it_says() {
        let hand = deal(&[(1, 90), (4, 9), (16, 1)], &mut Rng::new(3));
        let of = |len| hand.iter().filter(|&&l| l == len).count();
        assert_eq!((of(1), of(4), of(16)), (90, 9, 1));
    }
}
