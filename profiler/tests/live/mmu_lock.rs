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
    let guest = Guest::start(GuestConfig::new(8192, 1).with_driver(Driver::Khugepaged));
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
    let median = |file| latencies(file, |r| r.wait.value()).quantile_ns(0.5);
    let hold_ns = u64::try_from(hold.as_nanos()).expect("short");
    let (free, held) = (median(&free), median(&held));
    println!("a read of {hold:?}; half wait {free} ns at most, with holders {held} ns");
    if ages_without_mmu_lock() {
        assert!(held < hold_ns / 4, "nobody waits for mmu_lock");
    } else {
        assert!(held > hold_ns / 4, "the holders are waited for");
        assert!(held > 10 * free, "and only they");
    }
}
