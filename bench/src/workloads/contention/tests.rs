//! `contention`: who runs, what is shared out, and that latencies hide nothing.

use std::time::Instant;

use rmap::Mapping;

use super::threads::{Call, Driver};
use super::*;
use crate::counters::CounterSet;
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
        let measured = cell.measure.measure(&mut tools).unwrap();
        let ops: Vec<_> = measured.readings.iter().map(|r| (r.op, r.metric)).collect();
        let aged = cell.params.agers > Some(0);
        let faulted = cell.params.vcpus > Some(0);
        assert_eq!(ops.contains(&(Op::Age, "ns_per_gfn")), aged);
        for op in [Op::Fault, Op::Zap] {
            assert_eq!(ops.contains(&(op, "p50_ns")), faulted);
            assert_eq!(ops.contains(&(op, "p99_ns")), faulted);
        }
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

/// Drives an MMU whose first fault takes [`STALL`]; the mappings it saw.
fn drive(slice: Duration) -> (Driver, Vec<Mapping>) {
    let mut driver = Driver {
        clock: Clock::calibrate(),
        slice,
        rng: Rng::new(1),
        pages: Pages {
            first: 100,
            count: 50,
        },
        alias: 0,
        fault: Latency::new(),
        zap: Latency::new(),
    };
    let mut seen = Vec::new();
    let mut stalled = false;
    let mmu = |call, mapping| {
        seen.push(mapping);
        if call == Call::Fault && !std::mem::replace(&mut stalled, true) {
            let start = Instant::now();
            while start.elapsed() < STALL {}
        }
        Ok(())
    };
    driver.drive(mmu).unwrap();
    (driver, seen)
}

#[test]
fn a_stall_is_charged_to_every_operation_it_delayed() {
    let (Driver { fault, zap, .. }, _) = drive(Duration::from_millis(20));
    let stall_ns = STALL.as_nanos() as u64;
    assert!(fault.summary().max_ns >= stall_ns);
    // A 3 ms stall delays 1500 operations due every 2 us, by 1.5 ms on average;
    // timing from the start of each call would show a single slow one.
    let half = stall_ns / 2;
    let slow = |l: &Latency| {
        (0..1000)
            .filter(|q| l.quantile_ns(f64::from(*q) / 1000.0) > half)
            .count()
    };
    assert!(slow(&fault) >= 30, "{}", slow(&fault));
    assert!(slow(&zap) >= 30, "{}", slow(&zap));
}

#[test]
fn operations_are_paced_and_stay_on_their_own_pages() {
    let slice = Duration::from_millis(20);
    let (Driver { fault, zap, .. }, seen) = drive(slice);
    let due = slice.as_nanos() as f64 / threads::PACE.as_nanos() as f64;
    let done = (fault.count() + zap.count()) as f64;
    assert!((done / due - 1.0).abs() < 2e-3, "{done} of {due}");
    assert!(seen.iter().all(|m| (100..150).contains(&m.gfn.0)));
    assert!(seen.chunks_exact(2).all(|pair| pair[0] == pair[1]));
}
