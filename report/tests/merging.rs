//! Several files made into one.

mod common;

use std::path::Path;

use common::{callbacks, cell, file, run, written};
use report::{
    Observed, ResultFile,
    compare::{Measure, compare_profiles},
    latency::Latency,
    merge::{MergeError, Merger, Runs},
    schema::{
        Cache, CallbackKind, CallerClass, ChainLen, EventRecord, HeldUp, InterferenceRecord, Op,
        Record, ResultKind,
    },
};

const KIND: CallbackKind = CallbackKind::ClearFlushYoung;

fn merged(files: &[ResultFile]) -> Result<Vec<Record>, MergeError> {
    let mut merger = Merger::new(files[0].clone(), Runs::AddedUp)?;
    for file in &files[1..] {
        merger.add(file.clone())?;
    }
    Ok(merger.finish().records)
}

fn timed(latencies: &[u64]) -> Record {
    let mut record = callbacks(KIND, 4, latencies.len() as u64, 0, 0);
    if let Record::Callbacks(cell) = &mut record {
        let mut latency = Latency::new();
        latencies.iter().for_each(|ns| latency.record_ns(*ns));
        cell.latency = Observed::Value(latency);
    }
    record
}

#[test]
fn faults_and_waits_of_many_vms_become_one_distribution() {
    let folder = tempfile::tempdir().unwrap();
    let profile = |name, ns: &[u64]| {
        let waits = |vm, not_aging| {
            let mut latency = Latency::new();
            ns.iter().for_each(|ns| latency.record_ns(*ns));
            Record::Interference(Box::new(InterferenceRecord {
                run: 0,
                vm: Some(vm),
                what: HeldUp::FaultWait,
                while_aging: Observed::Value(latency),
                not_aging,
            }))
        };
        let records = [
            waits(0, Observed::missing("nobody looked")),
            waits(1, Observed::missing("nobody looked")),
            waits(2, Observed::Value(Latency::new())),
        ];
        file(folder.path(), name, ResultKind::Profile, &records)
    };
    let files = [profile("a.jsonl", &[100, 200]), profile("b.jsonl", &[300])];
    let sums: Vec<_> = merged(&files)
        .unwrap()
        .into_iter()
        .filter_map(|record| match record {
            Record::Interference(sum) => Some((sum.vm, sum.while_aging.value()?.count())),
            _ => None,
        })
        .collect();
    // What was not observed of some is not made up of the others.
    assert_eq!(sums, [(None, 6), (None, 3)]);
}

#[test]
fn counts_and_histograms_of_profiles_add_up_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let profile = |name, ns: &[u64]| {
        let records = [timed(ns), callbacks(KIND, 1, 10, 3, 4)];
        file(folder.path(), name, ResultKind::Profile, &records)
    };
    let files = [
        profile("a.jsonl", &[100, 200]),
        profile("b.jsonl", &[300, 40_000, 5]),
    ];
    let records = merged(&files).unwrap();
    let cells: Vec<_> = records
        .iter()
        .filter_map(|r| match r {
            Record::Callbacks(cell) => Some(cell),
            _ => None,
        })
        .collect();
    assert_eq!(cells.len(), 2);
    let sampled = cells.iter().find(|c| c.callbacks == 20).unwrap();
    assert_eq!(sampled.samples.value().unwrap().total(), 14);
    let mut all = Latency::new();
    [100, 200, 300, 40_000, 5]
        .iter()
        .for_each(|ns| all.record_ns(*ns));
    let timed = cells.iter().find(|c| c.callbacks == 5).unwrap();
    assert_eq!(timed.latency.value(), Some(&all));
}

#[test]
fn raw_events_are_counted_without_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let records = [event(), event(), callbacks(KIND, 1, 10, 3, 4)];
    let path = written(folder.path(), "a.jsonl", ResultKind::Profile, &records);
    let sums = ResultFile::read_sums(&path).unwrap();
    assert_eq!((sums.records.len(), sums.events_left), (1, 2));
    // However it was read, the sum says how many there are.
    for file in [sums, ResultFile::read(&path).unwrap()] {
        let sum = Merger::new(file, Runs::AddedUp).unwrap().finish();
        let events = sum.records.iter().find_map(|record| match record {
            Record::Loss(loss) if loss.signal == "events" => loss.count.value().copied(),
            _ => None,
        });
        assert_eq!(events, Some(2));
    }
    // What is damaged is not counted.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(r#""at_ns":5"#, r#""at_ns":"#)).unwrap();
    let error = ResultFile::read_sums(&path).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:2:"), "{error}");
}

