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
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use report::{
    ResultFile,
    latency::Latency,
    proportion::Counts,
    schema::{CallbackKind, CallbackRecord, ChainLen},
};

/// CPU of the thread that ages.
const AGER_CPU: usize = 0;
/// CPU of the thread that holds the lock.
const HOLDER_CPU: usize = 1;

/// Where a lock is waited for at all, more than one hold in this many is: a fifth to a half
/// of them on kernels that take it, and less than a tenth on those that do not.
const ONE_IN: f64 = 8.0;

/// Lets a thread run on one CPU only; 0 is the calling thread.
fn pin(thread: Pid, cpu: usize) {
    let mut only = CpuSet::new();
    only.set(cpu).expect("a CPU");
    sched_setaffinity(thread, &only).expect("pinned");
}

/// khugepaged kept on one CPU, until this goes.
struct Pinned {
    khugepaged: Pid,
    before: CpuSet,
}

impl Pinned {
    fn new(cpu: usize) -> Self {
        let entries = fs::read_dir("/proc").expect("procfs").flatten();
        let is_khugepaged = |path: &Path| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == "khugepaged")
        };
        let khugepaged = entries
            .filter(|entry| is_khugepaged(&entry.path()))
            .find_map(|entry| entry.file_name().to_str()?.parse().ok())
            .expect("khugepaged runs");
        let khugepaged = Pid::from_raw(khugepaged);
        let before = sched_getaffinity(khugepaged).expect("its CPUs");
        pin(khugepaged, cpu);
        Self { khugepaged, before }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = sched_setaffinity(self.khugepaged, &self.before);
    }
}

/// Reads the statistics again and again on another CPU than the ager's while `act`
/// runs; returns how often it did.
fn while_holding(path: &Path, act: impl FnOnce()) -> u64 {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let holder = scope.spawn(|| {
            pin(Pid::from_raw(0), HOLDER_CPU);
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                fs::read(path).expect("readable");
                reads += 1;
            }
            reads
        });
        act();
        stop.store(true, Ordering::Relaxed);
        holder.join().expect("reads")
    })
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
    let cpus = thread::available_parallelism().expect("CPUs").get();
    assert!(cpus > 1, "somebody must run while another holds the lock");
    // Many heads, so that one read of the statistics holds the lock for long.
    let guest = Guest::start(GuestConfig::new(16_384, 1).with_driver(Driver::Khugepaged));
    let guest = guest.expect("the guest starts");
    guest.pause().expect("pauses");
    let Some(path) = live::where_possible(name, rmap_statistics()) else {
        return;
    };
    let hold = hold(&path);
    // Where a holder and the ager share a CPU, the holder waits while the ager runs.
    let pinned = Pinned::new(AGER_CPU);
    // A lock is waited for each time; what else disturbs an emulated machine comes and goes.
    let tries = if ages_without_mmu_lock() { 3 } else { 1 };
    let is_waited_for = (0..tries).all(|_| is_waited_for(name, &guest, &path, hold));
    drop(pinned);
    guest.stop().expect("stops");
    if ages_without_mmu_lock() {
        assert!(!is_waited_for, "nobody waits for mmu_lock");
    } else {
        assert!(is_waited_for, "the holder is waited for");
    }
}

/// Whether callbacks start to walk late more often while somebody holds the lock, for `hold`
/// at a time.
fn is_waited_for(name: &str, guest: &Guest, path: &Path, hold: Duration) -> bool {
    let free = record(&[], || guest.drive_once().expect("looks"));
    let mut holds = 0;
    let held = record(&[], || {
        holds = while_holding(path, || guest.drive_once().expect("looks"));
    });
    let waits = |file| latencies(file, |r| r.wait.value());
    let (free, held) = (waits(&free), waits(&held));
    let long = u64::try_from(hold.as_nanos()).expect("short") / 4;
    let (free, held) = (longer(&free, long), longer(&held, long));
    println!("{holds} reads of {hold:?}");
    let counted = |of, by: &[(&str, u64)]| {
        let of = format!("test_young callbacks, mmu_lock: {of}");
        live::counted(name, &of, by);
    };
    let (all, waited) = ("all", "waited a quarter of a hold");
    counted("nobody holds", &[(all, free.trials), (waited, free.hits)]);
    let of_held = [(all, held.trials), (waited, held.hits), ("holds", holds)];
    counted("held", &of_held);
    // Who reads on another CPU disturbs an emulated machine a little, whatever he holds.
    let more = held.hits as f64 - free.hits as f64 / free.trials as f64 * held.trials as f64;
    low_end(held) > high_end(free) && more * ONE_IN > holds as f64
}

/// Ends of the 95 % interval of a share.
fn low_end(share: Counts) -> f64 {
    share.share_ci95().expect("callbacks").0
}

fn high_end(share: Counts) -> f64 {
    share.share_ci95().expect("callbacks").1
}

/// How many spans are longer than `ns`.
fn longer(spans: &Latency, ns: u64) -> Counts {
    let long = spans.recorded().filter(|(span, _)| *span > ns);
    Counts {
        hits: long.map(|(_, count)| count).sum(),
        trials: spans.count(),
    }
}
