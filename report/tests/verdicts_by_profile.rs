//! What a profile's chain lengths decide depends on whose VMs they are of.

use report::{
    Observed,
    schema::{KvmConfig, Record, Verdict, VerdictRecord},
    verdicts::{Checks, Evidence, Profile, judge_all},
};

/// A run that looked at a test guest (nested or not, with so many aliases), or at the
/// host's own VMs, and its census.
fn census(run: u32, guest: Option<(bool, u32)>, lengths: &[(u32, u64)]) -> Vec<Record> {
    let record = |value| serde_json::from_value(value).unwrap();
    let guest = guest.map(|(nested, aliases)| {
        serde_json::json!({
            "pages": 2048, "aliases": aliases, "nested": nested, "backing": "file",
            "driver": "reclaim", "held": false, "sptes_4k": { "value": 2048 },
        })
    });
    let unseen = serde_json::json!({ "value": null, "reason": "not looked at" });
    let run_record = serde_json::json!({
        "record": "run", "run": run, "started_utc": "2026-01-01T00:00:00Z",
        "duration_s": 1.0, "guest": guest, "complete": true, "sampling": unseen,
    });
    let census = serde_json::json!({
        "record": "census", "run": run, "vm": 0, "level": 1, "heads": 4096,
        "lengths": lengths, "longer": 0, "sptes": 0, "accessed": unseen, "locked": 0,
        "read_again": 1_000_000, "locked_again": 0, "corrupt": 0, "faults": 0,
        "discarded_chunks": 0, "elapsed_ms": 1.0,
    });
    vec![record(run_record), record(census)]
}

/// KVM with these parameters.
fn kvm(parameters: &[(&str, &str)]) -> KvmConfig {
    let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    KvmConfig {
        backend: Observed::missing("a test"),
        built_in: Observed::missing("a test"),
        parameters: parameters.iter().map(text).collect(),
        lockless_aging: Observed::missing("a test"),
    }
}

/// KVM as it is nearly everywhere.
fn with_tdp_mmu() -> KvmConfig {
    kvm(&[("kvm.tdp_mmu", "Y"), ("kvm_amd.npt", "Y")])
}

/// The verdict on a claim by profiles of such hosts.
fn judged(profiles: &[(KvmConfig, Vec<Record>)], id: &str) -> VerdictRecord {
    let profiles: Vec<Profile<'_>> = profiles
        .iter()
        .map(|(kvm, records)| Profile { kvm, records })
        .collect();
    let checks = Checks::default();
    let mut records = judge_all(&Evidence::new(&[], &profiles, &checks));
    records.retain(|record| record.claim_id == id);
    records.pop().unwrap()
}

fn one_spte(records: Vec<Record>) -> VerdictRecord {
    judged(&[(with_tdp_mmu(), records)], "one-spte")
}

const ALONE: [(u32, u64); 3] = [(0, 100), (1, 2000), (2, 20)];
const SHARED: [(u32, u64); 2] = [(1, 1000), (4, 1000)];

#[test]
fn a_hosts_own_guests_decide() {
    let own = |lengths: &[(u32, u64)]| one_spte(census(0, None, lengths)).verdict;
    assert_eq!(own(&ALONE), Verdict::Confirmed);
    assert_eq!(own(&SHARED), Verdict::Refuted);
    // Nine of ten, of so few.
    assert_eq!(own(&[(1, 9), (2, 1)]), Verdict::Open);
    assert_eq!(own(&[(0, 100)]), Verdict::Open);
    let nested = census(1, Some((true, 1)), &ALONE);
    let both = [census(0, None, &SHARED), nested].concat();
    assert_eq!(one_spte(both).verdict, Verdict::Refuted);
}

#[test]
fn without_the_tdp_mmu_a_hosts_own_guests_say_nothing_of_nested_tdp() {
    let off: [&[(&str, &str)]; 5] = [
        &[("kvm.tdp_mmu", "Y"), ("kvm_intel.ept", "N")],
        &[("kvm.tdp_mmu", "Y"), ("kvm_amd.npt", "0")],
        &[("kvm.tdp_mmu", "N"), ("kvm_intel.ept", "Y")],
        &[("kvm.tdp_mmu", "N"), ("kvm_pvm.force", "N")],
        &[],
    ];
    for parameters in off {
        for lengths in [&ALONE[..], &SHARED] {
            let host = (kvm(parameters), census(0, None, lengths));
            let alone = judged(std::slice::from_ref(&host), "one-spte");
            assert_eq!(alone.verdict, Verdict::Open, "{parameters:?}");
            assert!(alone.because.contains("without the TDP MMU"));
            // Nor does it hide what another profile says.
            let nested = (with_tdp_mmu(), census(0, Some((true, 1)), &ALONE));
            let beside = judged(&[host, nested], "one-spte").verdict;
            assert_eq!(beside, Verdict::Qualified, "{parameters:?}");
        }
    }
    let intel = kvm(&[("kvm.tdp_mmu", "Y"), ("kvm_intel.ept", "Y")]);
    let on = judged(&[(intel, census(0, None, &ALONE))], "one-spte");
    assert_eq!(on.verdict, Verdict::Confirmed);
}

#[test]
fn a_nested_guest_decides_by_how_its_l1_maps() {
    let nested = |aliases, lengths| one_spte(census(0, Some((true, aliases)), lengths)).verdict;
    assert_eq!(nested(1, &ALONE), Verdict::Qualified);
    assert_eq!(nested(1, &SHARED), Verdict::Refuted);
    assert_eq!(nested(4, &SHARED), Verdict::Open);
    assert_eq!(nested(1, &[(1, 9), (2, 1)]), Verdict::Open);
    let shadow = one_spte(census(0, Some((false, 1)), &ALONE));
    assert_eq!(shadow.verdict, Verdict::Open);
}

#[test]
fn guests_that_map_more_stand_beside_it_and_do_not_count() {
    let once = census(0, Some((true, 1)), &[(0, 9), (1, 2000)]);
    let four = census(1, Some((true, 4)), &[(1, 5), (4, 2000)]);
    // A run of the same number in another profile.
    let chosen = census(0, Some((false, 16)), &[(16, 2000)]);
    let profiles = [
        (with_tdp_mmu(), [once, four].concat()),
        (with_tdp_mmu(), chosen),
    ];
    let verdict = judged(&profiles, "one-spte");
    assert_eq!(verdict.verdict, Verdict::Qualified);
    let [once, four] = &verdict.numbers[..] else {
        panic!("{:?}", verdict.numbers);
    };
    assert_eq!(once.value.value(), Some(&1.0));
    assert!(four.value.value().unwrap() < &0.01);
    // Wilson's interval of 2000 of 2000.
    let (low, high) = once.ci95.unwrap();
    assert!(
        (0.9980..0.9982).contains(&low) && high == 1.0,
        "{low} {high}"
    );
}

#[test]
fn only_a_hosts_own_guests_say_whether_two_collide() {
    let by = |guest| {
        let profile = census(0, guest, &[(1, 1024)]);
        judged(&[(with_tdp_mmu(), profile)], "collisions")
    };
    assert_eq!(by(Some((true, 1))).verdict, Verdict::Open);
    let still = by(Some((false, 1)));
    assert_eq!(still.verdict, Verdict::Open);
    assert!(still.numbers[0].name.contains("stood still"), "{still:?}");
    assert_eq!(by(None).verdict, Verdict::Confirmed);
}
