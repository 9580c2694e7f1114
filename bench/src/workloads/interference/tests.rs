//! `interference`: who runs, what is shared out, and that latencies hide nothing.

use std::time::Instant;

use rmap::Mapping;

use super::threads::{Call, Driver};
use super::*;
use crate::cpus::CpuList;
use crate::plan::tests::plan;

#[test]
fn every_aging_meets_every_load() {
    let crews = Crew::all(3);
    assert_eq!(crews.len(), 6);
    for load in [Load::Paced, Load::ClosedLoop] {
        for aging in [Aging::None, Aging::Periodic, Aging::BackToBack] {
            let crew = Crew {
                aging,
                load: Some(load),
                vcpus: 3,
            };
            assert!(crews.contains(&crew));
        }
    }
}

#[test]
fn a_role_has_the_same_cpus_in_all_crews() {
    let list = CpuList::from_cpus(vec![4, 2, 7]).unwrap();
    for crew in Crew::all(2) {
        let cpus = crew.cpus(&list).unwrap();
        let all: &[usize] = if crew.agers() > 0 {
            &[4, 2, 7]
        } else {
            &[2, 7]
        };
        assert_eq!(cpus, all);
    }
    assert_eq!(Crew::AGER_ALONE.cpus(&list).unwrap(), [4]);
}

const PACED: [&str; 5] = [
    "due_p50_ns",
    "due_p99_ns",
    "service_p50_ns",
    "service_p99_ns",
    "done_share",
];
const CLOSED: [&str; 3] = ["closed_p50_ns", "service_p50_ns", "service_p99_ns"];

/// The metrics of vCPU operations that a cell owes.
fn owed(crew: Crew) -> &'static [&'static str] {
    match crew.load {
        Some(Load::Paced) => &PACED,
        Some(Load::ClosedLoop) => &CLOSED,
        None => &[],
    }
}

fn check(plan: &Plan, scheme: &str, crew: Crew) {
    let vm = Rc::new(RefCell::new(None));
    let slice = Duration::from_millis(2);
    let cell = InterferenceCell::new(plan, slice, scheme, 15, crew, vm).unwrap();
    let mut cell = cell.into_cell();
    let mut tools = Tools::of_tests();
    cell.measure.prepare().unwrap();
    // On a busy machine a vCPU may be switched out for a whole short slice.
    let faulted = |m: &Measured| {
        let latency = |r: &Reading| r.op == Op::Fault && r.latency.is_some();
        m.readings.iter().any(latency)
    };
    let mut rounds = (0..50).map(|_| cell.measure.measure(&mut tools).unwrap());
    let measured = rounds.find(|m| faulted(m) == crew.load.is_some()).unwrap();
    drop(rounds);
    let ops: Vec<_> = measured.readings.iter().map(|r| (r.op, r.metric)).collect();
    assert_eq!(ops.contains(&(Op::Age, "ns_per_gfn")), crew.agers() > 0);
    for op in [Op::Fault, Op::Zap] {
        let metrics: Vec<_> = ops.iter().filter(|o| o.0 == op).map(|o| o.1).collect();
        assert_eq!(metrics.len(), owed(crew).len(), "{scheme} {crew:?}");
        assert!(owed(crew).iter().all(|m| metrics.contains(m)));
    }
    let finite = |r: &Reading| r.value > 0.0 && r.value.is_finite();
    assert!(measured.readings.iter().all(finite));
    let cpus = cell.params.cpus.as_ref().unwrap().len();
    assert_eq!(measured.threads.len(), cpus);
}

#[test]
fn every_scheme_gives_aging_cost_latencies_and_controls() {
    let plan = plan();
    if plan.cpus.as_slice().len() < 2 {
        return;
    }
    for scheme in rmap::schemes().iter().filter(|s| s.max_aliases() >= 15) {
        for crew in Crew::all(1).into_iter().chain([Crew::AGER_ALONE]) {
            check(&plan, scheme.name, crew);
        }
    }
}

const STALL: Duration = Duration::from_millis(3);
const SLICE: Duration = Duration::from_millis(20);

/// Drives an MMU whose fault of that number takes [`STALL`]; what it was asked.
fn drive(load: Load, stalled_fault: usize) -> (Driver, Vec<(Call, Mapping)>) {
    drive_for(SLICE, load, stalled_fault)
}

/// A drive during which other work left the CPU for a tenth of the time or more.
fn drive_on_a_cpu(load: Load, stalled_fault: usize) -> (Driver, Vec<(Call, Mapping)>) {
    let mut drives = (0..50).map(|_| drive(load, stalled_fault));
    let done = |d: &Driver| d.fault.latency.count() + d.zap.latency.count();
    drives.find(|(driver, _)| done(driver) > 100).unwrap()
}

