//! `reuse`: does an ager reach a shadow page that is somebody else's by now?
//!
//! One thread frees a shadow page over and over: all its SPTEs are zapped and
//! leave their rmaps, and a stranger fills the page with the very words it held,
//! all young, which is the worst a stranger can do. Then the page comes back and
//! is mapped again. Another thread meanwhile ages and tests its gfns back to back.
//!
//! * `pages_written`: pages in which the stranger found a word changed. One is a
//!   breach of **I-life**: a write into memory that KVM no longer owns. Schemes
//!   that are known to be unsound run along, whatever schemes were asked for.
//! * `read_after_reuse`: page reuses during which a test_age that had begun before
//!   the page was filled ended after it and said young. It may have read the
//!   stranger's words or the SPTE just before it was zapped: an upper bound.
//! * `false_young`: answers young from callbacks that ran while nothing mapped the
//!   page, from beginning to end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context as _, Result};
use report::proportion::Counts;
use report::schema::{Op, Params};
use rmap::{Access, Mmu, MmuConfig, RmapError, Vcpu};

use crate::clock::Clock;
use crate::disturb::ThreadDisturbance;
use crate::mmu_lock;
use crate::plan::Plan;
use crate::team::{self, Member, Seat};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::vm;

/// Longest time one cell is measured in one round.
const MOST_PER_ROUND: Duration = Duration::from_millis(50);
/// Gfns of the page that are mapped and aged: few, so that the page is soon back.
const MAPPED: u64 = 4;
/// Gfns of the slot: one shadow page.
const GFNS: u64 = 512;
/// How long the stranger has the page.
const AWAY: Duration = Duration::from_micros(2);
/// Callbacks between two looks at the clock.
const BATCH: u64 = 64;

/// The workload.
pub struct Reuse;

impl Workload for Reuse {
    fn name(&self) -> &'static str {
        "reuse"
    }

    fn summary(&self) -> &'static str {
        "shadow pages freed and reused beside agers: reads and writes that come too late"
    }

    fn least_cpus(&self) -> usize {
        2
    }

    fn weight(&self) -> u32 {
        2
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        plan.keep_chains(self.name(), &[1])?;
        let asked = |name: &str| plan.schemes.iter().any(|scheme| scheme == name);
        let schemes: Vec<_> = rmap::schemes()
            .iter()
            .filter(|scheme| asked(scheme.name) || !scheme.sound)
            .collect();
        let slice = plan.slice(schemes.len(), MOST_PER_ROUND);
        let cpus = plan.cpus.first(2)?.to_vec();
        let cell = |scheme: &rmap::SchemeInfo| Cell {
            scheme: scheme.name.to_owned(),
            params: Params {
                chain_len: Some(1),
                range_pages: Some(1),
                level: Some(1),
                young_share: Some(1.0),
                slot_pages: Some(GFNS),
                agers: Some(1),
                vcpus: Some(1),
                cpus: Some(cpus.iter().map(|&cpu| cpu as u32).collect()),
                ..Params::default()
            },
            family: 0,
            resident_bytes: vm::resident_bytes(GFNS, 1),
            measure: Box::new(ReuseCell {
                scheme: scheme.name,
                build: scheme.build,
                mmu: None,
                cpus: cpus.clone(),
                clock: plan.clock,
                slice,
            }),
        };
        Ok(schemes.into_iter().map(cell).collect())
    }
}

struct ReuseCell {
    scheme: &'static str,
    build: fn(&MmuConfig) -> Result<Box<dyn Mmu>, RmapError>,
    mmu: Option<Box<dyn Mmu>>,
    cpus: Vec<usize>,
    clock: Clock,
    slice: Duration,
}

impl Measure for ReuseCell {
    fn prepare(&mut self) -> Result<()> {
        self.mmu = Some((self.build)(&mmu_lock::config(GFNS, 1))?);
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let mmu = self
            .mmu
            .as_deref()
            .with_context(|| format!("{} was not built", self.scheme))?;
        let (phase, over) = (Phase::default(), AtomicBool::new(false));
        let stage = &Stage {
            mmu,
            clock: self.clock,
            slice: self.slice,
            phase: &phase,
            over: &over,
        };
        let members: Vec<Member<'_, Result<Part>>> = vec![
            Box::new(|seat| stage.age(seat)),
            Box::new(|seat| stage.give_and_take(seat)),
        ];
        let parts: Result<Vec<Part>> = team::run(&self.cpus, members)?.into_iter().collect();
        let (mut found, mut threads) = (Found::default(), Vec::new());
        for part in parts? {
            found.add(&part.found);
            threads.push(part.disturbance);
        }
        mmu.verify()?;
        Ok(Measured {
            readings: found.readings(),
            threads,
        })
    }
}

/// Where the page is in its life, for everybody to see.
#[derive(Debug, Default)]
struct Phase(AtomicU64);

/// A phase as it was read: which life of the page, and how far it had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    life: u64,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Mapped,
    Going,
    Away,
    Returning,
}

impl Phase {
    fn next(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    fn now(&self) -> Moment {
        let phase = self.0.load(SeqCst);
        Moment {
            life: phase / 4,
            step: match phase % 4 {
                0 => Step::Mapped,
                1 => Step::Going,
                2 => Step::Away,
                _ => Step::Returning,
            },
        }
    }
}

/// What was counted.
#[derive(Debug, Default)]
struct Found {
    reuses: u64,
    pages_written: u64,
    read_after_reuse: u64,
    false_young: Counts,
}

impl Found {
    fn add(&mut self, more: &Self) {
        self.reuses += more.reuses;
        self.pages_written += more.pages_written;
        self.read_after_reuse += more.read_after_reuse;
        self.false_young.add(more.false_young);
    }

