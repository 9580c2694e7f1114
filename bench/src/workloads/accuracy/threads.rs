//! The two kinds of threads of an accuracy cell: one judges, the others churn.

use std::time::Duration;

use anyhow::{Context as _, Result};
use report::proportion::Counts;
use rmap::{Access, Mmu, RmapError, Vcpu};

use super::ledger::Ledger;
use crate::clock::Clock;
use crate::disturb::ThreadDisturbance;
use crate::duty::Roster;
use crate::rng::Rng;
use crate::team::Seat;
use crate::workloads::vm;

/// Pages judged between two looks at the clock.
const BATCH: u32 = 16;

/// SPTEs of one page that are zapped before the first of them is faulted in again.
const MOST_ZAPPED: usize = 4;

/// What one page looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// SPTEs that map it while nothing is under way.
    pub(super) chain_len: u32,
    /// The alias that stays mapped and through which the guest uses the page;
    /// `None` on pages whose every SPTE comes and goes, which nobody judges.
    pub(super) anchor: Option<u32>,
    /// Whether one alias more may be mapped for a moment.
    pub(super) spare: bool,
}

impl Page {
    /// An alias that may be zapped or mapped, if the page has any.
    fn restless_alias(&self, rng: &mut Rng) -> Option<u32> {
        let aliases = self.chain_len + u32::from(self.spare);
        let Some(anchor) = self.anchor else {
            return (aliases > 0).then(|| rng.below(u64::from(aliases)) as u32);
        };
        let others = aliases.checked_sub(1).filter(|n| *n > 0)?;
        Some((anchor + 1 + rng.below(u64::from(others)) as u32) % aliases)
    }
}

/// What the judged callbacks of one kind said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    /// Of the pages that were young, those reported old.
    pub(super) false_old: Counts,
    /// Of the pages that were old, those reported young.
    pub(super) false_young: Counts,
    /// Of all callbacks, those whose truth nobody can know.
    pub(super) undecided: Counts,
}

impl Verdicts {
    fn take(&mut self, truth: Option<bool>, young: bool) {
        let one = |hit: bool| Counts {
            hits: u64::from(hit),
            trials: 1,
        };
        self.undecided.add(one(truth.is_none()));
        match truth {
            Some(true) => self.false_old.add(one(!young)),
            Some(false) => self.false_young.add(one(young)),
            None => {}
        }
    }
}

/// What all threads of a cell share.
pub(super) struct Stage<'a> {
    pub(super) mmu: &'a dyn Mmu,
    pub(super) pages: &'a [Page],
    pub(super) ledger: &'a Ledger,
    pub(super) clock: Clock,
    pub(super) slice: Duration,
    /// Time from one change of a churning thread to the next.
    pub(super) interval: Duration,
    /// Chance that the guest used a page before it is aged.
    pub(super) young_share: f64,
    /// Empty when the judge has finished.
    pub(super) judging: &'a Roster,
}

/// What a thread found.
pub(super) struct Part {
    pub(super) test_age: Verdicts,
    pub(super) age: Verdicts,
    /// Most descriptors that were seen waiting for readers at one time.
    pub(super) deferred_peak: usize,
    pub(super) disturbance: ThreadDisturbance,
}

