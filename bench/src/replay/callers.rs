//! Callers that walk a group's ranges at once.
//!
//! A pass over a small share takes about a microsecond, less than a sleeping barrier
//! leaves between those it wakes. So the callers of a group are one pinned team for all
//! of its time: pass after pass each makes its own ranges young or old again, meets the
//! others at a spinning barrier, and walks. Invariant: no caller prepares while another
//! one walks, since preparing takes mmu_lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use report::replay::Group;

use crate::clock::Clock;
use crate::rng::Rng;
use crate::team::{self, Member, Seat};
use crate::workloads::pages::Pages;
use crate::workloads::vm::{self, Vm};

/// One caller's walk over its ranges, in ticks of the clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// One caller.
pub(super) struct Caller<'a> {
    group: &'a Group,
    vm: &'a Vm,
    clock: Clock,
    rng: Rng,
    /// First gfns of its ranges.
    starts: Vec<u64>,
    /// How many of them are young when they are walked.
    young: usize,
}

/// As many callers as are wanted and have a range each, with all of the group's ranges
/// shared out between them at random. A callback that clears finds `young_share` of them
/// young, one that only looks finds all so.
pub(super) fn callers<'a>(
    (group, vm): (&'a Group, &'a Vm),
    young_share: f64,
    wanted: usize,
    clock: Clock,
    rng: &mut Rng,
) -> Vec<Caller<'a>> {
    let ranges = group.pages / group.range_pages;
    let mut starts: Vec<u64> = (0..ranges).map(|r| r * group.range_pages).collect();
    rng.shuffle(&mut starts);
    let of = wanted.min(starts.len()).max(1);
    let young_share = if group.kind.clears() {
        young_share
    } else {
        1.0
    };
    let share = |index| {
        let Pages { first, count } = Pages::share(ranges, index, of);
        Caller {
            group,
            vm,
            clock,
            rng: Rng::new(rng.next_u64()),
            starts: starts[first as usize..(first + count) as usize].to_vec(),
            young: (young_share * count as f64).round() as usize,
        }
    };
    (0..of).map(share).collect()
}

impl Caller<'_> {
    /// Makes some of its ranges young, drawn anew, and the others old; draws the order of
    /// the walk.
    fn prepare(&mut self) {
        self.rng.shuffle(&mut self.starts);
        for (place, start) in self.starts.iter().enumerate() {
            let share = if place < self.young { 1.0 } else { 0.0 };
            self.vm.set_young(*start, self.group.range_pages, share);
        }
        self.rng.shuffle(&mut self.starts);
    }

    /// Walks its ranges once.
    fn walk(&self) -> Walk {
        let begin = self.clock.now();
        let mut found = 0_u64;
        for gfn in &self.starts {
            let range = vm::range(*gfn, self.group.range_pages);
            let answer = if self.group.kind.clears() {
                self.vm.mmu().age(range)
            } else {
                self.vm.mmu().test_age(range)
            };
            found += u64::from(answer.young);
        }
        std::hint::black_box(found);
        let end = self.clock.now();
        Walk { begin, end }
    }

    /// Prepares and walks, with the others, until the first of them finds that the time
    /// is over.
    fn passes(&mut self, seat: &Seat<'_>, leads: bool, over: &AtomicBool, end: u64) -> Vec<Walk> {
        let mut walks = Vec::new();
        loop {
            self.prepare();
            if !seat.meet() {
                return walks;
            }
            walks.push(self.walk());
            if leads && self.clock.now() >= end {
                over.store(true, Ordering::Relaxed);
            }
            if !seat.meet() || over.load(Ordering::Relaxed) {
                return walks;
            }
        }
    }
}

/// The walks of each caller, pass by pass, for about this time and once at least.
///
/// # Errors
/// When there are more callers than CPUs, or a thread cannot be pinned.
pub(super) fn walks<'a>(
    cpus: &[usize],
    callers: Vec<Caller<'a>>,
    time: Duration,
) -> Result<Vec<Vec<Walk>>> {
    let over = AtomicBool::new(false);
    let over = &over;
    let member = |(index, mut caller): (usize, Caller<'a>)| {
        let member: Member<'_, _> = Box::new(move |seat| {
            let timed = || {
                let end = caller.clock.now() + caller.clock.ticks(time);
                caller.passes(seat, index == 0, over, end)
            };
            Some(seat.measure(timed)?.0)
        });
        member
    };
    let members = callers.into_iter().enumerate().map(member).collect();
    let walks: Option<_> = team::run(cpus, members)?.into_iter().collect();
    walks.context("another thread failed")
}

