//! `hold`: how long one call keeps others out, by chain length.
//!
//! No lock is instrumented: a clock inside the critical section would lengthen it,
//! and subjects that are not ours have no place for one. What is measured is what
//! others feel, from both sides:
//!
//! - **From below.** One thread makes the same call over and over, another makes a
//!   short call of its own at random moments and times it. What the short call
//!   takes longer than its median alone is time it was kept out (`kept_out_*`). The
//!   longest of many is as long as the hold, or shorter if no call came just as one
//!   began. But a call has a tail of its own: interrupts and the hypervisor hold it up
//!   where nobody holds anything. So the same is measured of the short call alone, for
//!   as long, by the same thread's like on the same CPU, before or after (`alone_*`):
//!   only what `kept_out_max_ns` has beyond `alone_max_ns` is evidence of a hold.
//! - **From above.** The first thread's calls are timed with nobody in their way
//!   (`call_*`): nothing is held longer than the call lasts.
//!
//! The short call either looks at the same rmap (`same_rmap`: a `test_age` of that
//! page, which waits for the rmap's bit where there is one, and for mmu_lock where
//! aging takes it) or only wants mmu_lock for write (`other_rmap`: the zap of an
//! SPTE of another page that is not there). A hand-over of a cache line between the
//! CPUs counts as time kept out, a wake-up after sleeping in the kernel does too.

mod threads;

use std::time::Duration;

use anyhow::{Context as _, Result};
use report::latency::Latency;
use report::schema::{Op, Params};
use rmap::{Mmu, Vcpu};

use self::threads::{Caller, Holder};
use crate::clock::Clock;
use crate::disturb::ThreadDisturbance;
use crate::duty::{OnDuty, Roster};
use crate::plan::{Plan, Scale};
use crate::rng::Rng;
use crate::team::{self, Member, Seat};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::vm::{self, Vm};

/// Longest time one cell is measured in one round.
const MOST_PER_ROUND: Duration = Duration::from_millis(30);
/// Pages of the VM; the last one is never mapped when it is asked for.
const GFNS: u64 = 64;
/// The page that is held.
const HELD: u64 = 3;
/// The page whose SPTE is not there: its own shadow page entry and rmap.
const ABSENT: u64 = GFNS - 1;
/// What the first thread calls.
const CALLS: [Op; 3] = [Op::Age, Op::Zap, Op::UnmapRange];

fn chains(scale: Scale) -> &'static [u32] {
    match scale {
        Scale::Quick => &[1, 16, 256],
        Scale::Full => &[1, 4, 16, 64, 256, 1000],
    }
}

/// What the short call wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    SameRmap,
    OtherRmap,
}

impl Wants {
    fn name(self) -> &'static str {
        match self {
            Self::SameRmap => "same_rmap",
            Self::OtherRmap => "other_rmap",
        }
    }
}

/// The workload.
pub struct Hold;

impl Workload for Hold {
    fn name(&self) -> &'static str {
        "hold"
    }

    fn summary(&self) -> &'static str {
        "how long one call keeps others off its rmap and off mmu_lock"
    }

    fn least_cpus(&self) -> usize {
        2
    }

    fn weight(&self) -> u32 {
        8
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for chain_len in plan.keep_chains(self.name(), chains(plan.scale))? {
            for call in CALLS {
                for wants in [Wants::SameRmap, Wants::OtherRmap] {
                    for scheme in &plan.mutable_with(chain_len) {
                        cells.push(HoldCell::new(plan, scheme, chain_len, call, wants)?);
                    }
                }
            }
        }
        let slice = plan.slice(cells.len(), MOST_PER_ROUND);
        Ok(cells.into_iter().map(|cell| cell.finish(slice)).collect())
    }
}

struct HoldCell {
    scheme: String,
    chain_len: u32,
    call: Op,
    wants: Wants,
    cpus: Vec<usize>,
    clock: Clock,
    slice: Duration,
    rng: Rng,
    vm: Option<Vm>,
}

