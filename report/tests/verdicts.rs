//! The same evidence always gives the same verdict, and other evidence another.

mod common;

use common::cell;
use report::{
    proportion::Counts,
    schema::{BenchRecord, Cache, Op, Record, Verdict, VerdictRecord},
    verdicts::{Checks, Evidence, judge_all},
};

fn verdict(bench: &[Record], checks: &[(&str, bool)], id: &str) -> VerdictRecord {
    let mut ended = Checks::default();
    for (name, passed) in checks {
        ended.add(*name, *passed);
    }
    let mut records = judge_all(&Evidence::new(bench, &[], &ended));
    records.retain(|record| record.claim_id == id);
    records.pop().unwrap()
}

fn changed(mut record: Record, change: impl FnOnce(&mut BenchRecord)) -> Record {
    if let Record::Bench(cell) = &mut record {
        change(cell);
    }
    record
}

/// A cell of any workload with these rounds.
fn rounds(workload: &str, scheme: &str, op: Op, metric: &str, len: u32, rounds: &[f64]) -> Record {
    changed(cell(scheme, op, len, Cache::Hot, rounds), |cell| {
        cell.workload = workload.to_owned();
        cell.metric = metric.to_owned();
    })
}

fn counted(
    workload: &str,
    scheme: &str,
    op: Op,
    metric: &str,
    (hits, trials): (u64, u64),
) -> Record {
    changed(rounds(workload, scheme, op, metric, 4, &[0.0]), |cell| {
        cell.params.vcpus = Some(0);
        cell.counts = Some(Counts { hits, trials });
    })
}

const AROUND_10: [f64; 6] = [9.9, 10.0, 10.0, 10.1, 10.0, 10.1];
const AROUND_11: [f64; 6] = [10.9, 11.0, 11.0, 11.1, 11.0, 11.1];
const AROUND_20: [f64; 6] = [19.9, 20.0, 20.0, 20.1, 20.0, 20.1];

#[test]
fn a_small_writer_tax_confirms_a_large_one_refutes() {
    let with = |bitlock: &[f64]| {
        let cells = [
            rounds("writer", "bitlock", Op::Fault, "ns_per_op", 1, bitlock),
            rounds(
                "writer",
                "rwlock-write",
                Op::Fault,
                "ns_per_op",
                1,
                &AROUND_10,
            ),
        ];
        verdict(&cells, &[], "writer-tax")
    };
    assert_eq!(with(&AROUND_11).verdict, Verdict::Confirmed);
    assert_eq!(with(&AROUND_20).verdict, Verdict::Refuted);
    assert_eq!(
        with(&[5.0, 10.0, 20.0, 6.0, 18.0, 11.0]).verdict,
        Verdict::Open
    );
}

#[test]
fn a_machine_that_slows_down_does_not_blur_a_ratio() {
    let drifting: Vec<f64> = (1..=8).map(|round| 10.0 * f64::from(round)).collect();
    let taxed: Vec<f64> = drifting.iter().map(|ns| ns * 1.1).collect();
    let writer = |scheme, ns: &[f64]| rounds("writer", scheme, Op::Zap, "ns_per_op", 1, ns);
    let cells = [writer("bitlock", &taxed), writer("rwlock-write", &drifting)];
    let verdict = verdict(&cells, &[], "writer-tax");
    assert_eq!(verdict.verdict, Verdict::Confirmed);
    let (low, high) = verdict.numbers[0].ci95.unwrap();
    assert!((1.09..1.11).contains(&low) && (1.09..1.11).contains(&high));
}

#[test]
fn an_empty_rmap_is_held_against_one_with_an_spte() {
    let with = |empty: f64| {
        let gfns = |len, rounds_: &[f64]| {
            changed(
                rounds("walk", "bitlock", Op::Age, "ns_per_gfn", len, rounds_),
                |cell| cell.params.range_pages = Some(64),
            )
        };
        let cells = [gfns(0, &[empty; 6]), gfns(1, &AROUND_10)];
        verdict(&cells, &[], "empty-rmap").verdict
    };
    assert_eq!(with(0.5), Verdict::Confirmed);
    assert_eq!(with(8.0), Verdict::Refuted);
}

