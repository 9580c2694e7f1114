//! `contention`: who runs, what is shared out, and that latencies hide nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rmap::{
    Access, Aging, FaultOutcome, Gfn, GfnRange, Level, Mapping, Mmu, RmapError, Vcpu, Violation,
    Zapped,
};

use super::threads::Driver;
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

/// An MMU whose first fault takes [`STALL`] and that counts its operations.
#[derive(Default)]
struct Stalling {
    faults: AtomicU64,
    zapped: Mutex<Vec<Mapping>>,
}

const STALL: Duration = Duration::from_millis(3);

impl Mmu for Stalling {
    fn fault(&self, _: &mut Vcpu, _: Mapping, _: Access) -> Result<FaultOutcome, RmapError> {
        if self.faults.fetch_add(1, Ordering::Relaxed) == 0 {
            let start = Instant::now();
            while start.elapsed() < STALL {}
        }
        Ok(FaultOutcome::Installed { chain_len: 1 })
    }

    fn zap(&self, _: &mut Vcpu, mapping: Mapping) -> Result<Zapped, RmapError> {
        self.zapped.lock().unwrap().push(mapping);
        Ok(Zapped::Old)
    }

    fn unmap_range(&self, _: &mut Vcpu, _: GfnRange) -> Result<u64, RmapError> {
        Ok(0)
    }

    fn age(&self, _: GfnRange) -> Aging {
        Aging {
            young: false,
            fast: true,
        }
    }

    fn test_age(&self, _: GfnRange) -> Aging {
        Aging {
            young: false,
            fast: true,
        }
    }

    fn touch(&self, _: Mapping) -> bool {
        true
    }

    fn write_protect(&self, _: GfnRange) -> u64 {
        0
    }

    fn chain_len(&self, _: Gfn, _: Level) -> Result<u32, RmapError> {
        Ok(1)
    }

    fn set_young_share(&self, _: GfnRange, _: u16, _: u64) {}

    fn deferred_descs(&self) -> usize {
        0
    }

    fn verify(&self) -> Result<(), Violation> {
        Ok(())
    }
}

fn drive(mmu: &Stalling, slice: Duration) -> (Latency, Latency) {
    let mut driver = Driver {
        stage: Stage {
            mmu,
            clock: Clock::calibrate(),
            slice,
        },
        vcpu: Vcpu::new(),
        rng: Rng::new(1),
        pages: Pages {
            first: 100,
            count: 50,
        },
        alias: 0,
        fault: Latency::new(),
        zap: Latency::new(),
    };
    driver.drive().unwrap();
    (driver.fault, driver.zap)
}

#[test]
fn a_stall_is_charged_to_every_operation_it_delayed() {
    let mmu = Stalling::default();
    let (fault, zap) = drive(&mmu, Duration::from_millis(20));
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
    let mmu = Stalling::default();
    let slice = Duration::from_millis(20);
    let (fault, zap) = drive(&mmu, slice);
    let due = slice.as_nanos() as f64 / threads::PACE.as_nanos() as f64;
    let done = (fault.count() + zap.count()) as f64;
    assert!((done / due - 1.0).abs() < 2e-3, "{done} of {due}");
    let zapped = mmu.zapped.lock().unwrap();
    assert!(zapped.iter().all(|m| (100..150).contains(&m.gfn.0)));
}
