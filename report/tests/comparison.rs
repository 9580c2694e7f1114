//! Synthetic beside real, on files small enough to work out by hand.

mod common;

use common::{callbacks, cell, file, with_young};
use report::{
    Observed, ResultFile,
    compare::{CompareError, YoungShares, compare, cost_records},
    embed,
    latency::Latency,
    letter,
    schema::{Cache, CallbackKind, HeldUp, InterferenceRecord, Op, Record, ResultKind},
    table::{Column, Format, Table},
};

fn sides(folder: &std::path::Path) -> (ResultFile, ResultFile) {
    let bench = file(
        folder,
        "bench.jsonl",
        ResultKind::Bench,
        &[
            cell("bitlock", Op::Age, 1, Cache::Hot, &[10.0; 6]),
            cell("bitlock", Op::Age, 16, Cache::Hot, &[160.0; 6]),
            cell("rcu", Op::Age, 1, Cache::Hot, &[5.0; 6]),
            cell("bitlock", Op::TestAge, 1, Cache::Hot, &[3.0; 6]),
        ],
    );
    let kind = CallbackKind::ClearFlushYoung;
    let profile = file(
        folder,
        "profile.jsonl",
        ResultKind::Profile,
        &[
            callbacks(kind, 1, 1_000_000, 400, 600),
            callbacks(kind, 4, 1000, 10, 10),
            callbacks(kind, 6, 1000, 30, 10),
            callbacks(kind, 200, 1_000_000, 4000, 1000),
        ],
    );
    (bench, profile)
}

#[test]
fn each_cost_is_filed_under_its_chain_length_and_scheme() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, profile) = sides(folder.path());
    let result = compare(&bench, &profile, None).unwrap();
    let rows: Vec<(String, &str)> = result
        .rows
        .iter()
        .map(|r| (r.band.to_string(), r.scheme.as_str()))
        .collect();
    assert_eq!(
        rows,
        [
            ("1".to_owned(), "bitlock"),
            ("1".to_owned(), "rcu"),
            ("4-6 (5.00)".to_owned(), "bitlock")
        ]
    );
    // 1000 samples of 250 µs over a million callbacks.
    let total = result.rows[0].real.total.unwrap();
    assert!((total.mean_ns - 250.0).abs() < 1e-9);
    assert!((result.rows[0].real.walk.unwrap().mean_ns - 100.0).abs() < 1e-9);
    let (ratio, (low, high)) = result.rows[0].ratio(Cache::Hot).unwrap();
    assert!((ratio - 10.0).abs() < 1e-9 && low < 10.0 && high > 10.0);
    // Chain length 5 lies on the line between 1 and 16; 200 is measured by no
    // scheme and nothing is extrapolated.
    let pooled = result.rows[2].at(Cache::Hot).unwrap();
    assert!(pooled.interpolated && (pooled.ns - 50.0).abs() < 1e-9);
}

#[test]
fn a_cost_sampled_at_two_rates_is_compared_at_rate_zero() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, _) = sides(folder.path());
    let kind = CallbackKind::ClearFlushYoung;
    // 240 ns at 1 kHz and 270 ns at 4 kHz: 230 ns at none.
    let mut slow = callbacks(kind, 1, 10_000_000, 2000, 400);
    if let Record::Callbacks(cell) = &mut slow
        && let Observed::Value(samples) = &mut cell.samples
    {
        samples.period_ns = 1_000_000;
    }
    let records = [slow, callbacks(kind, 1, 5_000_000, 4500, 900)];
    let profile = file(
        folder.path(),
        "two-rates.jsonl",
        ResultKind::Profile,
        &records,
    );
    let real = compare(&bench, &profile, None).unwrap().rows[0]
        .real
        .clone();
    let near = |ns: f64, wanted: f64| assert!((ns - wanted).abs() < 1e-3, "{ns}");
    near(real.total.unwrap().mean_ns, 230.0);
    near(real.walk.unwrap().mean_ns, 200.0 - 25.0 / 3.0);
    near(real.raw.0.unwrap().mean_ns, 250.0);
    assert!(
        real.mechanism
            .contains("at rate zero from 1000 and 4000 Hz")
    );

    let costs = cost_records(&records, 3);
    let cost = costs.iter().find(|cost| cost.shortest == 1).unwrap();
    assert_eq!(
        (cost.run, cost.callbacks, cost.samples),
        (3, 15_000_000, Some(7800))
    );
    near(cost.raw.value().unwrap().mean_ns, 250.0);
    near(cost.rate_zero.value().unwrap().mean_ns, 230.0);
    let one_rate = cost_records(&records[..1], 0);
    assert!(one_rate[0].raw.value().is_some() && one_rate[0].rate_zero.reason().is_some());
}

