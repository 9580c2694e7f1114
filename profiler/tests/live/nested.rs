//! A guest that runs a guest: rmaps and the TDP MMU's tables beside each other.

use std::{collections::BTreeMap, env, path::PathBuf};

use crate::{
    census::{Census, census},
    common::{Recording, callbacks, host, losses, reclaim_host},
    exact::tells_mmus_apart,
};
use guest::{Driver, Guest, GuestConfig, live};
use report::{
    Observed, ResultFile, ResultWriter,
    schema::{CensusRecord, ChainLen, Disturbance, GuestRun, Outcome, Record},
};

/// Where files go that somebody else is to have, if anybody wants them.
const KEEP: &str = "RMAPSCOPE_KEEP";
/// Pages an L2 uses besides its data: code, control page, page tables.
const OWN_PAGES: u64 = 8;

fn nested_host() -> Result<(), String> {
    live::nested().map_err(|error| error.to_string())?;
    host()
}

fn nested_reclaim_host() -> Result<(), String> {
    live::nested().map_err(|error| error.to_string())?;
    reclaim_host()
}

/// The rmaps that hold SPTEs, by length.
fn in_use(level: &CensusRecord) -> BTreeMap<u32, u64> {
    let in_use = level.lengths.iter().filter(|(length, _)| **length > 0);
    in_use.map(|(length, heads)| (*length, *heads)).collect()
}

/// The data pages have chains as long as L1 maps them, L2's own pages one SPTE.
fn assert_lengths(level: &CensusRecord, pages: u64, aliases: u32) {
    let mut lengths = in_use(level);
    let own = OWN_PAGES;
    if aliases == 1 {
        let ones = lengths.remove(&1).unwrap_or(0);
        assert!((pages + 1..=pages + own).contains(&ones), "{level:?}");
    } else {
        assert_eq!(lengths.remove(&aliases), Some(pages), "{level:?}");
        let ones = lengths.remove(&1).unwrap_or(0);
        assert!((1..=own).contains(&ones), "{level:?}");
    }
    assert!(lengths.is_empty(), "{lengths:?}");
    assert_eq!(
        (
            level.longer,
            level.corrupt,
            level.faults,
            level.discarded_chunks
        ),
        (0, 0, 0, 0)
    );
}

#[test]
fn chains_are_as_long_as_l1_maps_a_page_and_the_tdp_mmu_is_beside_them() {
    let _alone = live::exclusive();
    let name = "chains_are_as_long_as_l1_maps_a_page_and_the_tdp_mmu_is_beside_them";
    let Some(()) = live::where_possible(name, nested_host()) else {
        return;
    };
    let pages = 512;
    for aliases in [1, 2, 15] {
        let config = GuestConfig::new(pages, aliases).nested();
        let guest = Guest::start(config).expect("the guest starts");
        guest.pause().expect("pauses");
        let Census { vm, levels } = census(&[]);
        let counted = guest.stats().expect("statistics").sptes_4k();
        guest.stop().expect("stops");

        let level = levels.iter().find(|level| level.level == 1);
        let level = level.expect("the shadow MMU is in use");
        assert_lengths(level, pages, u32::try_from(aliases).expect("small"));
        assert!(vm.has_rmaps);
        let tdp = match &vm.tdp {
            Observed::Value(tdp) => tdp,
            Observed::Missing(reason) => panic!("the TDP MMU's tables were not read: {reason}"),
        };
        println!(
            "{aliases} aliases: {:?}, {tdp:?}, KVM {counted:?}",
            in_use(level)
        );
        // L1 touches every data page itself.
        assert!(tdp.sptes_4k >= pages, "{tdp:?}");
        assert_eq!(Some(level.sptes + tdp.sptes_4k), counted, "{tdp:?}");
        assert_eq!((tdp.sptes_2m, tdp.sptes_1g), (0, 0), "{tdp:?}");
        let accessed = *level.accessed.value().expect("SPTEs were read");
        assert!(accessed >= pages * aliases, "{accessed} of {}", level.sptes);
        let accessed = *tdp.accessed.value().expect("SPTEs have the bit");
        assert!((pages..=tdp.sptes()).contains(&accessed), "{tdp:?}");
    }
}

