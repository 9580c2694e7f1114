//! Tables of ratios: what mutators pay, and how far schemes are from their bounds.

mod common;

use common::{cell, file};
use report::{
    ResultFile,
    schema::{Cache, Op, Record, ResultKind, Summary},
    summary,
    table::Format,
};

const TEN: [f64; 8] = [10.0, 10.1, 9.9, 10.2, 9.8, 10.05, 9.95, 10.0];

fn rounds(factor: f64) -> Vec<f64> {
    TEN.iter().map(|ns| ns * factor).collect()
}

fn bench(records: &[Record]) -> ResultFile {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "run.jsonl", ResultKind::Bench, records)
}

fn writer(scheme: &str, op: Op, factor: f64) -> Record {
    let mut record = cell(scheme, op, 1, Cache::Hot, &rounds(factor));
    if let Record::Bench(cell) = &mut record {
        cell.workload = "writer".into();
        cell.metric = "ns_per_op".into();
    }
    record
}

#[test]
fn a_tax_is_what_comes_on_top_of_the_scheme_without_a_bit() {
    let file = bench(&[
        writer("rwlock-write", Op::Zap, 1.0),
        writer("bitlock", Op::Zap, 1.2),
        writer("bitlock", Op::Fault, 1.2),
    ]);
    let tables = summary::tables(&file);
    let tax = tables
        .iter()
        .find(|t| t.title().contains("mutator"))
        .unwrap();
    let csv = tax.render(Format::Csv);
    let rows: Vec<&str> = csv.lines().skip(1).collect();
    assert_eq!(rows.len(), 1, "{csv}");
    let cells: Vec<&str> = rows[0].split(',').collect();
    assert_eq!(&cells[..3], ["bitlock", "1", "-"], "{csv}");
    assert!(cells[3].starts_with("20.0"), "{csv}");
}

#[test]
fn without_the_scheme_to_compare_with_there_is_no_tax() {
    let file = bench(&[writer("bitlock", Op::Zap, 1.2)]);
    let titles: Vec<_> = summary::tables(&file);
    assert!(titles.iter().all(|t| !t.title().contains("mutator")));
}

#[test]
fn a_goal_is_held_against_the_cells_of_one_run() {
    let walk = |scheme, factor| cell(scheme, Op::Age, 1, Cache::Cold, &rounds(factor));
    let file = bench(&[
        walk("bitlock", 3.0),
        walk("single-batched", 1.0),
        walk("peer-a", 9.0),
        walk("peer-b", 6.0),
    ]);
    let text = summary::goals(&file).render(Format::Csv);
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip(1)
        .map(|l| l.split(',').collect())
        .collect();
    let told = |over: &str, under: &str| {
        let row = rows
            .iter()
            .find(|r| r.contains(&over) && r.contains(&under));
        row.map(|r| *r.last().unwrap())
    };
    assert_eq!(told("bitlock", "single-batched"), Some("yes"), "{text}");
    assert_eq!(told("peer-b", "single-batched"), Some("no"), "{text}");
    assert_eq!(
        told("peer-a", "single-batched"),
        None,
        "not the best: {text}"
    );
}

#[test]
fn rounds_that_do_not_pair_up_have_no_ratio() {
    assert!(Summary::of_ratios(&TEN, &TEN[1..]).is_none());
    assert!(Summary::of_ratios(&TEN, &[0.0; 8]).is_none());
    assert_eq!(Summary::of_ratios(&TEN, &TEN).unwrap().median, 1.0);
}

#[test]
fn figures_are_multiples_of_one_schemes_round_by_round() {
    // The machine was half as fast in two rounds of each.
    let slow = |factor: f64| {
        let mut rounds = rounds(factor);
        rounds[..2].iter_mut().for_each(|ns| *ns *= 2.0);
        rounds
    };
    let figure = |scheme, len, rounds: &[f64]| cell(scheme, Op::Age, len, Cache::Hot, rounds);
    let file = bench(&[
        figure("rcu", 1, &slow(1.0)),
        figure("bitlock", 1, &slow(1.5)),
        figure("bitlock", 4, &slow(1.5)),
    ]);
    let unknown = summary::relative_to(file.clone(), "rccu").unwrap_err();
    assert!(unknown.contains("there are bitlock, rcu"), "{unknown}");
    let relative = summary::relative_to(file, "rcu").unwrap();
    let [Record::Bench(ratios)] = &relative.records[..] else {
        panic!("rcu was measured at one length: {:?}", relative.records);
    };
    let is_ratio = |round: &f64| (round - 1.5).abs() < 1e-9;
    assert!(ratios.rounds.iter().all(is_ratio), "{:?}", ratios.rounds);
    let tables = summary::tables(&relative);
    assert!(
        tables[0].title().contains("over rcu"),
        "{}",
        tables[0].title()
    );
    assert_eq!(tables[0].rows(), [["bitlock", "1.50 ±0.00"]]);
    assert!(
        tables[0]
            .notes()
            .iter()
            .any(|note| note.contains("same seconds"))
    );
}
