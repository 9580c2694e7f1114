//! The census finds exactly the chains the guest has.

use std::{cell::Cell, collections::BTreeMap, thread, time::Duration};

use crate::common::{host, run, stderr};
use guest::{
    Driver, Guest, GuestConfig, live,
    tracefs::{EventCounter, EventFilter},
};
use report::{
    Observed,
    schema::{CensusRecord, Record, TdpTables, VmRecord},
};

/// What `rmapscope census` says of this process's VM.
pub(crate) struct Census {
    pub(crate) vm: VmRecord,
    pub(crate) levels: Vec<CensusRecord>,
}

/// Counts this process's VM.
pub(crate) fn census(arguments: &[&str]) -> Census {
    let pid = std::process::id().to_string();
    let output = run(&[&["census", "--json", "--pid", &pid], arguments].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (mut vm, mut levels) = (None, Vec::new());
    for line in text.lines() {
        match serde_json::from_str(line).expect("a record") {
            Record::Vm(found) => vm = Some(found),
            Record::Census(level) => levels.push(level),
            _ => {}
        }
    }
    let vm = vm.expect("the VM is found");
    Census { vm, levels }
}

#[test]
fn long_chains_end_a_chunk_early() {
    let _alone = live::exclusive();
    let name = "long_chains_end_a_chunk_early";
    let able = host().and_then(|()| live::shadow_paging().map_err(|error| error.to_string()));
    let Some(()) = live::require(name, able) else {
        return;
    };
    // The first chunk is of 2048 heads, whatever their chains are.
    a_chunk_ends_early(2048, 200);
    // Of these a block of heads that are read at once takes longer than a chunk may.
    a_chunk_ends_early(256, 960);
}

/// Counts chains of `aliases` SPTEs each: none is passed over, and no CPU is held.
fn a_chunk_ends_early(pages: u64, aliases: u64) {
    let guest = Guest::start(GuestConfig::new(pages, aliases)).expect("the guest starts");
    guest.pause().expect("pauses");
    let censuses: Vec<CensusRecord> = (0..5)
        .flat_map(|_| census(&[]).levels)
        .filter(|level| level.level == 1)
        .collect();
    guest.stop().expect("stops");
    for census in &censuses {
        let found: u64 = census.lengths.values().sum();
        assert_eq!(
            found + census.longer,
            census.heads,
            "no head is passed over"
        );
        let length = u32::try_from(aliases).expect("small");
        assert_eq!(census.lengths.get(&length), Some(&pages), "{census:?}");
    }
    // Others take the CPU at times: the quickest of the censuses is ours alone.
    let longest = censuses.iter().filter_map(|census| census.longest_chunk_ms);
    let longest = longest.reduce(f64::min).expect("timed");
    println!("longest chunk of the quickest census: {longest:.2} ms");
    assert!(longest < 2.0, "a CPU was held for {longest:.2} ms");
}

#[test]
fn chain_lengths_are_the_aliases_asked_for_and_sum_up_to_what_kvm_counts() {
    let _alone = live::exclusive();
    let name = "chain_lengths_are_the_aliases_asked_for_and_sum_up_to_what_kvm_counts";
    let able = host().and_then(|()| live::shadow_paging().map_err(|error| error.to_string()));
    let able = able.and_then(|()| live::tracefs().map_err(|error| error.to_string()));
    let Some(_) = live::require(name, able) else {
        return;
    };
    for (pages, aliases) in [
        (512, 1),
        (512, 4),
        (512, 14),
        (512, 15),
        (512, 16),
        (512, 64),
    ] {
        let guest = Guest::start(GuestConfig::new(pages, aliases)).expect("the guest starts");
        // A kdamond of the host's may make pages old that the paused guest does not touch again.
        let others = EventCounter::start(&EventFilter::in_range(guest.memory()));
        let others = others.expect("events are counted");
        guest.pause().expect("pauses");
        let levels = census(&[]).levels;
        let aged = others.counts().expect("counts").age;
        let counted = guest
            .stats()
            .expect("statistics")
            .sptes_4k()
            .expect("counted");
        guest.stop().expect("stops");

        let level: &CensusRecord = levels.iter().find(|c| c.level == 1).expect("4K heads");
        let lengths: BTreeMap<u32, u64> = level.lengths.clone();
        let aliases = u32::try_from(aliases).expect("small");
        let found = lengths.get(&aliases).copied().unwrap_or(0);
        if aliases > 1 {
            assert_eq!(found, pages, "{lengths:?}");
        } else {
            assert!(found >= pages, "{lengths:?}");
        }
        assert_eq!(level.sptes, counted, "{aliases} aliases: {lengths:?}");
        assert_eq!(
            (level.corrupt, level.faults, level.discarded_chunks),
            (0, 0, 0)
        );
        let accessed = *level.accessed.value().expect("SPTEs were read");
        assert!(
            accessed <= level.sptes && accessed + aged >= pages,
            "{accessed} of {}, {aged} aged",
            level.sptes
        );
    }
}

#[test]
fn heads_alone_give_the_same_lengths_without_the_accessed_share() {
    let _alone = live::exclusive();
    let name = "heads_alone_give_the_same_lengths_without_the_accessed_share";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(256, 3)).expect("the guest starts");
    guest.pause().expect("pauses");
    let (full, heads) = (census(&[]).levels, census(&["--heads-only"]).levels);
    guest.stop().expect("stops");
    assert_eq!(full.len(), heads.len());
    for (full, heads) in full.iter().zip(&heads) {
        assert_eq!(full.lengths, heads.lengths);
        assert!(heads.accessed.value().is_none());
    }
}

