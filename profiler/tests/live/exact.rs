//! The exact rung against ground truth: results, chain lengths, waits and counts
//! are what the guest and the kernel's own counters say.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::common::{Recording, callbacks, exact_host, losses, reclaim_host};
use guest::{
    Driver, Guest, GuestConfig, live,
    tracefs::{EventCounter, EventFilter},
};
use nix::sys::signal::Signal;
use report::{
    ResultFile,
    latency::Latency,
    schema::{CallbackKind, CallbackRecord, CallerClass, ChainLen, Record},
};

fn exact_reclaim_host() -> Result<(), String> {
    exact_host()?;
    reclaim_host()
}

/// Callbacks, young ones, and pages of the records that `wanted` accepts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    callbacks: u64,
    young: u64,
    pages: u64,
}

fn sums(file: &ResultFile, wanted: impl Fn(&CallbackRecord) -> bool) -> Sums {
    let mut sums = Sums::default();
    for record in callbacks(file).filter(|record| wanted(record)) {
        sums.callbacks += record.callbacks;
        sums.young += record.young.value().expect("results are seen");
        sums.pages += record.pages;
    }
    sums
}

/// Nothing of any kind was lost, and every exit found its entry.
fn assert_no_loss(file: &ResultFile) {
    for (cause, count) in losses(file) {
        assert_eq!(count, 0, "{cause}");
    }
    for record in &file.records {
        if let Record::Loss(loss) = record
            && loss.signal == "latency"
        {
            assert_eq!(loss.count.value(), Some(&0), "{}", loss.cause);
        }
        if let Record::Overhead(own) = record {
            let misses = own.recursion_misses.value().copied().unwrap_or(0);
            assert_eq!(misses, 0, "{} was missed", own.program);
        }
    }
}

/// Records while `act` runs.
fn record(arguments: &[&str], act: impl FnOnce()) -> ResultFile {
    let recording = Recording::start(arguments);
    act();
    let ended = recording.end(Some(Signal::SIGINT));
    ended.file.expect("a result file")
}

#[test]
fn reclaim_of_a_paused_guest_finds_each_page_young_once_and_loses_nothing() {
    let _alone = live::exclusive();
    let name = "reclaim_of_a_paused_guest_finds_each_page_young_once_and_loses_nothing";
    let Some(()) = live::where_possible(name, exact_reclaim_host()) else {
        return;
    };
    let pages = 1024;
    let guest = Guest::start(GuestConfig::new(pages, 4).with_driver(Driver::Reclaim));
    let guest = guest.expect("the guest starts");
    guest.pause().expect("pauses");
    let mut counted = 0;
    let file = record(&[], || {
        let filter = EventFilter::in_range(guest.memory());
        let counter = EventCounter::start(&filter).expect("events are counted");
        guest.drive_once().expect("reclaims");
        guest.drive_once().expect("reclaims the rest");
        counted = counter.counts().expect("counts").age;
    });
    guest.stop().expect("stops");
    assert_no_loss(&file);
    let clearing = sums(&file, |record| record.kind.clears());
    println!("{clearing:?}, tracefs {counted}");
    // Some of the process's pages that are not the guest's data are in its memslots too.
    assert!(clearing.callbacks >= counted, "{clearing:?} of {counted}");
    assert!(
        clearing.callbacks <= counted + 64,
        "{clearing:?} of {counted}"
    );
    // A paused guest makes no page young again, so each is found young once.
    let single = sums(&file, |r| r.kind.clears() && !r.several_pages);
    let several = sums(&file, |r| r.kind.clears() && r.several_pages);
    assert!(single.young <= pages + 64, "{single:?}");
    assert!(
        single.young + several.pages >= pages,
        "{single:?} {several:?}"
    );
    assert!(
        clearing.callbacks > clearing.young,
        "old before it was taken"
    );
}