#[test]
fn faults_that_wait_longer_confirm_that_falling_back_hurts() {
    let with = |fallback: &[f64]| {
        let aged = |scheme, rounds_: &[f64]| {
            changed(
                rounds("interference", scheme, Op::Fault, "due_p50_ns", 15, rounds_),
                |cell| cell.params.aging = Some("back_to_back".to_owned()),
            )
        };
        let cells = [
            aged("single-fallback", fallback),
            aged("bitlock", &AROUND_11),
        ];
        verdict(&cells, &[], "fallback").verdict
    };
    assert_eq!(with(&AROUND_20), Verdict::Confirmed);
    assert_eq!(with(&AROUND_10), Verdict::Refuted);
    assert_eq!(with(&AROUND_11), Verdict::Open);
}

#[test]
fn young_pages_reported_old_decide_whether_skipping_is_bad() {
    let with = |counts| {
        let cells = [counted(
            "accuracy",
            "single-skip",
            Op::Age,
            "false_old",
            counts,
        )];
        verdict(&cells, &[], "skip-long-chains").verdict
    };
    assert_eq!(with((1000, 1000)), Verdict::Confirmed);
    assert_eq!(with((0, 1_000_000)), Verdict::Refuted);
    assert_eq!(with((0, 3)), Verdict::Open);
}

#[test]
fn late_reads_are_counted_per_callback() {
    let with = |late, callbacks| {
        let cells = [
            counted(
                "reuse",
                "single-recheck",
                Op::TestAge,
                "read_after_reuse",
                (late, 20_000),
            ),
            counted(
                "reuse",
                "single-recheck",
                Op::TestAge,
                "false_young",
                (0, callbacks),
            ),
        ];
        verdict(&cells, &[], "blind-read").verdict
    };
    assert_eq!(with(5, 2_000_000), Verdict::Confirmed);
    assert_eq!(with(10_000, 2_000_000), Verdict::Qualified);
}

#[test]
fn a_hazard_that_the_model_does_not_find_is_refuted() {
    let with = |ended: &[(&str, bool)]| verdict(&[], ended, "recheck").verdict;
    let model = "control_single_rechecks_reuse_hazard_is_caught";
    assert_eq!(with(&[(model, true)]), Verdict::Confirmed);
    assert_eq!(with(&[(model, false)]), Verdict::Refuted);
    assert_eq!(with(&[]), Verdict::Open);
}

#[test]
fn the_plain_store_is_judged_by_model_and_machine() {
    let model = "control_the_seeds_plain_store_unlock_is_caught_in_weak_memory";
    let with = |model_caught, machine_held| {
        let ended = [(model, model_caught), ("stress bitlock-seed", machine_held)];
        verdict(&[], &ended, "plain-store-unlock").verdict
    };
    assert_eq!(with(true, true), Verdict::Qualified);
    assert_eq!(with(true, false), Verdict::Refuted);
    assert_eq!(with(false, true), Verdict::Confirmed);
}

#[test]
fn one_failed_model_refutes_walks_without_the_bit() {
    let models = [
        "i_progress_agers_against_write_protection",
        "i_progress_agers_against_a_walk_that_removes",
    ];
    let with = |ended: [bool; 2]| {
        let ended = [(models[0], ended[0]), (models[1], ended[1])];
        verdict(&[], &ended, "walks-under-mmu-lock").verdict
    };
    assert_eq!(with([true, true]), Verdict::Confirmed);
    assert_eq!(with([true, false]), Verdict::Refuted);
}

#[test]
fn neighbours_that_are_missed_mislead_lookaround() {
    let with = |counts| {
        let record = counted("lookaround", "tiered-was-fast", Op::Age, "missed", counts);
        let record = changed(record, |cell| {
            cell.params.young_in = Some("shadow_chain".to_owned());
        });
        verdict(&[record], &[], "was-fast-lookaround").verdict
    };
    assert_eq!(with((900, 1000)), Verdict::Qualified);
    assert_eq!(with((0, 1_000_000)), Verdict::Refuted);
}

#[test]
fn every_figure_of_a_verdict_has_a_name() {
    let cells = [counted(
        "accuracy",
        "single-skip",
        Op::Age,
        "false_old",
        (1, 2),
    )];
    let checks = Checks::default();
    for record in judge_all(&Evidence::new(&cells, &[], &checks)) {
        for number in record.numbers {
            assert!(!number.name.is_empty(), "{}", record.claim_id);
        }
    }
}