/// Censuses that are taken while memslots change.
const CENSUSES: usize = 5;

/// 4K heads in each of [`CENSUSES`], during which memslots change every `pause`.
fn while_changing(pause: Duration, change: impl Fn()) -> Vec<CensusRecord> {
    let levels = thread::scope(|scope| {
        let counting = scope.spawn(|| (0..CENSUSES).flat_map(|_| census(&[]).levels).collect());
        while !counting.is_finished() {
            change();
            thread::sleep(pause);
        }
        counting.join()
    });
    let mut levels: Vec<CensusRecord> = levels.expect("censuses are taken");
    levels.retain(|level| level.level == 1);
    assert_eq!(levels.len(), CENSUSES);
    levels
}

/// Chains of four among `levels`, which are right where no chunk was discarded.
fn assert_right_or_marked(levels: &[CensusRecord], pages: u64) {
    for level in levels {
        let found = level.lengths.get(&4).copied().unwrap_or(0);
        match level.discarded_chunks {
            0 => assert_eq!(found, pages, "not marked: {level:?}"),
            _ => assert!(found <= pages, "{level:?}"),
        }
        assert_eq!((level.corrupt, level.faults), (0, 0), "{level:?}");
    }
}

#[test]
fn memslots_that_come_and_go_during_a_census_leave_it_right_or_marked() {
    const PAGES: u64 = 4096;
    const MOST_PLUGS: usize = 300;
    let _alone = live::exclusive();
    let name = "memslots_that_come_and_go_during_a_census_leave_it_right_or_marked";
    let able = host().and_then(|()| live::shadow_paging().map_err(|error| error.to_string()));
    let Some(()) = live::require(name, able) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(PAGES, 4)).expect("the guest starts");
    guest.pause().expect("pauses");
    let plugs = Cell::new(0);
    let plug = || guest.plug(1, 8).expect("memory is added");
    // A memslot that comes leaves the others' chains alone.
    let a_few = || {
        if plugs.get() < MOST_PLUGS {
            plug();
            plugs.set(plugs.get() + 1);
        }
    };
    let seldom = while_changing(Duration::from_millis(500), a_few);
    let often = while_changing(Duration::from_millis(20), a_few);
    // One that goes takes all of the VM's chains with it, and the paused guest makes none.
    let going = while_changing(Duration::ZERO, || {
        plug();
        guest.unplug(1).expect("memory is removed");
    });
    guest.stop().expect("stops");
    let marked = |levels: &[CensusRecord]| levels.iter().filter(|l| l.discarded_chunks > 0).count();
    println!(
        "of {CENSUSES} censuses {} are marked where memslots come seldom, {} often, {} where they go",
        marked(&seldom),
        marked(&often),
        marked(&going)
    );
    assert!(marked(&seldom) < CENSUSES, "some fit in between");
    assert!(marked(&going) > 0, "some met a change");
    assert_right_or_marked(&seldom, PAGES);
    assert_right_or_marked(&often, PAGES);
}

/// Whether KVM's TDP MMU maps guests here.
pub(crate) fn tdp_mmu() -> Result<(), String> {
    let path = "/sys/module/kvm/parameters/tdp_mmu";
    let value = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    if !matches!(value.trim(), "Y" | "1") {
        return Err(format!("needs the TDP MMU: {path} is off"));
    }
    if live::shadow_paging().is_ok() {
        return Err(
            "needs two-dimensional paging: this host has neither EPT nor NPT on".to_owned(),
        );
    }
    Ok(())
}

/// What the census read in the TDP MMU.
fn tdp() -> TdpTables {
    let Census { vm, levels } = census(&[]);
    assert!(!vm.has_rmaps && levels.is_empty(), "{vm:?}");
    match vm.tdp {
        Observed::Value(tables) => tables,
        Observed::Missing(reason) => panic!("the tables were not read: {reason}"),
    }
}

#[test]
fn tdp_tables_hold_what_kvm_counts_and_grow_old_when_they_are_aged() {
    let _alone = live::exclusive();
    let name = "tdp_tables_hold_what_kvm_counts_and_grow_old_when_they_are_aged";
    let able = host().and_then(|()| tdp_mmu());
    let able = able.and_then(|()| live::damon().map_err(|error| error.to_string()));
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let pages = 700;
    let config = GuestConfig::new(pages, 1).with_driver(Driver::Damon);
    let guest = Guest::start(config).expect("the guest starts");
    guest.pause().expect("pauses");
    let young = tdp();
    let counted = guest.stats().expect("statistics").sptes_4k();
    guest.drive_once().expect("ages");
    let old = tdp();
    guest.stop().expect("stops");
    println!("{young:?}, aged {old:?}");
    assert_eq!(Some(young.sptes_4k), counted, "{young:?}");
    assert_eq!((young.sptes_4k, young.roots), (old.sptes_4k, old.roots));
    let accessed = |tables: &TdpTables| *tables.accessed.value().expect("SPTEs have the bit");
    assert!((pages..=young.sptes()).contains(&accessed(&young)));
    // DAMON makes a page of each region old, not every page.
    assert!(accessed(&old) < accessed(&young), "{old:?} after {young:?}");
}