impl Stage<'_> {
    /// Makes a page old, perhaps uses it as the guest would, asks whether it is
    /// young, and compares the answer with the truth; test_age and age in turn.
    pub(super) fn judge(&self, seat: &Seat<'_>, seed: u64) -> Result<Part> {
        let mut rng = Rng::new(seed);
        let (mut test_age, mut age) = (Verdicts::default(), Verdicts::default());
        let mut deferred_peak = 0;
        let on_duty = self.judging.join();
        let timed = || {
            let end = self.clock.now() + self.clock.ticks(self.slice);
            while self.clock.now() < end {
                deferred_peak = deferred_peak.max(self.mmu.deferred_descs());
                for _ in 0..BATCH {
                    self.judge_one(&mut rng, &mut test_age, |range| {
                        self.mmu.test_age(range).young
                    });
                    self.judge_one(&mut rng, &mut age, |range| self.mmu.age(range).young);
                }
            }
            drop(on_duty);
        };
        let ((), disturbance) = seat.measure(timed).context("another thread failed")?;
        Ok(Part {
            test_age,
            age,
            deferred_peak,
            disturbance,
        })
    }

    fn judge_one(
        &self,
        rng: &mut Rng,
        verdicts: &mut Verdicts,
        ask: impl FnOnce(rmap::GfnRange) -> bool,
    ) {
        let gfn = rng.below(self.pages.len() as u64);
        let Some(anchor) = self.pages[gfn as usize].anchor else {
            return;
        };
        let page = vm::range(gfn, 1);
        let before = self.ledger.before(gfn);
        self.mmu.set_young_share(page, 0, 0);
        let used = (rng.below(1000) as f64) < self.young_share * 1000.0
            && self.mmu.touch(vm::mapping(gfn, anchor));
        let young = ask(page);
        let truth = match used {
            true => Some(true),
            false if self.ledger.nothing_since(gfn, before) => Some(false),
            false => None,
        };
        verdicts.take(truth, young);
    }

    /// Zaps and faults SPTEs that are nobody's anchor until the judge is gone.
    /// Every page has its number of SPTEs again afterwards.
    pub(super) fn churn(&self, seat: &Seat<'_>, seed: u64) -> Result<Part> {
        let mut rng = Rng::new(seed);
        let mut vcpu = Vcpu::new();
        let timed = || {
            let interval = self.clock.ticks(self.interval);
            let mut due = self.clock.now();
            while !self.judging.is_empty() {
                if self.clock.now() < due {
                    std::hint::spin_loop();
                    continue;
                }
                due = self.clock.now() + interval;
                self.change_one(&mut rng, &mut vcpu)?;
            }
            Ok::<(), RmapError>(())
        };
        let (outcome, disturbance) = seat.measure(timed).context("another thread failed")?;
        outcome?;
        Ok(Part {
            test_age: Verdicts::default(),
            age: Verdicts::default(),
            deferred_peak: 0,
            disturbance,
        })
    }

    /// Zaps some of a page's SPTEs and then faults them in again, so that a zap
    /// also meets chains whose last entry, which it moves, is the anchor.
    fn change_one(&self, rng: &mut Rng, vcpu: &mut Vcpu) -> Result<(), RmapError> {
        let gfn = rng.below(self.pages.len() as u64);
        let page = self.pages[gfn as usize];
        let mut zapped = [None; MOST_ZAPPED];
        let count = 1 + rng.below(MOST_ZAPPED as u64) as usize;
        for slot in &mut zapped[..count] {
            *slot = page.restless_alias(rng);
        }
        let aliases = || zapped.iter().flatten().copied();
        for alias in aliases().filter(|&alias| alias < page.chain_len) {
            self.mmu.zap(vcpu, vm::mapping(gfn, alias))?;
        }
        for alias in aliases() {
            let mapping = vm::mapping(gfn, alias);
            self.ledger
                .making_young(gfn, || self.mmu.fault(vcpu, mapping, Access::Write))?;
            if alias == page.chain_len {
                self.mmu.zap(vcpu, mapping)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alias_but_the_anchor_is_restless() {
        let mut rng = Rng::new(1);
        let mut seen = |chain_len, anchor, spare| {
            let page = Page {
                chain_len,
                anchor,
                spare,
            };
            let mut aliases: Vec<_> = (0..500)
                .filter_map(|_| page.restless_alias(&mut rng))
                .collect();
            aliases.sort_unstable();
            aliases.dedup();
            aliases
        };
        assert_eq!(seen(3, Some(1), false), [0, 2]);
        assert_eq!(seen(3, Some(2), true), [0, 1, 3]);
        assert_eq!(seen(1, Some(0), true), [1]);
        assert!(seen(1, Some(0), false).is_empty());
        assert_eq!(seen(1, None, false), [0]);
    }

    #[test]
    fn an_answer_counts_for_its_truth_only() {
        let mut verdicts = Verdicts::default();
        verdicts.take(Some(true), true);
        verdicts.take(Some(true), false);
        verdicts.take(Some(false), true);
        verdicts.take(None, false);
        let counts = |hits, trials| Counts { hits, trials };
        assert_eq!(verdicts.false_old, counts(1, 2));
        assert_eq!(verdicts.false_young, counts(1, 1));
        assert_eq!(verdicts.undecided, counts(1, 4));
    }
}
