//! The threads beside the vCPUs: agers, and the stranger who gets freed pages.

use std::{thread, time::Duration};

use rmap::{Access, Gfn, GfnRange, Level, Mapping, Mmu, Vcpu};

use super::{
    arena::expect,
    outcome::{Tally, Violation, must},
    phase::Shared,
};
use crate::rng::Rng;

/// Longest time a shadow page is away: about a time slice of a busy machine.
const LONGEST_AWAY_US: u64 = 3_000;

/// An ager of one phase. One of them alone ages the pinned gfn, so it knows what it
/// must find there.
pub(super) struct Ager<'a> {
    shared: &'a Shared<'a>,
    mmu: &'a dyn Mmu,
    rng: Rng,
    has_pinned: bool,
    tally: Tally,
}

impl<'a> Ager<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, rng: Rng, has_pinned: bool) -> Self {
        Self {
            shared,
            mmu: &*shared.arena.mmu,
            rng,
            has_pinned,
            tally: Tally::default(),
        }
    }

    pub(super) fn run(mut self) -> (Tally, Result<(), Violation>) {
        const LOT: u64 = 16;
        loop {
            for _ in 0..LOT {
                if let Err(violation) = self.step() {
                    return (self.tally, Err(violation));
                }
            }
            self.tally.callbacks += LOT;
            if !self.shared.did(LOT) {
                return (self.tally, Ok(()));
            }
        }
    }

    fn step(&mut self) -> Result<(), Violation> {
        let arena = self.shared.arena;
        let hot = arena.hot();
        let range = match self.rng.below(64) {
            0..20 if self.has_pinned => return self.pinned(),
            0..40 => GfnRange::single(Gfn(hot.start.0 + self.rng.below(hot.npages()))),
            40..63 => arena.strangers(),
            _ => arena.all_but_pinned(),
        };
        if self.rng.below(4) == 0 {
            self.mmu.test_age(range);
        } else {
            self.mmu.age(range);
        }
        Ok(())
    }

    /// Nobody else ages it, so what was touched is still young.
    fn pinned(&mut self) -> Result<(), Violation> {
        let pinned = self.shared.arena.pinned();
        let range = GfnRange::single(pinned.gfn);
        expect(
            self.mmu.touch(pinned),
            "I-zap: an SPTE nobody zapped is gone",
        )?;
        let young = if self.rng.below(2) == 0 {
            self.mmu.age(range).young
        } else {
            self.mmu.test_age(range).young
        };
        expect(
            young || !self.shared.arena.scheme.consistent,
            "I-young: a young SPTE that stayed mapped was missed",
        )
    }
}

/// Fills a shadow page, keeps it young against the agers, and then has it freed and
/// given to a stranger who fills it with the very words it held: the reuse that an
/// ager with a stale pointer would write into.
///
/// Such an ager has read a young SPTE and was then held up, by an interrupt or
/// because another thread got its CPU, until the page was a stranger's. So the page
/// is full of young SPTEs up to the moment it is freed, is freed again and again,
/// and stays away about as long as a thread may be held up.
pub(super) struct Stranger<'a> {
    shared: &'a Shared<'a>,
    mmu: &'a dyn Mmu,
    rng: Rng,
    vcpu: Vcpu,
    tally: Tally,
}

impl<'a> Stranger<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, rng: Rng) -> Self {
        Self {
            shared,
            mmu: &*shared.arena.mmu,
            rng,
            vcpu: Vcpu::new(),
            tally: Tally::default(),
        }
    }

    pub(super) fn run(mut self) -> (Tally, Result<(), Violation>) {
        let result = loop {
            match self.cycle() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(violation) => break Err(violation),
            }
        };
        (self.tally, result)
    }

    /// One page's life; whether to go on.
    fn cycle(&mut self) -> Result<bool, Violation> {
        let range = self.shared.arena.strangers();
        let alias = self.shared.arena.strangers_alias(&mut self.rng);
        let place = move |gfn| Mapping::new(Gfn(gfn), Level::Size4K, alias);
        let gfns = range.start.0..range.end.0;
        for gfn in gfns.clone() {
            must(
                "fault",
                self.mmu.fault(&mut self.vcpu, place(gfn), Access::Write),
            )?;
        }
        self.shared.did(range.npages());
        for _ in 0..1 + self.rng.below(8) {
            for gfn in gfns.clone() {
                self.mmu.touch(place(gfn));
            }
        }
        let given = self
            .mmu
            .give_page_away(&mut self.vcpu, place(range.start.0));
        let given = must("give_page_away", given)?;
        // Whoever is held up gets a CPU meanwhile.
        thread::sleep(Duration::from_micros(self.rng.below(LONGEST_AWAY_US)));
        let changed = self.mmu.take_page_back(given);
        self.tally.reused += 1;
        if changed > 0 {
            return Err(Violation(format!(
                "I-life: {changed} words of a stranger's page were changed"
            )));
        }
        Ok(self.shared.did(1))
    }
}