#[test]
fn mglru_finds_a_running_guest_young_and_a_paused_one_old_the_second_time() {
    let _alone = live::exclusive();
    let name = "mglru_finds_a_running_guest_young_and_a_paused_one_old_the_second_time";
    let able = exact_reclaim_host().and_then(|()| live::mglru().map_err(|e| e.to_string()));
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let pages = 1024;
    let guest = Guest::start(GuestConfig::new(pages, 1).with_driver(Driver::Mglru));
    let guest = guest.expect("the guest starts");
    let of_mglru = |r: &CallbackRecord| r.caller == CallerClass::Mglru;
    let file = record(&[], || guest.drive_once().expect("ages"));
    let running = sums(&file, of_mglru);
    assert_no_loss(&file);
    if running.callbacks == 0 {
        let reason = "this kernel's MGLRU does not ask KVM when it walks page tables";
        live::where_possible::<(), _>(name, Err(reason));
        return;
    }
    guest.pause().expect("pauses");
    guest.drive_once().expect("ages");
    let file = record(&[], || guest.drive_once().expect("ages"));
    let paused = sums(&file, of_mglru);
    guest.stop().expect("stops");
    assert_no_loss(&file);
    println!("running {running:?}, paused {paused:?}");
    assert!(
        running.pages >= pages && paused.pages >= pages,
        "{running:?} {paused:?}"
    );
    assert!(running.young * 10 >= running.callbacks * 9, "{running:?}");
    assert!(paused.young * 50 <= paused.callbacks, "{paused:?}");
    for record in callbacks(&file).filter(|record| of_mglru(record)) {
        assert_eq!(record.kind, CallbackKind::ClearYoung);
    }
}

#[test]
fn damon_is_told_from_all_others_and_sees_what_the_guest_does() {
    let _alone = live::exclusive();
    let name = "damon_is_told_from_all_others_and_sees_what_the_guest_does";
    let able = exact_reclaim_host().and_then(|()| live::damon().map_err(|e| e.to_string()));
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let pages = 256;
    let guest = Guest::start(GuestConfig::new(pages, 1).with_driver(Driver::Damon));
    let guest = guest.expect("the guest starts");
    let of_damon = |r: &CallbackRecord| r.caller == CallerClass::Damon;
    let running = record(&[], || guest.drive_once().expect("watches"));
    guest.pause().expect("pauses");
    guest.drive_once().expect("watches");
    let paused = record(&[], || guest.drive_once().expect("watches"));
    guest.stop().expect("stops");
    let made_old = sums(&running, |r| of_damon(r) && r.kind.clears());
    let looked = sums(&running, |r| of_damon(r) && !r.kind.clears());
    println!("{made_old:?} {looked:?}");
    assert!(
        made_old.callbacks > 0 && looked.callbacks > 0,
        "{made_old:?}"
    );
    assert!(
        looked.young * 2 > looked.callbacks,
        "a running guest: {looked:?}"
    );
    // A page not looked at before is found young once, when it is made old.
    let made_old = sums(&paused, |r| of_damon(r) && r.kind.clears());
    let still = sums(&paused, |r| of_damon(r) && !r.kind.clears());
    assert!(still.callbacks > 0, "it watches a paused guest");
    assert_eq!(still.young, 0, "{still:?}");
    assert!(made_old.young <= pages, "{made_old:?}");
    for file in [&running, &paused] {
        assert_no_loss(file);
    }
}

#[test]
fn two_recordings_on_different_rungs_count_the_same() {
    let _alone = live::exclusive();
    let name = "two_recordings_on_different_rungs_count_the_same";
    let Some(()) = live::where_possible(name, exact_reclaim_host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(1024, 4).with_driver(Driver::Reclaim));
    let guest = guest.expect("the guest starts");
    guest.pause().expect("pauses");
    let mut sampled = None;
    let exact = record(&[], || {
        sampled = Some(record(&["--mechanism", "sampled"], || {
            guest.drive_once().expect("reclaims");
        }));
    });
    guest.stop().expect("stops");
    let sampled = sampled.expect("recorded");
    let by_length = |file: &ResultFile| {
        let mut counts = std::collections::BTreeMap::new();
        for record in callbacks(file).filter(|r| r.kind.clears() && !r.several_pages) {
            let length = match record.chain_len {
                ChainLen::Exact(length) => i64::from(length),
                _ => -1,
            };
            *counts.entry(length).or_insert(0) += record.callbacks;
        }
        counts
    };
    assert!(!by_length(&exact).is_empty(), "nothing was recorded");
    assert_eq!(by_length(&exact), by_length(&sampled));
    assert_no_loss(&exact);
}

