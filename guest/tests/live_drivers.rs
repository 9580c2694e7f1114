//! The drivers on the live host: the kernel really ages the guest's pages, and nothing stays.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use guest::tracefs::{AgingCounts, EventCounter, EventFilter};
use guest::{Driver, Guest, GuestConfig, GuestError, live};

fn reclaim_host() -> Result<(), String> {
    live::root()?;
    live::kvm().map_err(|error| error.to_string())?;
    live::memcg().map_err(|error| error.to_string())?;
    live::disk().map_err(|error| error.to_string())?;
    live::tracefs().map_err(|error| error.to_string())?;
    Ok(())
}

fn khugepaged_host() -> Result<(), String> {
    live::root()?;
    live::kvm().map_err(|error| error.to_string())?;
    live::khugepaged().map_err(|error| error.to_string())?;
    live::tracefs().map_err(|error| error.to_string())?;
    Ok(())
}

fn start(config: GuestConfig) -> Guest {
    Guest::start(config).expect("the guest starts")
}

fn sptes(guest: &Guest) -> u64 {
    let stats = guest.stats().expect("statistics");
    stats.sptes_4k().expect("counted")
}

/// Counts the events of `guest` that this thread causes: other agers of the host are not ours.
fn counter(guest: &Guest, tid: Option<u32>) -> EventCounter {
    let mut filter = EventFilter::in_range(guest.memory());
    filter.tid = tid;
    filter.not_comm = Some("kdamond*".into());
    EventCounter::start(&filter).expect("events are counted")
}

/// Kernels of 2026 ask for neighbouring pages at once, but never for more than one page table
/// maps. How many pages they asked for is what the profiler's own tests look at.
fn fewest_callbacks(pages: u64) -> u64 {
    pages / 512
}