/// Reclaim of a nested guest that stands still while its pages are aged, recorded.
fn reclaimed(aliases: u64) -> (ResultFile, GuestRun) {
    let mut config = GuestConfig::new(1024, aliases).nested();
    config = config.with_driver(Driver::Reclaim);
    config.hold = true;
    let mut guest = Guest::start(config).expect("the guest starts");
    let facts = GuestRun {
        pages: 1024,
        aliases: u32::try_from(aliases).expect("small"),
        nested: true,
        backing: guest.config().backing.name().to_owned(),
        driver: Driver::Reclaim.name().to_owned(),
        held: true,
        sptes_4k: match guest.stats().expect("statistics").sptes_4k() {
            Some(sptes) => Observed::Value(sptes),
            None => Observed::missing("KVM's statistics have no pages_4k"),
        },
    };
    let recording = Recording::lasting("5s", &[]);
    guest.start_driving().expect("drives");
    let ended = recording.end(None);
    guest.stop().expect("stops");
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    (ended.file.expect("a result file"), facts)
}

#[test]
fn aging_a_nested_guest_finds_the_chains_that_l1_made() {
    let _alone = live::exclusive();
    let name = "aging_a_nested_guest_finds_the_chains_that_l1_made";
    let Some(()) = live::where_possible(name, nested_reclaim_host()) else {
        return;
    };
    let runs: Vec<_> = [1, 4].map(reclaimed).into();
    for (file, guest) in &runs {
        let mut by_length = BTreeMap::new();
        for record in callbacks(file).filter(|r| r.kind.clears() && !r.several_pages) {
            if let ChainLen::Exact(length) = record.chain_len {
                *by_length.entry(length).or_insert(0) += record.callbacks;
            }
        }
        println!(
            "{} aliases: callbacks by chain length {by_length:?}",
            guest.aliases
        );
        // L0 asks both MMUs for every page: the TDP MMU's part of the walk is never all of it.
        for record in callbacks(file).filter(|r| r.kind.clears()) {
            let (Observed::Value(all), Observed::Value(tdp)) = (&record.latency, &record.tdp)
            else {
                continue;
            };
            assert_eq!(tdp.count(), record.callbacks, "{record:?}");
            assert!(tdp.mean_ns() < all.mean_ns(), "{record:?}");
        }
        let in_tdp = callbacks(file).filter(|r| r.tdp.value().is_some());
        assert_eq!(in_tdp.count() > 0, tells_mmus_apart(file), "both are asked");
        // Linux 7.3 asks for all pages of a large folio at once: their chains are added up.
        let several = callbacks(file).filter(|r| r.kind.clears() && r.several_pages);
        let several: u64 = several.map(|r| r.pages).sum();
        let full = by_length.get(&guest.aliases).copied().unwrap_or(0);
        assert!(
            full + several >= guest.pages,
            "{by_length:?}, {several} others"
        );
        // Nothing between L2's own pages, or none, and what L1 was asked for.
        let between = by_length.range(2..guest.aliases.max(2)).count();
        let beyond = by_length.range(guest.aliases + 1..).count();
        assert_eq!((between, beyond), (0, 0), "{by_length:?}");
        for (cause, count) in losses(file) {
            assert_eq!(count, 0, "{cause}");
        }
    }
    if let Some(folder) = env::var_os(KEEP) {
        keep(&PathBuf::from(folder).join("nested.jsonl"), runs);
    }
}

/// Puts the recordings into one file, each with its guest.
fn keep(path: &std::path::Path, runs: Vec<(ResultFile, GuestRun)>) {
    let context = runs[0].0.context.clone();
    let mut writer = ResultWriter::create(path, context).expect("a new file");
    for (number, (file, guest)) in (0..).zip(runs) {
        for mut record in file.records {
            record.set_run(number);
            match &mut record {
                Record::Run(run) => run.guest = Some(guest.clone()),
                Record::Vm(vm) => vm.cgroup = Observed::missing("a test guest's own, gone with it"),
                _ => {}
            }
            writer.push(&record).expect("written");
        }
    }
    let disturbance = Disturbance::unwatched("two recordings, each watched by itself");
    let finished = writer.finish(Outcome::Complete, None, disturbance);
    finished.expect("complete");
}
