//! Waiting for `mmu_lock` is told from walking, with somebody who holds it on purpose.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::common::{callbacks, exact_host, kernel_version, record, rmap_statistics};
use guest::{Driver, Guest, GuestConfig, live};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use report::{
    ResultFile,
    latency::Latency,
    schema::{CallbackKind, CallbackRecord, ChainLen},
};

/// Reads the statistics on every CPU again and again while `act` runs: wherever an
/// ager runs, somebody on another CPU holds the lock.
fn while_holding(path: &Path, act: impl FnOnce()) {
    let cpus = thread::available_parallelism().expect("CPUs").get();
    assert!(cpus > 1, "somebody must run while another holds the lock");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for cpu in 0..cpus {
            let stop = &stop;
            scope.spawn(move || {
                let mut this_cpu = CpuSet::new();
                this_cpu.set(cpu).expect("a CPU");
                sched_setaffinity(Pid::from_raw(0), &this_cpu).expect("pinned");
                while !stop.load(Ordering::Relaxed) {
                    fs::read(path).expect("readable");
                }
            });
        }
        act();
        stop.store(true, Ordering::Relaxed);
    });
}

/// How long one read takes while nobody else wants the lock.
fn hold(path: &Path) -> Duration {
    let reads = (0..10).map(|_| {
        let started = Instant::now();
        fs::read(path).expect("readable");
        started.elapsed()
    });
    reads.min().expect("ten")
}

/// The distribution of one span of all test_young callbacks.
fn latencies(file: &ResultFile, span: impl Fn(&CallbackRecord) -> Option<&Latency>) -> Latency {
    let mut all = Latency::new();
    let looked = |r: &&CallbackRecord| r.kind == CallbackKind::TestYoung;
    let walked = |r: &&CallbackRecord| r.chain_len != ChainLen::NotWalked;
    for record in callbacks(file).filter(looked).filter(walked) {
        all.merge(span(record).expect("timed"));
    }
    all
}

/// Upstream kernels from 6.15 on.
fn ages_without_mmu_lock() -> bool {
    kernel_version() >= (6, 15)
}

#[test]
fn waiting_for_mmu_lock_is_told_from_walking() {
    let _alone = live::exclusive();
    let name = "waiting_for_mmu_lock_is_told_from_walking";
    let able = exact_host()
        .and_then(|()| live::khugepaged().map_err(|e| e.to_string()))
        .and_then(|()| live::shadow_paging());
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    // Many heads, so that one read of the statistics holds the lock for long.
    let guest = Guest::start(GuestConfig::new(16_384, 1).with_driver(Driver::Khugepaged));
    let guest = guest.expect("the guest starts");
    guest.pause().expect("pauses");
    let Some(path) = live::where_possible(name, rmap_statistics()) else {
        return;
    };
    let hold = hold(&path);
    let free = record(&[], || guest.drive_once().expect("looks"));
    let held = record(&[], || {
        while_holding(&path, || guest.drive_once().expect("looks"));
    });
    guest.stop().expect("stops");
    let waits = |file| latencies(file, |r| r.wait.value());
    let (free, held) = (waits(&free), waits(&held));
    // Many callbacks fit between two reads and wait for nobody.
    let long = u64::try_from(hold.as_nanos()).expect("short") / 4;
    let (free_long, held_long) = (longer(&free, long), longer(&held, long));
    println!("a read of {hold:?}");
    for (of, waits, long) in [
        ("nobody holds", &free, free_long),
        ("held", &held, held_long),
    ] {
        let of = format!("test_young callbacks, mmu_lock: {of}");
        let by = [("all", waits.count()), ("waited a quarter of a hold", long)];
        live::counted(name, &of, &by);
    }
    if ages_without_mmu_lock() {
        assert!(held_long * 50 <= held.count(), "nobody waits for mmu_lock");
    } else {
        assert!(
            held_long >= 10 * free_long.max(2),
            "the holders are waited for"
        );
    }
}

/// How many spans are longer than `ns`.
fn longer(spans: &Latency, ns: u64) -> u64 {
    let long = spans.recorded().filter(|(span, _)| *span > ns);
    long.map(|(_, count)| count).sum()
}