#[test]
fn many_callbacks_are_all_counted_and_matched() {
    let _alone = live::exclusive();
    let name = "many_callbacks_are_all_counted_and_matched";
    let able = exact_host()
        .and_then(|()| live::khugepaged().map_err(|e| e.to_string()))
        .and_then(|()| live::tracefs().map(drop).map_err(|e| e.to_string()));
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(4096, 1).with_driver(Driver::Khugepaged));
    let guest = guest.expect("the guest starts");
    guest.pause().expect("pauses");
    let mut counted = 0;
    let file = record(&[], || {
        let filter = EventFilter::in_range(guest.memory());
        let counter = EventCounter::start(&filter).expect("events are counted");
        while counted < 20_000 {
            guest.drive_once().expect("looks");
            counted = counter.counts().expect("counts").test_age;
        }
        // khugepaged goes on scanning: only the guest's end ends its callbacks.
        guest.stop().expect("stops");
        counted = counter.counts().expect("counts").test_age;
    });
    let looked = sums(&file, |r| r.kind == CallbackKind::TestYoung);
    println!("{looked:?}, tracefs {counted}");
    assert_eq!(looked.callbacks, counted);
    assert_no_loss(&file);
    let timed: u64 = callbacks(&file)
        .filter(|r| r.kind == CallbackKind::TestYoung)
        .map(|r| r.latency.value().expect("timed").count())
        .sum();
    assert_eq!(timed, counted, "every callback has a latency");
}

/// Where KVM shows this process's VM: the file whose reading holds `mmu_lock`
/// for write over all rmaps.
fn rmap_statistics() -> Result<PathBuf, String> {
    let folder = "/sys/kernel/debug/kvm";
    let entries = fs::read_dir(folder).map_err(|error| format!("{folder}: {error}"))?;
    // Named after the thread that created it.
    let own = format!("{}-", nix::unistd::gettid());
    let mut files = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
        .map(|entry| entry.path().join("mmu_rmaps_stat"));
    files
        .find(|path| path.exists())
        .ok_or_else(|| format!("{folder} does not show this process's VM"))
}

/// Reads `path` again and again while `act` runs; returns the mean time of a
/// read.
fn while_holding(path: &PathBuf, act: impl FnOnce()) -> Duration {
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::read(path).expect("readable");
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        act();
        stop.store(true, Ordering::Relaxed);
    });
    let reads = u32::try_from(reads.into_inner().max(1)).expect("few");
    started.elapsed() / reads
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

/// Upstream kernels from 6.15 on. The profiler concludes nothing from a version;
/// this test must know the truth from elsewhere.
fn ages_without_mmu_lock() -> bool {
    let release = nix::sys::utsname::uname().expect("a kernel");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 15)
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
    let guest = Guest::start(GuestConfig::new(32_768, 1).with_driver(Driver::Khugepaged));
    let guest = guest.expect("the guest starts");
    guest.pause().expect("pauses");
    let Some(path) = live::where_possible(name, rmap_statistics()) else {
        return;
    };
    let free = record(&[], || guest.drive_once().expect("looks"));
    let mut hold = Duration::ZERO;
    let held = record(&[], || {
        hold = while_holding(&path, || guest.drive_once().expect("looks"));
    });
    guest.stop().expect("stops");
    // Many callbacks fit between two reads and wait for nobody.
    let waits = |file| latencies(file, |r| r.wait.value()).quantile_ns(0.99);
    let hold_ns = u64::try_from(hold.as_nanos()).expect("short");
    let (free, held) = (waits(&free), waits(&held));
    println!("a read of {hold:?}; 99 % wait at most {free} ns, with a holder {held} ns");
    if ages_without_mmu_lock() {
        assert!(held < hold_ns / 4, "nobody waits for mmu_lock");
    } else {
        assert!(held > hold_ns / 4, "the holder is waited for");
        assert!(held > 10 * free, "and only the holder");
    }
}
