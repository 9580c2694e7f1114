//! Two profiles beside each other: what counts as a change, and what is refused.

mod common;

use common::{callbacks, file, run};
use report::{
    Observed, ResultFile,
    compare::{Measure, NotComparable, compare_profiles},
    latency::Latency,
    letter,
    schema::{CallbackKind, Record, ResultKind},
};

const KIND: CallbackKind = CallbackKind::ClearFlushYoung;

/// A profile with one run per pair of samples in and outside of the walk.
fn profile(name: &str, runs: &[(u64, u64)]) -> ResultFile {
    let folder = tempfile::tempdir().unwrap();
    let mut records = Vec::new();
    for (number, (walk, notifier)) in (0..).zip(runs) {
        records.push(run(number, Observed::missing("a test")));
        let mut cell = callbacks(KIND, 16, 1_000_000, *walk, *notifier);
        cell.set_run(number);
        records.push(cell);
    }
    file(folder.path(), name, ResultKind::Profile, &records)
}

/// A profile that was sampled at several rates: Hz and samples in and outside of the walk.
fn at_rates(name: &str, rates: &[(u64, u64, u64)]) -> ResultFile {
    let folder = tempfile::tempdir().unwrap();
    let mut records = Vec::new();
    for (number, (hz, walk, notifier)) in (0..).zip(rates) {
        records.push(run(number, Observed::missing("a test")));
        let mut cell = callbacks(KIND, 16, 1_000_000, *walk, *notifier);
        cell.set_run(number);
        if let Record::Callbacks(cell) = &mut cell
            && let Observed::Value(samples) = &mut cell.samples
        {
            samples.period_ns = 1_000_000_000_u64.div_ceil(*hz);
        }
        records.push(cell);
    }
    file(folder.path(), name, ResultKind::Profile, &records)
}

#[test]
fn a_profile_too_short_for_rate_zero_is_compared_by_plain_means() {
    let long = at_rates("a", &[(997, 100, 150), (3989, 400, 600)]);
    let short = at_rates("b", &[(997, 5, 10), (3989, 200, 300)]);
    for (base, new) in [(&long, &short), (&short, &long)] {
        let compared = compare_profiles(base, new).unwrap();
        let means = compared.changes.iter();
        let means: Vec<_> = means.filter(|c| c.measure == Measure::Callback).collect();
        assert_eq!(means[0].plain_at_hz, [997, 3989]);
        let text: String = compared.tables().iter().map(letter::within).collect();
        assert!(text.contains("16 *"), "{text}");
        assert!(
            text.contains("*: plain means, of both at 997 and 3989 Hz"),
            "{text}"
        );
    }
    // 250 samples at 997 Hz over a million callbacks, and 1000 at 3989 Hz.
    let compared = compare_profiles(&long, &short).unwrap();
    assert!(
        (compared.changes[0].base.value - 250.7).abs() < 0.1,
        "{compared:?}"
    );
    let itself = compare_profiles(&long, &long).unwrap();
    assert!(itself.changes.iter().all(|c| c.plain_at_hz.is_empty()));
}

#[test]
fn profiles_without_a_common_rate_are_refused_by_their_rates() {
    let (slow, fast) = (
        at_rates("a", &[(997, 100, 150)]),
        at_rates("b", &[(3989, 400, 600)]),
    );
    let error = compare_profiles(&slow, &fast).unwrap_err();
    assert!(matches!(error, NotComparable::Mechanism { .. }), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("at 997 Hz") && said.contains("at 3989 Hz"),
        "{said}"
    );
}

#[test]
fn a_profile_with_too_few_samples_for_any_mean_is_named() {
    let (long, short) = (profile("a", &[(400, 600)]), profile("short", &[(7, 8)]));
    for (base, new) in [(&long, &short), (&short, &long)] {
        let error = compare_profiles(base, new).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("short has too few samples"), "{said}");
        for word in [
            "at most 15 ",
            "clear_flush_young at 16 SPTEs",
            "20 are needed",
            "longer",
        ] {
            assert!(said.contains(word), "{said}");
        }
    }
}