#[test]
fn no_end_of_a_mean_times_interval_is_below_nothing() {
    let mut record = callbacks(CallbackKind::ClearYoung, 1, 100, 0, 0);
    let mut latency = Latency::new();
    latency.record_many_ns(1000, 99);
    latency.record_ns(10_000_000);
    if let Record::Callbacks(callbacks) = &mut record {
        callbacks.samples = Observed::missing("every one was timed");
        callbacks.latency = Observed::Value(latency.clone());
        callbacks.wait = Observed::Value(latency);
    }
    let costs = cost_records(&[record], 0);
    let raw = costs[0].raw.value().expect("timed");
    assert_eq!(raw.low_ns, 0.0, "{raw:?}");
    assert!(
        raw.mean_ns > 100_000.0 && raw.high_ns > raw.mean_ns,
        "{raw:?}"
    );
}

#[test]
fn a_timed_walk_is_divided_between_the_two_mmus() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, _) = sides(folder.path());
    let mut record = callbacks(CallbackKind::ClearYoung, 1, 400, 0, 0);
    let latency = |ns, count| {
        let mut latency = Latency::new();
        latency.record_many_ns(ns, count);
        Observed::Value(latency)
    };
    if let Record::Callbacks(callbacks) = &mut record {
        callbacks.samples = Observed::missing("every one was timed");
        callbacks.latency = latency(1000, 400);
        callbacks.wait = latency(200, 400);
        // One of four reached it: a quarter of its time is in the mean callback.
        callbacks.tdp = latency(400, 100);
    }
    let records = [record];
    let profile = file(folder.path(), "timed.jsonl", ResultKind::Profile, &records);
    let costs = cost_records(&records, 0);
    let walk = costs[0].raw_walk.value().expect("timed");
    assert_eq!(walk.mean_ns.round(), 700.0, "the rmaps' part alone");
    let result = compare(&bench, &profile, None).unwrap();
    let part = |name: &str| {
        let mut parts = result.parts.iter();
        let found = parts.find(|part| part.part == name).unwrap();
        found.ns.value().unwrap()[0]
    };
    let parts = ["walk of the rmaps", "walk of the TDP MMU"].map(part);
    assert_eq!(parts.map(f64::round), [700.0, 100.0]);
}

#[test]
fn disturbed_cells_are_counted_beside_what_is_made_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (_, profile) = sides(folder.path());
    let told = |spoiled: Option<&str>| {
        let mut cells = vec![
            cell("bitlock", Op::Age, 1, Cache::Hot, &[10.0; 6]),
            cell("bitlock", Op::Age, 5, Cache::Hot, &[50.0; 6]),
        ];
        if let Record::Bench(cell) = &mut cells[0] {
            cell.spoiled = spoiled.map(str::to_owned);
        }
        let bench = file(folder.path(), "spoiled.jsonl", ResultKind::Bench, &cells);
        std::fs::remove_file(&bench.path).unwrap();
        let tables = compare(&bench, &profile, None).unwrap().tables();
        let notes = beside_of(&tables).notes().join(" ");
        notes.contains("1 of the 2 synthetic cells")
    };
    assert!(told(Some("other work")) && !told(None));
}

#[test]
fn half_young_is_mixed_from_all_young_and_all_old() {
    let folder = tempfile::tempdir().unwrap();
    let (_, profile) = sides(folder.path());
    let young = |len, ns| cell("bitlock", Op::Age, len, Cache::Hot, &[ns; 6]);
    let old = |len, ns| with_young(young(len, ns), 0.0);
    let cells = [young(1, 10.0), young(5, 50.0), old(1, 6.0), old(9, 14.0)];
    let bench = file(folder.path(), "mixed.jsonl", ResultKind::Bench, &cells);
    let result = compare(&bench, &profile, Some(YoungShares::all(0.5))).unwrap();
    let hot: Vec<f64> = result
        .rows
        .iter()
        .map(|r| r.at(Cache::Hot).unwrap().ns)
        .collect();
    // At 1: (10 + 6) / 2. At 5: (50 + 10) / 2, the 10 on the line from 6 to 14.
    assert_eq!(hot, [8.0, 30.0]);
}

/// The table that ends with the notes of all.
fn beside_of(tables: &[Table]) -> &Table {
    let found = tables
        .iter()
        .find(|table| table.title().contains("synthetic beside real"));
    found.expect("the longest table")
}