fn event() -> Record {
    Record::Event(EventRecord {
        run: 0,
        at_ns: 5,
        cpu: 0,
        pid: 1,
        kind: KIND,
        caller: CallerClass::Memcg,
        pages: 1,
        chain_len: ChainLen::Exact(1),
        duration_ns: Observed::missing("not timed"),
    })
}

#[test]
fn rounds_of_equal_cells_are_put_behind_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let bench = |name, ns| {
        let cells = [cell("bitlock", Op::Age, 1, Cache::Hot, &[ns; 6])];
        file(folder.path(), name, ResultKind::Bench, &cells)
    };
    let records = merged(&[bench("a.jsonl", 5.0), bench("b.jsonl", 7.0)]).unwrap();
    let Record::Bench(cell) = &records[0] else {
        panic!("{records:?}")
    };
    let summary = cell.summary.value().unwrap();
    assert_eq!((records.len(), cell.rounds.len(), summary.n), (1, 12, 12));
    assert!((summary.median - 6.0).abs() < 1e-9);
}

#[test]
fn what_was_not_measured_alike_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let cells = [cell("bitlock", Op::Age, 1, Cache::Hot, &[5.0; 6])];
    let a = file(folder.path(), "a.jsonl", ResultKind::Bench, &cells);
    let mut b = file(folder.path(), "b.jsonl", ResultKind::Bench, &cells);
    b.context.host.kernel_release = "2.6.32".into();
    let error = merged(&[a.clone(), b]).unwrap_err().to_string();
    assert!(
        error.contains("the kernel is") && error.contains("2.6.32"),
        "{error}"
    );
    let twice = merged(&[a.clone(), a.clone()]).unwrap_err();
    assert!(matches!(twice, MergeError::Twice { .. }));
    let profile = file(folder.path(), "p.jsonl", ResultKind::Profile, &[]);
    assert!(
        merged(&[a, profile])
            .unwrap_err()
            .to_string()
            .contains("the kind of result")
    );
}

#[test]
fn a_merged_file_names_its_sources_and_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let records = [callbacks(KIND, 1, 10, 3, 4)];
    let profile = |name| file(folder.path(), name, ResultKind::Profile, &records);
    let mut merger = Merger::new(profile("a.jsonl"), Runs::AddedUp).unwrap();
    merger.add(profile("b.jsonl")).unwrap();
    let sum = merger.finish();
    let names: Vec<&str> = sum
        .context
        .merged_from
        .iter()
        .map(|s| s.file.as_str())
        .collect();
    assert_eq!(names, ["a.jsonl", "b.jsonl"]);
    let path = written(
        folder.path(),
        "sum.jsonl",
        ResultKind::Profile,
        &sum.records,
    );
    assert_eq!(
        ResultFile::read(Path::new(&path)).unwrap().records,
        sum.records
    );
}

#[test]
fn runs_that_are_kept_show_how_much_they_differ() {
    let folder = tempfile::tempdir().unwrap();
    let recording = |name: &str, latencies: &[u64]| {
        let mut calls = timed(latencies);
        if let Record::Callbacks(cell) = &mut calls {
            cell.samples = Observed::missing("timed");
        }
        let records = [run(0, Observed::missing("timed")), calls];
        file(folder.path(), name, ResultKind::Profile, &records)
    };
    let merged = |runs| {
        let mut merger = Merger::new(recording("a", &[100; 200]), runs).unwrap();
        for (name, ns) in [("b", 110), ("c", 140), ("d", 90)] {
            merger.add(recording(name, &[ns; 200])).unwrap();
        }
        let records = merger.finish().records;
        for name in ["a", "b", "c", "d"] {
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        let count = |of: fn(&Record) -> bool| records.iter().filter(|r| of(r)).count();
        let counted = (
            count(|r| matches!(r, Record::Run(_))),
            count(|r| matches!(r, Record::Callbacks(_))),
        );
        let name = format!("{runs:?}");
        (
            counted,
            file(folder.path(), &name, ResultKind::Profile, &records),
        )
    };
    let (added_up, sum) = merged(Runs::AddedUp);
    let (kept, apart) = merged(Runs::Kept);
    assert_eq!((added_up, kept), ((1, 1), (4, 4)));
    let half = |file: &ResultFile| {
        let compared = compare_profiles(file, file).unwrap();
        let means = compared.changes.iter();
        let mut means = means.filter(|change| change.measure == Measure::Callback);
        let (low, high) = means.next().unwrap().base.ci95.unwrap();
        (high - low) / 2.0
    };
    // Within the runs nothing varies; between them 100, 110, 140 and 90 do.
    assert!(
        half(&apart) > 30.0 && half(&sum) < 5.0,
        "{} {}",
        half(&apart),
        half(&sum)
    );
}