impl HoldCell {
    fn new(plan: &Plan, scheme: &str, chain_len: u32, call: Op, wants: Wants) -> Result<Self> {
        Ok(Self {
            scheme: scheme.to_owned(),
            chain_len,
            call,
            wants,
            cpus: plan.cpus.first(2)?.to_vec(),
            clock: plan.clock,
            slice: Duration::ZERO,
            rng: Rng::new(plan.seed ^ u64::from(chain_len)),
            vm: None,
        })
    }

    fn finish(mut self, slice: Duration) -> Cell {
        self.slice = slice;
        let params = Params {
            chain_len: Some(self.chain_len),
            range_pages: Some(1),
            level: Some(1),
            young_share: (self.call == Op::Age).then_some(0.0),
            slot_pages: Some(GFNS),
            meets: Some(self.wants.name().to_owned()),
            cpus: Some(self.cpus.iter().map(|&cpu| cpu as u32).collect()),
            ..Params::default()
        };
        Cell {
            scheme: self.scheme.clone(),
            params,
            family: self.chain_len,
            resident_bytes: vm::resident_bytes(GFNS, self.chain_len),
            measure: Box::new(self),
        }
    }
}

/// A thread's calls, if they were timed.
type Outcome = Result<(Option<Latency>, ThreadDisturbance)>;

/// Short calls, and what happened to the threads beside.
type Calls = (Latency, Vec<ThreadDisturbance>);

impl HoldCell {
    fn holder<'a>(&mut self, mmu: &'a dyn Mmu) -> Holder<'a> {
        Holder {
            mmu,
            clock: self.clock,
            call: self.call,
            chain_len: self.chain_len,
            rng: Rng::new(self.rng.next_u64()),
            vcpu: Vcpu::new(),
        }
    }

    fn caller<'a>(&mut self, mmu: &'a dyn Mmu) -> Caller<'a> {
        Caller {
            mmu,
            clock: self.clock,
            wants: self.wants,
            rng: Rng::new(self.rng.next_u64()),
            vcpu: Vcpu::new(),
        }
    }

    /// The short calls while the holder calls.
    fn together(&mut self, mmu: &dyn Mmu, time: Duration) -> Result<Calls> {
        let mut holder = self.holder(mmu);
        let callers = Roster::default();
        let calls = short_calls(self.caller(mmu), time, Some(callers.join()));
        let callers = &callers;
        let holds: Member<'_, Outcome> = Box::new(move |seat: &Seat<'_>| {
            holder.warm_up()?;
            let timed = || holder.calls_beside(callers);
            let (outcome, disturbance) = seat.measure(timed).context("another thread failed")?;
            outcome?;
            Ok((None, disturbance))
        });
        calls_of(team::run(&self.cpus, vec![holds, calls])?)
    }

    /// The short calls with nobody beside them, on the CPU they have beside the holder.
    fn alone(&mut self, mmu: &dyn Mmu, time: Duration) -> Result<Calls> {
        let calls = short_calls(self.caller(mmu), time, None);
        calls_of(team::run(&self.cpus[1..], vec![calls])?)
    }
}

/// A thread that makes the short calls for a while, and then says that it is done.
fn short_calls<'a>(
    mut caller: Caller<'a>,
    time: Duration,
    on_duty: Option<OnDuty<'a>>,
) -> Member<'a, Outcome> {
    Box::new(move |seat: &Seat<'_>| {
        caller.warm_up()?;
        let timed = || {
            let calls = caller.calls_for(time);
            drop(on_duty);
            calls
        };
        let (calls, disturbance) = seat.measure(timed).context("another thread failed")?;
        Ok((Some(calls?), disturbance))
    })
}

fn calls_of(parts: Vec<Outcome>) -> Result<Calls> {
    let (mut latency, mut threads) = (Latency::new(), Vec::new());
    for part in parts {
        let (calls, disturbance) = part?;
        threads.push(disturbance);
        calls.iter().for_each(|calls| latency.merge(calls));
    }
    Ok((latency, threads))
}