fn change(base: &ResultFile, new: &ResultFile, measure: Measure) -> (bool, Option<f64>) {
    let compared = compare_profiles(base, new).unwrap();
    let found = compared.changes.iter().find(|c| c.measure == measure);
    found.map(|c| (c.significant, c.p)).unwrap()
}

#[test]
fn a_change_beyond_the_error_of_the_samples_is_told_from_one_within() {
    let (base, faster) = (profile("a", &[(400, 600)]), profile("b", &[(200, 600)]));
    let (significant, p) = change(&base, &faster, Measure::RmapPart);
    assert!(significant && p.unwrap() < 1e-6, "{p:?}");
    // 400 and 430 samples: 1.04 standard errors.
    let (significant, p) = change(&base, &profile("c", &[(430, 600)]), Measure::RmapPart);
    assert!(!significant && (p.unwrap() - 0.3).abs() < 0.03, "{p:?}");
}

#[test]
fn runs_that_differ_more_than_their_samples_widen_the_error() {
    let base = profile("a", &[(400, 600), (410, 600), (390, 600)]);
    let steady = profile("b", &[(300, 600), (305, 600), (295, 600)]);
    let wandering = profile("c", &[(100, 600), (600, 600), (200, 600)]);
    assert!(change(&base, &steady, Measure::RmapPart).0);
    assert!(!change(&base, &wandering, Measure::RmapPart).0);
}

#[test]
fn a_rate_needs_four_runs_on_each_side() {
    let few = profile("a", &[(40, 60); 3]);
    assert!(!change(&few, &few, Measure::Rate).0);
    let rates = |factor: u64| {
        let mut file = profile("r", &[(40, 60); 4]);
        let mut number = 0;
        for record in &mut file.records {
            if let Record::Callbacks(cell) = record {
                number += 1;
                cell.callbacks = 1_000_000 * factor + number;
                cell.pages = cell.callbacks;
            }
        }
        file
    };
    assert!(change(&rates(1), &rates(2), Measure::Rate).0);
    assert!(!change(&rates(1), &rates(1), Measure::Rate).0);
}

#[test]
fn quantiles_differ_where_their_intervals_do_not_meet() {
    let timed = |ns: u64| {
        let mut latency = Latency::new();
        (0..10_000).for_each(|i| latency.record_ns(ns + i % 50));
        let mut file = profile("t", &[(40, 60)]);
        for record in &mut file.records {
            if let Record::Callbacks(cell) = record {
                cell.samples = Observed::missing("timed");
                cell.latency = Observed::Value(latency.clone());
            }
        }
        file
    };
    assert!(change(&timed(1000), &timed(1400), Measure::P50).0);
    assert!(!change(&timed(1000), &timed(1000), Measure::P99).0);
    let error = compare_profiles(&timed(1000), &profile("s", &[(400, 600)])).unwrap_err();
    assert!(matches!(error, NotComparable::Mechanism { .. }), "{error}");
}

#[test]
fn a_change_is_printed_as_time_and_share_and_no_change_as_a_tilde() {
    let base = profile("a", &[(400, 600)]);
    let compared = compare_profiles(&base, &profile("b", &[(200, 600)])).unwrap();
    let text: String = compared.tables().iter().map(letter::within).collect();
    // 200 samples of 250 µs over a million callbacks.
    assert!(
        text.contains("-50.0 (-50.0 %)") && text.contains('~'),
        "{text}"
    );
    assert!(
        text.lines()
            .all(|line| line.chars().count() <= letter::WIDTH),
        "{text}"
    );
}

#[test]
fn profiles_without_a_common_chain_length_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let records = [
        run(0, Observed::missing("a test")),
        callbacks(KIND, 200, 1_000_000, 400, 600),
    ];
    let other = file(folder.path(), "o", ResultKind::Profile, &records);
    let error = compare_profiles(&profile("a", &[(400, 600)]), &other).unwrap_err();
    assert!(
        matches!(error, NotComparable::NothingInCommon { .. }),
        "{error}"
    );
    let bench = file(folder.path(), "b", ResultKind::Bench, &[]);
    let error = compare_profiles(&other, &bench).unwrap_err();
    assert!(matches!(error, NotComparable::Kind { .. }), "{error}");
}