fn this_thread() -> Option<u32> {
    let link = fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

#[test]
fn reclaim_of_a_paused_guest_ages_and_takes_every_page() {
    let _alone = live::exclusive();
    let name = "reclaim_of_a_paused_guest_ages_and_takes_every_page";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let pages = 1024;
    let guest = start(GuestConfig::new(pages, 4).with_driver(Driver::Reclaim));
    guest.pause().expect("pauses");
    let before = sptes(&guest);
    let counter = counter(&guest, this_thread());
    // Under two-dimensional paging all aliases of a page share one SPTE.
    let per_page = if live::shadow_paging().is_ok() { 4 } else { 1 };
    let all_taken = || before - sptes(&guest) >= pages * per_page;
    guest.drive_once().expect("reclaims");
    let mut iterations = 1;
    // MGLRU may spare a page or two the first time.
    while !all_taken() && iterations < 5 {
        guest.drive_once().expect("reclaims");
        iterations += 1;
    }
    let counts = counter.counts().expect("counts");
    let report = guest.stop().expect("stops");
    println!("{counts:?} {:?} {iterations} iterations", report.sptes_4k);
    assert!(counts.age >= fewest_callbacks(pages), "{counts:?}");
    assert_eq!(counts.test_age, 0);
    let after = report.sptes_4k.expect("counted");
    assert_eq!(
        before - after,
        pages * per_page,
        "all data pages were taken"
    );
    assert_eq!(report.driver_iterations, iterations);
}

#[test]
fn a_paused_guest_that_is_not_driven_is_not_aged() {
    let _alone = live::exclusive();
    let name = "a_paused_guest_that_is_not_driven_is_not_aged";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let guest = start(GuestConfig::new(512, 1).with_driver(Driver::Reclaim));
    guest.pause().expect("pauses");
    let counter = counter(&guest, None);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(counter.counts().expect("counts"), AgingCounts::default());
}

#[test]
fn reclaim_in_a_loop_goes_on_while_the_guest_brings_its_pages_back() {
    let _alone = live::exclusive();
    let name = "reclaim_in_a_loop_goes_on_while_the_guest_brings_its_pages_back";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let mut guest = start(GuestConfig::new(2048, 16).with_driver(Driver::Reclaim));
    let counter = counter(&guest, None);
    drive_until(&mut guest, 3);
    let counts = counter.counts().expect("counts");
    guest.stop().expect("stops");
    println!("{counts:?}");
    assert!(counts.age > 2048 * 3, "{counts:?}");
}

#[test]
fn a_held_guest_is_aged_a_few_times_per_page_and_iteration() {
    let _alone = live::exclusive();
    let name = "a_held_guest_is_aged_a_few_times_per_page_and_iteration";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let mut config = GuestConfig::new(1024, 16).with_driver(Driver::Reclaim);
    config.hold = true;
    config.driver_pause = Duration::ZERO;
    let mut guest = start(config);
    let counter = counter(&guest, None);
    drive_until(&mut guest, 5);
    let counts = counter.counts().expect("counts");
    let report = guest.stop().expect("stops");
    println!("{counts:?} {} iterations", report.driver_iterations);
    // Young once, then old and taken; MGLRU asks once or twice more while it looks around. A
    // running guest is aged many times more.
    let per_iteration = counts.age / report.driver_iterations;
    assert!((1024..1024 * 5).contains(&per_iteration), "{counts:?}");
}

/// Drives in a loop until `iterations` are done.
fn drive_until(guest: &mut Guest, iterations: u64) {
    guest.start_driving().expect("drives");
    let started = Instant::now();
    while guest.driver_iterations() < iterations {
        assert!(started.elapsed() < Duration::from_secs(60), "too slow");
        guest.check().expect("still running");
        thread::sleep(Duration::from_millis(10));
    }
    guest.stop_driving().expect("stops driving");
}

#[test]
fn the_process_is_in_the_guests_cgroup_only_while_the_guest_lives() {
    let _alone = live::exclusive();
    let name = "the_process_is_in_the_guests_cgroup_only_while_the_guest_lives";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let before = fs::read_to_string("/proc/self/cgroup").expect("membership");
    let guest = start(GuestConfig::new(64, 1).with_driver(Driver::Reclaim));
    let path: PathBuf = guest.cgroup().expect("cgroup").1.into();
    let inside = fs::read_to_string("/proc/self/cgroup").expect("membership");
    assert!(inside.contains(&format!("rmapscope-guest-{}", std::process::id())));
    let second = Guest::start(GuestConfig::new(64, 1).with_driver(Driver::Reclaim));
    assert!(matches!(second, Err(GuestError::Cgroup(_))));
    guest.stop().expect("stops");
    let after = fs::read_to_string("/proc/self/cgroup").expect("membership");
    assert_eq!(before, after);
    assert!(!path.exists(), "the cgroup is still there");
}

#[test]
fn khugepaged_tests_pages_and_leaves_chains_and_settings_alone() {
    let _alone = live::exclusive();
    let name = "khugepaged_tests_pages_and_leaves_chains_and_settings_alone";
    let Some(()) = live::require(name, khugepaged_host()) else {
        return;
    };
    let before = khugepaged_settings();
    let guest = start(GuestConfig::new(2048, 4).with_driver(Driver::Khugepaged));
    assert_ne!(khugepaged_settings(), before);
    let mapped = sptes(&guest);
    let counter = counter(&guest, None);
    for _ in 0..3 {
        guest.drive_once().expect("scans");
    }
    let counts = counter.counts().expect("counts");
    let report = guest.stop().expect("stops");
    println!("{counts:?} {:?}", report.sptes_4k);
    assert!(counts.test_age >= 3 * 4 * 500, "{counts:?}");
    assert_eq!(report.sptes_4k, Some(mapped), "chains stay as they are");
    assert_eq!(khugepaged_settings(), before);
}

fn khugepaged_settings() -> Vec<String> {
    let directory = PathBuf::from("/sys/kernel/mm/transparent_hugepage/khugepaged");
    let names = ["scan_sleep_millisecs", "pages_to_scan", "max_ptes_none"];
    let read = |name| fs::read_to_string(directory.join(name)).expect("setting");
    names.into_iter().map(read).collect()
}

#[test]
fn mglru_asks_for_every_page_and_takes_none() {
    let _alone = live::exclusive();
    let name = "mglru_asks_for_every_page_and_takes_none";
    let able = reclaim_host().and_then(|()| live::mglru().map_err(|error| error.to_string()));
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let pages = 1024;
    let guest = start(GuestConfig::new(pages, 4).with_driver(Driver::Mglru));
    guest.pause().expect("pauses");
    let before = sptes(&guest);
    let counter = counter(&guest, this_thread());
    guest.drive_once().expect("ages");
    let counts = counter.counts().expect("counts");
    let report = guest.stop().expect("stops");
    assert_eq!(report.sptes_4k, Some(before), "chains stay as they are");
    if counts.age == 0 {
        let reason = "this kernel's MGLRU does not ask KVM when it walks page tables";
        live::where_possible::<(), _>(name, Err(reason));
        return;
    }
    assert!(counts.age >= fewest_callbacks(pages), "{counts:?}");
    assert_eq!(counts.test_age, 0);
}

#[test]
fn damon_makes_pages_old_and_looks_at_them_and_leaves_no_kdamond() {
    let _alone = live::exclusive();
    let name = "damon_makes_pages_old_and_looks_at_them_and_leaves_no_kdamond";
    let able = reclaim_host().and_then(|()| live::damon().map_err(|error| error.to_string()));
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let guest = start(GuestConfig::new(512, 4).with_driver(Driver::Damon));
    guest.pause().expect("pauses");
    let before = sptes(&guest);
    let counter = EventCounter::start(&EventFilter::in_range(guest.memory()));
    let counter = counter.expect("events are counted");
    guest.drive_once().expect("watches");
    let counts = counter.counts().expect("counts");
    let report = guest.stop().expect("stops");
    println!("{counts:?}");
    assert!(counts.age > 0 && counts.test_age > 0, "{counts:?}");
    assert_eq!(report.sptes_4k, Some(before), "chains stay as they are");
    live::damon().expect("no kdamond of ours is left");
}