#[test]
fn a_missing_side_is_a_dash_and_never_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, profile) = sides(folder.path());
    let result = compare(&bench, &profile, None).unwrap();
    let tables = result.tables();
    let beside = beside_of(&tables);
    let headers: Vec<&str> = beside.columns().iter().map(Column::header).collect();
    assert!(
        !headers.contains(&"cold (ns)"),
        "none was measured: {headers:?}"
    );
    let swept = cell("bitlock", Op::Age, 1, Cache::Swept, &[12.0; 6]);
    let hot = |len| cell("bitlock", Op::Age, len, Cache::Hot, &[9.0; 6]);
    let cells = [hot(4), hot(16), swept];
    let bench = file(folder.path(), "holes.jsonl", ResultKind::Bench, &cells);
    let tables = compare(&bench, &profile, None).unwrap().tables();
    let first = &beside_of(&tables).rows()[0];
    assert_eq!(
        first[2..4],
        ["-", "12.0 ±0.00"],
        "no hot cell at 1: {first:?}"
    );
}

#[test]
fn the_time_outside_the_walk_is_attributed_as_far_as_it_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, profile) = sides(folder.path());
    let result = compare(&bench, &profile, None).unwrap();
    let mean = |name: &str| {
        let part = result
            .parts
            .iter()
            .find(|p| p.part.starts_with(name))
            .unwrap();
        part.ns.value().map(|ns| ns[0])
    };
    // 1620 of 6060 samples of 250 µs over the 2,002,000 callbacks.
    let expected = 1620.0 * 250_000.0 / 2_002_000.0;
    assert!((mean("notifier list").unwrap() - expected).abs() < 1e-6);
    assert_eq!(mean("memslot lookup"), None);
    let inside = mean("walk of the chain").unwrap() + mean("aging one gfn").unwrap();
    let all = mean("all of the callback").unwrap();
    assert!((all - expected - inside).abs() < 1e-6, "{all}");
    assert_eq!(mean("unknown"), None);
}

#[test]
fn a_scheme_is_held_against_the_kernels_own_over_the_recorded_lengths() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, mut profile) = sides(folder.path());
    profile.context.host.kvm.lockless_aging = report::Observed::Value(true);
    let result = compare(&bench, &profile, None).unwrap();
    assert_eq!(result.changes.len(), 1, "{:?}", result.changes);
    // rcu takes 5 ns where bitlock takes 10, at the one length both have.
    assert_eq!(result.changes[0].scheme, "rcu");
    assert_eq!(result.changes[0].ns.get(&Cache::Hot), Some(&(-5.0, 0.0)));
    assert_eq!(result.changes[0].ns.get(&Cache::Cold), None);
    // rcu has no cell at 5 SPTEs, where the kernel's own has callbacks too.
    let of_own = result.rows.iter().filter(|r| r.scheme == "bitlock");
    let callbacks = |r: &report::compare::Row| r.real.callbacks as f64;
    let at_1 = callbacks(&result.rows[0]) / of_own.map(callbacks).sum::<f64>();
    let covered = result.changes[0].covered_share;
    assert!(
        at_1 < 1.0 && (covered - at_1).abs() < 1e-9,
        "{covered} of {at_1}"
    );
    let note = notes(&result.tables());
    assert!(note.contains("under rcu: only of the"), "{note}");
}

#[test]
fn waiting_for_mmu_lock_is_saved_by_what_takes_none() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bench, mut profile) = sides(folder.path());
    for record in &mut bench.records {
        if let Record::Bench(cell) = record
            && cell.scheme == "bitlock"
        {
            cell.scheme = "rwlock-write".into();
        }
    }
    bench.context.age_without_mmu_lock = vec!["bitlock".into(), "rcu".into()];
    let said = |profile: &ResultFile| notes(&compare(&bench, profile, None).unwrap().tables());
    profile.context.host.kvm.lockless_aging = report::Observed::Value(false);
    let unseen = said(&profile);
    assert!(
        unseen.contains("rcu take no mmu_lock") && unseen.contains("not observed"),
        "{unseen}"
    );
    let mut waits = Latency::new();
    waits.record_many_ns(1000, 4004);
    profile
        .records
        .push(Record::Interference(Box::new(InterferenceRecord {
            run: 0,
            vm: Some(0),
            what: HeldUp::AgingWait,
            while_aging: report::Observed::Value(waits),
            not_aging: report::Observed::missing("aging is always on then"),
        })));
    // 4004 waits of a microsecond over 2,002,000 callbacks.
    let seen = said(&profile);
    assert!(seen.contains("waited 2.0 ns for mmu_lock"), "{seen}");
    profile.context.host.kvm.lockless_aging = report::Observed::Value(true);
    assert!(!said(&profile).contains("mmu_lock when they age"));
}

fn notes(tables: &[Table]) -> String {
    let notes: Vec<&str> = tables.iter().flat_map(Table::notes).map(|n| &**n).collect();
    notes.join("\n")
}

