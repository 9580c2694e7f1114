//! The exact rung against ground truth: results, chain lengths, waits and counts
//! are what the guest and the kernel's own counters say.

use std::time::Instant;

use crate::{
    census::tdp_mmu,
    common::{callbacks, exact_host, losses, reclaim_host, record},
};
use guest::{
    Driver, Guest, GuestConfig, live,
    tracefs::{EventCounter, EventFilter},
};
use report::{
    ResultFile,
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

/// Whether the kernel lets the two MMUs' parts of a walk be told apart.
pub(crate) fn tells_mmus_apart(file: &ResultFile) -> bool {
    let mut signals = file.records.iter().filter_map(|record| match record {
        Record::Mechanism(m) if m.signal.contains("TDP MMU's part") => Some(&m.mechanism),
        _ => None,
    });
    let mechanism = signals.next().expect("the signal is in every recording");
    println!("the TDP MMU's part: {mechanism:?}");
    mechanism.value().is_some()
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
    println!("{clearing:?}");
    let by = [("rmapscope", clearing.callbacks), ("tracefs", counted)];
    live::counted(name, "clearing callbacks of reclaim, guest paused", &by);
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
    // One MMU has all of the guest, and the TDP MMU's part of the walk says which.
    let walked = callbacks(&file).filter(|r| r.chain_len != ChainLen::NotWalked);
    let walked: u64 = walked.map(|r| r.callbacks).sum();
    let in_tdp = callbacks(&file).filter_map(|r| Some(r.tdp.value()?.count()));
    let is_told = tells_mmus_apart(&file) && tdp_mmu().is_ok();
    let expected = if is_told { walked } else { 0 };
    assert_eq!(in_tdp.sum::<u64>(), expected, "of {walked} walked");
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
    assert_eq!(paused.young, 0, "nobody touched a page since: {paused:?}");
    let by = [("asked", running.callbacks), ("young", running.young)];
    live::counted(name, "callbacks of MGLRU, guest running", &by);
    let by = [("asked", paused.callbacks), ("young", paused.young)];
    live::counted(
        name,
        "callbacks of MGLRU the second time, guest paused",
        &by,
    );
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
    // How many of its pages a guest has used since depends on the CPU time it got.
    assert!(looked.young > 0, "a running guest: {looked:?}");
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
        for record in callbacks(file).filter(|r| r.kind.clears()) {
            let length = match record.chain_len {
                ChainLen::Exact(length) if !record.several_pages => i64::from(length),
                _ => -1,
            };
            let key = (record.several_pages, length);
            *counts.entry(key).or_insert(0) += record.callbacks;
        }
        counts
    };
    assert!(!by_length(&exact).is_empty(), "nothing was recorded");
    assert_eq!(by_length(&exact), by_length(&sampled));
    assert_no_loss(&exact);
}

/// The exact rung counts so many callbacks of one recording without a loss.
const MANY: u64 = 200_000;

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
    // khugepaged asks only while it is driven, so both count the same from here on.
    let counter = EventCounter::start(&EventFilter::in_range(guest.memory()));
    let counter = counter.expect("events are counted");
    let mut counted = 0;
    let file = record(&[], || {
        let began = Instant::now();
        while counted < MANY {
            guest.drive_once().expect("looks");
            counted = counter.counts().expect("counts").test_age;
        }
        let per_s = counted as f64 / began.elapsed().as_secs_f64();
        println!("{per_s:.0} callbacks/s");
    });
    guest.stop().expect("stops");
    let looked = sums(&file, |r| r.kind == CallbackKind::TestYoung);
    let timed: u64 = callbacks(&file)
        .filter(|r| r.kind == CallbackKind::TestYoung)
        .map(|r| r.latency.value().expect("timed").count())
        .sum();
    let by = [
        ("rmapscope", looked.callbacks),
        ("rmapscope, entry and exit matched", timed),
        ("tracefs", counted),
    ];
    live::counted(name, "test_young callbacks of khugepaged", &by);
    assert_eq!(looked.callbacks, counted);
    assert_eq!(timed, counted, "every callback has a latency");
    assert_no_loss(&file);
}