/// The mean time of a callback in each pass, as its caller sees it, nanoseconds.
pub(super) fn means_ns(clock: &Clock, walks: &[Vec<Walk>], ranges: u64) -> Vec<f64> {
    let passes = walks.iter().map(Vec::len).min().unwrap_or(0);
    let mean = |pass: usize| {
        let ns = |of: &Vec<Walk>| clock.elapsed_ns(of[pass].begin, of[pass].end);
        walks.iter().map(ns).sum::<f64>() / ranges.max(1) as f64
    };
    (0..passes).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use report::compare::RealCost;
    use report::schema::CallbackKind;

    use super::*;
    use crate::cpus::CpuList;

    /// Callbacks of one page on this many pages with one SPTE.
    fn group(kind: CallbackKind, pages: u64) -> Group {
        let real = RealCost {
            callbacks: 1,
            pages: 1,
            several_pages: false,
            samples: None,
            total: None,
            walk: None,
            raw: (None, None),
            rate_zero: (None, None),
            total_ns: None,
            walk_ns: None,
            mechanism: String::new(),
        };
        Group {
            kind,
            chain_len: 1,
            range_pages: 1,
            pages,
            real,
        }
    }

    fn some<'a>(on: (&'a Group, &'a Vm), young_share: f64, wanted: usize) -> Vec<Caller<'a>> {
        callers(
            on,
            young_share,
            wanted,
            Clock::calibrate(),
            &mut Rng::new(7),
        )
    }

    #[test]
    fn every_range_has_one_caller_and_every_caller_a_range() {
        let vm = Vm::build("bitlock", 64, 1).unwrap();
        let group = Group {
            range_pages: 4,
            ..group(CallbackKind::ClearYoung, 64)
        };
        for (wanted, of) in [(0, 1), (1, 1), (3, 3), (16, 16), (100, 16)] {
            let callers = some((&group, &vm), 1.0, wanted);
            assert_eq!(callers.len(), of);
            assert!(callers.iter().all(|caller| !caller.starts.is_empty()));
            let mut starts: Vec<_> = callers.iter().flat_map(|c| c.starts.clone()).collect();
            starts.sort_unstable();
            assert_eq!(starts, (0..16).map(|r| r * 4).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_callback_that_clears_finds_the_share_young_and_one_that_looks_finds_all_so() {
        let vm = Vm::build("bitlock", 64, 1).unwrap();
        let young = || {
            let young = |gfn: &u64| vm.mmu().test_age(vm::range(*gfn, 1)).young;
            (0..64).filter(young).collect::<Vec<_>>()
        };
        for (kind, share, expected) in [
            (CallbackKind::ClearYoung, 0.25, 16),
            (CallbackKind::ClearFlushYoung, 0.0, 0),
            (CallbackKind::ClearYoung, 1.0, 64),
            (CallbackKind::TestYoung, 0.25, 64),
        ] {
            let group = group(kind, 64);
            let mut callers = some((&group, &vm), share, 2);
            let mut drawn = || {
                callers.iter_mut().for_each(Caller::prepare);
                young()
            };
            let (first, second) = (drawn(), drawn());
            assert_eq!((first.len(), second.len()), (expected, expected), "{kind}");
            // Other ones each time, where there is a choice.
            assert_eq!(first != second, expected == 16, "{kind}");
            for caller in &callers {
                caller.walk();
            }
            assert_eq!(young().is_empty(), kind.clears() || expected == 0, "{kind}");
        }
    }

    #[test]
    fn a_pass_is_the_mean_over_all_callbacks_of_all_callers() {
        let clock = Clock::calibrate();
        let walk = |us| Walk {
            begin: 1000,
            end: 1000 + clock.ticks(Duration::from_micros(us)),
        };
        let walks = [vec![walk(200), walk(400)], vec![walk(600), walk(800)]];
        let means = means_ns(&clock, &walks, 100);
        // Less what reading the clock takes.
        for (mean, expected) in means.iter().zip([8_000.0, 12_000.0]) {
            assert!((mean - expected).abs() < 200.0, "{means:?}");
        }
        assert_eq!(means.len(), 2);
    }

    #[test]
    fn callers_walk_at_the_same_time_however_short_a_walk_is() {
        let cpus = CpuList::usable().unwrap();
        if cpus.as_slice().len() < 2 {
            return;
        }
        let vm = Vm::build("bitlock", 32, 1).unwrap();
        let group = group(CallbackKind::ClearYoung, 32);
        // The share of the passes in which the walks overlap for most of the shorter one.
        let overlapping = |_| {
            let callers = some((&group, &vm), 0.5, 2);
            let walks = walks(cpus.as_slice(), callers, Duration::from_millis(10)).unwrap();
            let passes: Vec<_> = walks[0].iter().zip(&walks[1]).collect();
            assert_eq!((walks.len(), walks[0].len()), (2, walks[1].len()));
            let overlap = |(a, b): &&(&Walk, &Walk)| {
                let both = a.end.min(b.end).saturating_sub(a.begin.max(b.begin));
                both * 2 > (a.end - a.begin).min(b.end - b.begin)
            };
            passes.iter().filter(overlap).count() as f64 / passes.len() as f64
        };
        // Other work may take a CPU, not every time.
        let shares: Vec<f64> = (0..20).map(overlapping).collect();
        assert!(shares.iter().any(|&share| share > 0.8), "{shares:?}");
    }
}
