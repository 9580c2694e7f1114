//! The census finds exactly the chains the guest has.

use std::collections::BTreeMap;

use crate::common::{host, run, stderr};
use guest::{Guest, GuestConfig, live};
use report::schema::{CensusRecord, Record};

pub(crate) fn census(arguments: &[&str]) -> Vec<CensusRecord> {
    let pid = std::process::id().to_string();
    let output = run(&[&["census", "--json", "--pid", &pid], arguments].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let records = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a record"));
    let censuses = records.filter_map(|record| match record {
        Record::Census(census) => Some(census),
        _ => None,
    });
    censuses.collect()
}

#[test]
fn chain_lengths_are_the_aliases_asked_for_and_sum_up_to_what_kvm_counts() {
    let _alone = live::exclusive();
    let name = "chain_lengths_are_the_aliases_asked_for_and_sum_up_to_what_kvm_counts";
    let able = host().and_then(|()| live::shadow_paging().map_err(|error| error.to_string()));
    let Some(()) = live::require(name, able) else {
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
        guest.pause().expect("pauses");
        let levels = census(&[]);
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
            accessed <= level.sptes && accessed >= pages,
            "{accessed} of {}",
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
    let (full, heads) = (census(&[]), census(&["--heads-only"]));
    guest.stop().expect("stops");
    assert_eq!(full.len(), heads.len());
    for (full, heads) in full.iter().zip(&heads) {
        assert_eq!(full.lengths, heads.lengths);
        assert!(heads.accessed.value().is_none());
    }
}