#[test]
fn what_does_not_look_is_marked_wherever_it_is_cheap() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, mut profile) = sides(folder.path());
    profile.context.host.kvm.lockless_aging = report::Observed::Value(true);
    let skipping = |mut record: Record| {
        if let Record::Bench(cell) = &mut record
            && cell.scheme == "rcu"
        {
            cell.scheme = "single-skip".into();
        }
        record
    };
    let records: Vec<Record> = bench.records.into_iter().map(skipping).collect();
    let mut bench = file(folder.path(), "skip.jsonl", ResultKind::Bench, &records);
    bench.context.pass_over_chains = vec!["single-skip".into()];
    let result = compare(&bench, &profile, None).unwrap();
    let tables = result.tables();
    let cells = tables.iter().flat_map(Table::rows).flatten();
    let named: Vec<&String> = cells.filter(|c| c.starts_with("single-skip")).collect();
    assert!(named.len() >= 2, "{named:?}");
    assert!(named.iter().all(|c| *c == "single-skip †"), "{named:?}");
    let notes = notes(&tables);
    assert!(notes.contains("† is cheap because"), "{notes}");
    // Who pastes the table says with what it was made, whichever tables are chosen.
    let chosen = result.tables_where(|title| title.contains("save or add"));
    assert_eq!(chosen.len(), 1);
    let said = chosen[0].notes().join(" ");
    assert!(said.contains("real side: "));
    assert_eq!(said.matches("† is cheap because").count(), 1, "{said}");
    assert!(notes.contains("synthetic side: skip.jsonl"), "{notes}");
}

#[test]
fn sides_without_anything_in_common_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, profile) = sides(folder.path());
    assert!(matches!(
        compare(&profile, &bench, None),
        Err(CompareError::Kind { .. })
    ));
    assert!(matches!(
        compare(&bench, &profile, Some(YoungShares::all(0.5))),
        Err(CompareError::NoOverlap { .. })
    ));
}

#[test]
fn blocks_are_rendered_anew_and_the_rest_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, profile) = sides(folder.path());
    let text = "# Title\n\n<!-- rmapscope compare bench=bench.jsonl profile=profile.jsonl -->\nold 7 ns\n<!-- /rmapscope -->\nend\n";
    let fresh = embed::refresh(text, folder.path()).unwrap();
    let table = letter::within(&compare(&bench, &profile, None).unwrap().tables()[0]);
    assert!(fresh.contains(&table) && !fresh.contains("old 7 ns"));
    assert!(fresh.starts_with("# Title\n") && fresh.ends_with("<!-- /rmapscope -->\nend\n"));
    assert_eq!(embed::refresh(&fresh, folder.path()).unwrap(), fresh);
    assert!(!embed::written_by_hand(&fresh).contains("bitlock"));
    let one = text.replacen(" -->", " schemes=rcu -->", 1);
    assert!(
        !embed::refresh(&one, folder.path())
            .unwrap()
            .contains("bitlock ")
    );
    let typo = text.replacen(" -->", " schemes=rcuu -->", 1);
    let refused = embed::refresh(&typo, folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("no scheme rcuu") && refused.contains("bitlock, rcu"),
        "{refused}"
    );
    assert!(embed::refresh("<!-- rmapscope compare bench=x -->\n", folder.path()).is_err());
    assert!(embed::refresh("<!-- rmapscope nonsense -->\n", folder.path()).is_err());
}

#[test]
fn what_stands_around_a_block_is_kept_byte_by_byte() {
    let folder = tempfile::tempdir().unwrap();
    let around = ["a\r\r\n", "b\r\n", "\r", "no line end", ""];
    for (before, after) in around.iter().flat_map(|a| around.map(|b| (a, b))) {
        let text =
            format!("{before}\n<!-- rmapscope schema -->\r\nold\n <!-- /rmapscope -->\r\n{after}");
        let fresh = embed::refresh(&text, folder.path()).unwrap();
        assert!(!fresh.contains("old\n"));
        let hand = format!("{before}\n{after}");
        assert_eq!(embed::written_by_hand(&text), hand);
        assert_eq!(embed::written_by_hand(&fresh), hand);
        assert_eq!(embed::refresh(&fresh, folder.path()).unwrap(), fresh);
    }
}

#[test]
fn a_profile_has_tables_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (_, profile) = sides(folder.path());
    let tables = report::summary::tables(&profile);
    let text: String = tables.iter().map(|t| t.render(Format::Text)).collect();
    assert!(
        text.contains("clear_flush_young") && text.contains("memcg"),
        "{text}"
    );
    assert!(text.contains("4-6 (5.00)"), "{text}");
}