    /// Takes the answer of one test_age.
    fn take(&mut self, (before, after): (Moment, Moment), young: bool) {
        if before == after && before.step == Step::Away {
            self.false_young.add(Counts {
                hits: u64::from(young),
                trials: 1,
            });
        }
        let filled_meanwhile =
            before.step < Step::Away && (after.life > before.life || after.step >= Step::Away);
        self.read_after_reuse += u64::from(filled_meanwhile && young);
    }

    fn readings(&self) -> Vec<Reading> {
        let of_reuses = |hits| Counts {
            hits,
            trials: self.reuses,
        };
        [
            (Op::Age, "pages_written", of_reuses(self.pages_written)),
            (
                Op::TestAge,
                "read_after_reuse",
                of_reuses(self.read_after_reuse),
            ),
            (Op::TestAge, "false_young", self.false_young),
        ]
        .into_iter()
        .filter_map(|(op, metric, counts)| Reading::share(op, metric, counts))
        .collect()
    }
}

struct Part {
    found: Found,
    disturbance: ThreadDisturbance,
}

/// What both threads share.
struct Stage<'a> {
    mmu: &'a dyn Mmu,
    clock: Clock,
    slice: Duration,
    phase: &'a Phase,
    /// Set when the page is given away no more.
    over: &'a AtomicBool,
}

impl Stage<'_> {
    fn age(&self, seat: &Seat<'_>) -> Result<Part> {
        let mut found = Found::default();
        let timed = || {
            while !self.over.load(SeqCst) {
                for gfn in 0..BATCH {
                    let page = vm::range(gfn % MAPPED, 1);
                    let before = self.phase.now();
                    let young = self.mmu.test_age(page).young;
                    found.take((before, self.phase.now()), young);
                    self.mmu.age(page);
                }
            }
        };
        let ((), disturbance) = seat.measure(timed).context("another thread failed")?;
        Ok(Part { found, disturbance })
    }

    fn give_and_take(&self, seat: &Seat<'_>) -> Result<Part> {
        let mut found = Found::default();
        let mut vcpu = Vcpu::new();
        let timed = || {
            let result = self.lives(&mut vcpu, &mut found);
            self.over.store(true, SeqCst);
            result
        };
        let (result, disturbance) = seat.measure(timed).context("another thread failed")?;
        result?;
        Ok(Part { found, disturbance })
    }

    /// One life of the page after another until the slice is over.
    fn lives(&self, vcpu: &mut Vcpu, found: &mut Found) -> Result<(), RmapError> {
        let end = self.clock.now() + self.clock.ticks(self.slice);
        let place = vm::mapping(0, 0);
        while self.clock.now() < end {
            for gfn in 0..MAPPED {
                self.mmu.fault(vcpu, vm::mapping(gfn, 0), Access::Write)?;
            }
            self.phase.next();
            let page = self.mmu.give_page_away(vcpu, place)?;
            self.phase.next();
            let back = self.clock.now() + self.clock.ticks(AWAY);
            while self.clock.now() < back {
                std::hint::spin_loop();
            }
            self.phase.next();
            found.pages_written += u64::from(self.mmu.take_page_back(page) > 0);
            found.reuses += 1;
            self.phase.next();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn i_life_no_sound_scheme_touches_a_page_that_was_reused() {
        let mut plan = plan();
        if plan.cpus.as_slice().len() < 2 {
            return;
        }
        plan.schemes = rmap::schemes().iter().map(|s| s.name.to_owned()).collect();
        let mut tools = Tools::of_tests();
        for mut cell in Reuse.cells(&plan).unwrap() {
            cell.measure.prepare().unwrap();
            let measured = cell.measure.measure(&mut tools).unwrap();
            let sound = rmap::scheme(&cell.scheme).unwrap().sound;
            for reading in measured.readings {
                let counts = reading.counts.unwrap();
                assert!(counts.trials > 0, "{}: {}", cell.scheme, reading.metric);
                if sound && reading.metric != "read_after_reuse" {
                    assert_eq!(counts.hits, 0, "{}: {}", cell.scheme, reading.metric);
                }
            }
        }
    }

    #[test]
    fn negative_controls_run_along() {
        let mut plan = plan();
        plan.schemes = vec!["bitlock".to_owned()];
        if plan.cpus.as_slice().len() < 2 {
            return;
        }
        let cells = Reuse.cells(&plan).unwrap();
        let names: Vec<_> = cells.iter().map(|cell| cell.scheme.as_str()).collect();
        assert_eq!(names, ["bitlock", "single-recheck"]);
    }

    #[test]
    fn an_answer_is_judged_by_where_the_page_was() {
        let moment = |life, step| Moment { life, step };
        let mut found = Found::default();
        let mut take = |before, after| {
            found.take((before, after), true);
            (found.false_young.hits, found.read_after_reuse)
        };
        let mapped = moment(3, Step::Mapped);
        assert_eq!(take(mapped, mapped), (0, 0));
        assert_eq!(take(mapped, moment(3, Step::Going)), (0, 0));
        assert_eq!(take(mapped, moment(3, Step::Away)), (0, 1));
        assert_eq!(
            take(moment(3, Step::Going), moment(4, Step::Mapped)),
            (0, 2)
        );
        let away = moment(4, Step::Away);
        assert_eq!(take(away, away), (1, 2));
        assert_eq!(take(away, moment(5, Step::Mapped)), (1, 2));
    }
}
