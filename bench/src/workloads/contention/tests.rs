//! `contention`: who runs, what is shared out, and that latencies hide nothing.

use std::time::Instant;

use rmap::Mapping;

use super::threads::{Call, Driver};
use super::*;
use crate::counters::CounterSet;
use crate::cpus::CpuList;
use crate::plan::tests::plan;

#[test]
fn the_pages_are_shared_out_without_gap_or_overlap() {
    for of in 1..7 {
        let mut next = 0;
        for index in 0..of {
            let pages = share(index, of);
            assert_eq!(pages.first, next);
            next += pages.count;
        }
        assert_eq!(next, GFNS);
    }
}

#[test]
fn two_cpus_give_one_ager_one_vcpu_and_both_controls() {
    let crew = |agers, vcpus| Crew { agers, vcpus };
    assert_eq!(Crew::all(2), [crew(1, 1), crew(0, 1), crew(1, 0)]);
    assert_eq!(Crew::all(8)[0], crew(1, 7));
}

const METRICS: [&str; 5] = [
    "due_p50_ns",
    "due_p99_ns",
    "service_p50_ns",
    "service_p99_ns",
    "done_share",
];

#[test]
fn a_role_has_the_same_cpus_in_all_crews() {
    let list = CpuList::from_cpus(vec![4, 2, 7]).unwrap();
    let cpus = Crew::all(3).map(|crew| crew.cpus(&list).unwrap());
    assert_eq!(cpus, [vec![4, 2, 7], vec![2, 7], vec![4]]);
}

#[test]
fn every_scheme_gives_aging_cost_latencies_and_controls() {
    let mut plan = plan();
    if plan.cpus.as_slice().len() < 2 {
        return;
    }
    plan.schemes = rmap::schemes().iter().map(|s| s.name.to_owned()).collect();
    plan.chain_lengths = Some(vec![1, 16]);
    plan.budget = Duration::from_millis(200);
    let mut tools = Tools {
        counters: CounterSet::open(),
    };
    for mut cell in Contention.cells(&plan).unwrap() {
        cell.measure.prepare().unwrap();
        let aged = cell.params.agers > Some(0);
        let faulted = cell.params.vcpus > Some(0);
        // On a busy machine a vCPU may be switched out for a whole short slice.
        let faults = |m: &Measured| {
            m.readings
                .iter()
                .any(|r| r.op == Op::Fault && r.latency.is_some())
        };
        let mut rounds = (0..50).map(|_| cell.measure.measure(&mut tools).unwrap());
        let measured = rounds.find(|m| faults(m) == faulted).unwrap();
        drop(rounds);
        let ops: Vec<_> = measured.readings.iter().map(|r| (r.op, r.metric)).collect();
        assert_eq!(ops.contains(&(Op::Age, "ns_per_gfn")), aged);
        for op in [Op::Fault, Op::Zap] {
            for metric in METRICS {
                assert_eq!(ops.contains(&(op, metric)), faulted, "{metric}");
            }
        }
        assert_eq!(cell.params.op_interval_ns, faulted.then_some(20_000));
        assert!(
            measured
                .readings
                .iter()
                .all(|r| r.value > 0.0 && r.value.is_finite())
        );
        assert_eq!(
            measured.threads.len(),
            cell.params.cpus.as_ref().unwrap().len()
        );
    }
}

const STALL: Duration = Duration::from_millis(3);
const SLICE: Duration = Duration::from_millis(20);

/// Drives an MMU whose fault of that number takes [`STALL`]; what it was asked.
fn drive(stalled_fault: usize) -> (Driver, Vec<(Call, Mapping)>) {
    let mut driver = Driver {
        clock: Clock::calibrate(),
        slice: SLICE,
        rng: Rng::new(1),
        pages: Pages {
            first: 100,
            count: 50,
        },
        chain_len: 4,
        fault: Ops::new(),
        zap: Ops::new(),
    };
    let mut seen = Vec::new();
    let mmu = |call, mapping| {
        if call == Call::Fault && seen.len() / 2 == stalled_fault {
            let start = Instant::now();
            while start.elapsed() < STALL {}
        }
        seen.push((call, mapping));
        Ok(())
    };
    driver.drive(mmu).unwrap();
    (driver, seen)
}

#[test]
fn a_stall_is_charged_to_every_operation_it_delayed() {
    let stall_ns = STALL.as_nanos() as u64;
    let slow = |l: &Latency| {
        (0..1000)
            .filter(|q| l.quantile_ns(f64::from(*q) / 1000.0) > stall_ns / 2)
            .count()
    };
    // A 3 ms stall delays 150 operations of the 1000 due every 20 us, by 1.5 ms
    // on average; timed from the start of each call there is one slow one. Other
    // work may take the CPU for the rest of the slice, not every time.
    let charged = |_| {
        let (Driver { fault, zap, .. }, _) = drive(0);
        assert!(fault.latency.summary().max_ns >= stall_ns);
        [fault, zap]
            .iter()
            .all(|ops| slow(&ops.latency) >= 60 && slow(&ops.service) <= 10)
    };
    assert!((0..20).any(charged));
}

#[test]
fn what_is_due_after_a_stall_at_the_end_is_counted_and_not_done() {
    // The 475th fault is due 1 ms before the end.
    let (Driver { fault, zap, .. }, seen) = drive(474);
    let due = SLICE.as_micros() as u64 / threads::PACE.as_micros() as u64;
    assert!(fault.due + zap.due == due || fault.due + zap.due == due - 1);
    let done = fault.latency.count() + zap.latency.count();
    assert!(due - done >= 45, "{done} of {due}");
    assert!(fault.done_share() < 0.97 && fault.done_share() > 0.0);
    assert!(seen.len() as u64 - done <= 1);
}

#[test]
fn operations_are_paced_stay_on_their_pages_and_reach_every_alias() {
    let (Driver { fault, zap, .. }, seen) = drive(usize::MAX);
    let due = SLICE.as_nanos() as f64 / threads::PACE.as_nanos() as f64;
    let done = (fault.latency.count() + zap.latency.count()) as f64;
    assert!(done <= due, "{done} of {due}");
    assert!(done > due * 0.1, "{done} of {due}");
    assert!(seen.iter().all(|(_, m)| (100..150).contains(&m.gfn.0)));
    for pair in seen.chunks(2) {
        let [(Call::Zap, zapped), (Call::Fault, faulted)] = pair else {
            panic!("a zap without its fault");
        };
        assert_eq!(zapped, faulted);
    }
    let aliases: std::collections::BTreeSet<_> = seen.iter().map(|(_, m)| m.alias).collect();
    assert_eq!(aliases.len(), 4);
}

#[test]
fn an_ager_ages_until_the_last_vcpu_has_stopped() {
    let vm = Vm::build("rwlock-write", GFNS, 1).unwrap();
    let running = AtomicUsize::new(0);
    let on_duty = OnDuty::new(&running);
    let stage = Stage {
        mmu: vm.mmu(),
        clock: Clock::calibrate(),
        slice: Duration::from_millis(1),
        running: &running,
    };
    let late = Duration::from_millis(30);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(late);
            drop(on_duty);
        });
        let (gfns, ns) = stage.age_until_end(share(0, 1));
        assert!(gfns > 0 && ns >= late.as_nanos() as f64 * 0.8, "{ns}");
    });
}