/// What every call took longer than `usual_ns`.
fn longer_than(calls: &Latency, usual_ns: u64) -> Latency {
    let mut longer = Latency::new();
    for (ns, count) in calls.recorded() {
        longer.record_many_ns(ns.saturating_sub(usual_ns), count);
    }
    longer
}

impl Measure for HoldCell {
    fn prepare(&mut self) -> Result<()> {
        let vm = Vm::build(&self.scheme, GFNS, self.chain_len)?;
        vm.set_young(0, GFNS, 0.0);
        vm.mmu()
            .unmap_range(&mut Vcpu::new(), vm::range(ABSENT, 1))?;
        self.vm = Some(vm);
        Ok(())
    }

    fn measure(&mut self, tools: &mut Tools) -> Result<Measured> {
        let vm = self
            .vm
            .take()
            .context("the pages were not mapped before they were held")?;
        let mmu = vm.mmu();
        let (quarter, rest) = (self.slice / 4, self.slice * 3 / 8);
        let mut holder = self.holder(mmu);
        holder.warm_up()?;
        let calls = tools.counters.around(|| holder.calls_for(quarter))?;
        let counters = tools.counters.per_operation(calls.count());
        let ((met, mut threads), (alone, beside)) = Rng::new(self.rng.next_u64()).in_either_order(
            self,
            |cell| cell.together(mmu, rest),
            |cell| cell.alone(mmu, rest),
        )?;
        threads.extend(beside);
        self.vm = Some(vm);
        let usual_ns = alone.quantile_ns(0.5);
        let (kept_out, alone) = (longer_than(&met, usual_ns), longer_than(&alone, usual_ns));
        let value = |latency: &Latency, q| latency.quantile_ns(q) as f64;
        let reading = |metric, value| Reading::new(self.call, metric, value);
        Ok(Measured {
            readings: vec![
                Reading {
                    counters,
                    ..reading("call_p50_ns", value(&calls, 0.5))
                },
                reading("call_p999_ns", value(&calls, 0.999)),
                reading("kept_out_p99_ns", value(&kept_out, 0.99)),
                Reading {
                    latency: Some(kept_out.clone()),
                    ..reading("kept_out_max_ns", value(&kept_out, 1.0))
                },
                reading("alone_p99_ns", value(&alone, 0.99)),
                Reading {
                    latency: Some(alone.clone()),
                    ..reading("alone_max_ns", value(&alone, 1.0))
                },
            ],
            threads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn every_scheme_is_met_by_both_short_calls() {
        let mut plan = plan();
        if plan.cpus.as_slice().len() < 2 {
            return;
        }
        plan.schemes = rmap::schemes().iter().map(|s| s.name.to_owned()).collect();
        plan.chain_lengths = Some(vec![1]);
        let mut tools = Tools::of_tests();
        let cells = Hold.cells(&plan).unwrap();
        assert_eq!(cells.len(), CALLS.len() * 2 * plan.schemes.len());
        for mut cell in cells {
            cell.measure.prepare().unwrap();
            let measured = cell.measure.measure(&mut tools).unwrap();
            assert_eq!(measured.readings.len(), 6);
            assert!(!measured.readings[0].counters.is_empty());
            // Two that met and one alone.
            assert_eq!(measured.threads.len(), 3);
            let in_order = |low: usize, high: usize| {
                measured.readings[low].value <= measured.readings[high].value
            };
            let all = in_order(0, 1) && in_order(2, 3) && in_order(4, 5);
            assert!(all, "{}", cell.scheme);
        }
    }

    #[test]
    fn a_holder_does_its_call_and_puts_back_what_it_took_away() {
        for call in CALLS {
            let mut plan = plan();
            plan.cpus = crate::cpus::CpuList::from_cpus(vec![0, 1]).unwrap();
            let mut cell = HoldCell::new(&plan, "bitlock", 16, call, Wants::SameRmap).unwrap();
            cell.prepare().unwrap();
            let vm = cell.vm.take().unwrap();
            let (mmu, page) = (vm.mmu(), vm::range(HELD, 1));
            vm.set_young(HELD, 1, if call == Op::Age { 1.0 } else { 0.0 });
            let mut holder = cell.holder(mmu);
            // Other work may take the CPU for the whole of it, not every time.
            let mut called = || holder.calls_for(Duration::from_millis(1)).unwrap();
            assert!((0..50).any(|_| called().count() > 0));
            // Ageing made it old, and what was faulted in again is young.
            assert_eq!(mmu.test_age(page).young, call != Op::Age, "{call}");
            let len = mmu.chain_len(page.start, rmap::Level::Size4K);
            assert_eq!(len.unwrap(), 16, "{call}");
            assert!(!mmu.test_age(vm::range(ABSENT, 1)).young);
        }
    }

    #[test]
    fn only_what_goes_beyond_a_call_alone_is_time_kept_out() {
        let mut calls = Latency::new();
        calls.record_many_ns(100, 98);
        calls.record_many_ns(900, 2);
        let kept_out = longer_than(&calls, 100);
        assert_eq!(kept_out.count(), 100);
        assert_eq!(kept_out.quantile_ns(0.5), 0);
        assert_eq!(kept_out.summary().max_ns, 800);
    }

    /// A cell whose chains have a thousand SPTEs.
    fn long_cell(scheme: &str, wants: Wants) -> HoldCell {
        let mut cell = HoldCell::new(&plan(), scheme, 1000, Op::Age, wants).unwrap();
        cell.slice = Duration::from_millis(40);
        cell.prepare().unwrap();
        cell
    }

    /// The figures of one round of it.
    fn figures(cell: &mut HoldCell) -> impl Fn(&str) -> f64 + use<> {
        let measured = cell.measure(&mut Tools::of_tests()).unwrap();
        move |name| {
            let is_it = |r: &&Reading| r.metric == name;
            measured.readings.iter().find(is_it).unwrap().value
        }
    }

    #[test]
    fn a_lock_is_felt_beyond_what_a_call_alone_feels_only_where_it_is_taken() {
        if plan().cpus.as_slice().len() < 2 {
            return;
        }
        // How much longer than alone a quarter of the short calls takes at least, in
        // calls of the holder: a walk over a thousand SPTEs.
        let beyond = |cell: &mut HoldCell| {
            let (vm, time) = (cell.vm.take().unwrap(), Duration::from_millis(10));
            let call = cell.holder(vm.mmu()).calls_for(time).unwrap();
            let (met, _) = cell.together(vm.mmu(), time).unwrap();
            let (alone, _) = cell.alone(vm.mmu(), time).unwrap();
            cell.vm = Some(vm);
            let [met, alone] = [met, alone].map(|calls| calls.quantile_ns(0.75) as f64);
            (met - alone) / call.quantile_ns(0.5) as f64
        };
        // It holds mmu_lock, or the rmap's bit and not mmu_lock. Other work may take a
        // CPU, so that nobody is met or everything takes longer, not every time.
        for (scheme, wants) in [
            ("rwlock-write", Wants::OtherRmap),
            ("bitlock", Wants::SameRmap),
        ] {
            let mut cell = long_cell(scheme, wants);
            assert!((0..50).any(|_| beyond(&mut cell) > 0.5), "{scheme}");
        }
        let mut cell = long_cell("bitlock", Wants::OtherRmap);
        let median = |_| {
            let tries: Vec<f64> = (0..5).map(|_| beyond(&mut cell)).collect();
            report::stats::median(&tries).unwrap()
        };
        let medians: Vec<f64> = (0..5).map(median).collect();
        assert!(medians.iter().any(|&m| m < 0.25), "{medians:?}");
    }

    #[test]
    fn short_calls_alone_have_a_tail_that_is_told_of() {
        if plan().cpus.as_slice().len() < 2 {
            return;
        }
        let of = figures(&mut long_cell("rcu", Wants::OtherRmap));
        let (p99, max) = (of("alone_p99_ns"), of("alone_max_ns"));
        assert!(p99 >= 0.0 && max > 0.0 && p99 <= max, "{p99} {max}");
    }
}