fn drive_for(slice: Duration, load: Load, stalled_fault: usize) -> (Driver, Vec<(Call, Mapping)>) {
    let mut driver = Driver {
        clock: Clock::calibrate(),
        slice,
        rng: Rng::new(1),
        pages: Pages {
            first: 100,
            count: 50,
        },
        chain_len: 4,
        load,
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
        let (Driver { fault, zap, .. }, _) = drive(Load::Paced, 0);
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
    let (Driver { fault, zap, .. }, seen) = drive_on_a_cpu(Load::Paced, 474);
    let due = SLICE.as_micros() as u64 / threads::PACE.as_micros() as u64;
    assert!(fault.due + zap.due == due || fault.due + zap.due == due - 1);
    let done = fault.latency.count() + zap.latency.count();
    assert!(due - done >= 45, "{done} of {due}");
    assert!(fault.done_share() < 0.97 && fault.done_share() > 0.0);
    assert!(seen.len() as u64 - done <= 1);
}

#[test]
fn operations_are_paced_stay_on_their_pages_and_reach_every_alias() {
    let (Driver { fault, zap, .. }, seen) = drive_on_a_cpu(Load::Paced, usize::MAX);
    let due = SLICE.as_nanos() as f64 / threads::PACE.as_nanos() as f64;
    let done = (fault.latency.count() + zap.latency.count()) as f64;
    assert!(done <= due, "{done} of {due}");
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
    let running = Roster::default();
    let on_duty = running.join();
    let stage = Stage {
        mmu: vm.mmu(),
        clock: Clock::calibrate(),
        slice: Duration::from_millis(1),
        period: None,
        running: &running,
    };
    let late = Duration::from_millis(30);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(late);
            drop(on_duty);
        });
        let (gfns, ns) = stage.age_until_end(Pages::share(GFNS, 0, 1));
        assert!(gfns > 0 && ns >= late.as_nanos() as f64 * 0.8, "{ns}");
    });
}

#[test]
fn periodic_aging_goes_over_the_pages_once_a_period() {
    let vm = Vm::build("rwlock-write", GFNS, 1).unwrap();
    let running = Roster::default();
    let stage = Stage {
        mmu: vm.mmu(),
        clock: Clock::calibrate(),
        slice: Duration::from_millis(200),
        period: Some(Duration::from_millis(60)),
        running: &running,
    };
    // At 0, 60, 120 and 180 ms, or fewer if other work took the CPU.
    let (gfns, _) = stage.age_until_end(Pages::share(GFNS, 0, 1));
    assert!((1..=4 * GFNS).contains(&gfns), "{gfns}");
}

#[test]
fn a_closed_loop_times_calls_alone_and_loses_what_a_stall_delayed() {
    let (Driver { fault, zap, .. }, seen) = drive(Load::ClosedLoop, 3);
    assert_eq!((fault.due, fault.latency.count()), (0, 0));
    assert_eq!(fault.service.count(), zap.service.count());
    assert_eq!(
        fault.service.count() + zap.service.count(),
        seen.len() as u64
    );
    assert!(fault.service.summary().max_ns >= STALL.as_nanos() as u64);
    assert!(fault.service.quantile_ns(0.5) < STALL.as_nanos() as u64 / 100);
}

#[test]
fn what_was_zapped_is_faulted_in_again_after_the_end() {
    // The zap is due within the slice and its fault is not; a vCPU that was switched
    // out begins neither.
    let driven = |_| {
        let (Driver { fault, zap, .. }, seen) = drive_for(threads::PACE * 3 / 2, Load::Paced, 9);
        assert_eq!((seen.len() % 2, fault.service.count()), (0, 0));
        zap.service.count() == 1
    };
    assert!((0..50).any(driven));
}

/// A vCPU that did so many faults of so many due, in this time from when they were due
/// and from when they were begun.
fn vcpu(due: u64, done: u64, latency_ns: u64, service_ns: u64) -> Part {
    let mut fault = Ops::new();
    fault.due = due;
    fault.latency.record_many_ns(latency_ns, done);
    fault.service.record_many_ns(service_ns, done);
    let zap = Box::new(Ops::new());
    Part {
        figures: Figures::Vcpu {
            fault: Box::new(fault),
            zap,
        },
        counters: Vec::new(),
        disturbance: crate::disturb::ThreadWatch::start().stop(),
    }
}

#[test]
fn figures_are_of_all_vcpus_and_what_their_names_say() {
    let measured = gather(vec![vcpu(120, 100, 200, 50), vcpu(80, 50, 400, 70)]);
    let values: Vec<_> = measured
        .readings
        .iter()
        .map(|r| (r.metric, r.value))
        .collect();
    let expected = [
        ("due_p50_ns", 200.0),
        ("due_p99_ns", 400.0),
        ("service_p50_ns", 50.0),
        ("service_p99_ns", 70.0),
        ("done_share", 0.75),
    ];
    assert_eq!(values, expected);
    let latency = measured.readings[0].latency.as_ref().unwrap().summary();
    assert_eq!((latency.count, latency.max_ns), (150, 400));
    assert_eq!(measured.threads.len(), 2);
}
