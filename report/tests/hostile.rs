//! Numbers that the schema allows and nobody measures: no sum of them overflows.

mod common;

use std::{fs, path::Path};

use report::{
    Observed, ResultFile, compare,
    latency::Latency,
    letter,
    merge::{Merger, Runs},
    replay,
    schema::{
        Cache, CallbackKind, CensusRecord, LossRecord, Op, OverheadRecord, Record, ResultKind,
        Samples, Sampling, TdpTables, VmRecord,
    },
    summary,
};

/// So large that two of them overflow, as the sums of a long file would.
const HUGE: u64 = u64::MAX - 1;

fn callbacks(len: u32, timed: bool) -> Record {
    let Record::Callbacks(mut cell) =
        common::callbacks(CallbackKind::ClearFlushYoung, len, HUGE, HUGE, HUGE)
    else {
        unreachable!("a callbacks record");
    };
    cell.locked = Observed::Value(HUGE);
    cell.young = Observed::Value(HUGE);
    cell.samples = Observed::Value(Samples {
        rmap: HUGE,
        age_gfn: HUGE,
        notifier: HUGE,
        own: HUGE,
        period_ns: HUGE,
    });
    if timed {
        let mut latency = Latency::default();
        latency.record_many_ns(1000, HUGE);
        for of in [&mut cell.latency, &mut cell.wait, &mut cell.tdp] {
            *of = Observed::Value(latency.clone());
        }
    }
    Record::Callbacks(cell)
}

fn census(vm: u32) -> Record {
    Record::Census(CensusRecord {
        run: 0,
        vm,
        level: 1,
        heads: HUGE,
        lengths: (0..40).map(|len| (len, HUGE)).collect(),
        longer: HUGE,
        sptes: HUGE,
        descriptor_bytes: Some(HUGE),
        accessed: Observed::Value(HUGE),
        read_again: HUGE,
        locked_again: HUGE,
        locked: HUGE,
        corrupt: HUGE,
        faults: HUGE,
        discarded_chunks: HUGE,
        elapsed_ms: 1.0,
        longest_chunk_ms: None,
    })
}

fn overhead() -> Record {
    Record::Overhead(OverheadRecord {
        run: 0,
        program: "p".to_owned(),
        runs: Observed::Value(HUGE),
        run_time_ns: Observed::Value(HUGE),
        recursion_misses: Observed::Value(HUGE),
        measured_s: None,
    })
}

fn loss() -> Record {
    Record::Loss(LossRecord {
        run: 0,
        signal: "s".to_owned(),
        cause: "c".to_owned(),
        count: Observed::Value(HUGE),
        at_s: Some(f64::MAX),
    })
}

fn sampling() -> Sampling {
    Sampling {
        asked_hz: 1.0,
        reached_hz: 1.0,
        period_ns: HUGE,
        samples: HUGE,
        kernel: HUGE,
        stack_failed: HUGE,
        in_callback: HUGE,
    }
}

fn vm() -> Record {
    Record::Vm(VmRecord {
        run: 0,
        vm: 0,
        pid: 1,
        comm: Observed::missing("a test"),
        cgroup: Observed::missing("a test"),
        memslots: u32::MAX,
        pages: HUGE,
        has_rmaps: true,
        tdp: Observed::Value(TdpTables {
            roots: HUGE,
            sptes_4k: HUGE,
            sptes_2m: HUGE,
            sptes_1g: HUGE,
            accessed: Observed::Value(HUGE),
            elapsed_ms: 1.0,
        }),
        seen_s: 0.0,
        gone_s: None,
    })
}

/// A profile whose every count is huge: made in memory, since the reader refuses it.
fn profile(timed: bool) -> ResultFile {
    let folder = tempfile::tempdir().unwrap();
    let mut file = common::file(folder.path(), "p.jsonl", ResultKind::Profile, &[]);
    for _ in 0..2 {
        file.records.extend((3..6).map(|len| callbacks(len, timed)));
        file.records.extend([
            common::run(0, Observed::Value(sampling())),
            vm(),
            overhead(),
            loss(),
        ]);
    }
    file.records.extend((0..2).map(census));
    file.end.disturbance.steal_ms = Observed::Value(HUGE);
    file.end.disturbance.migrations = Observed::Value(HUGE);
    // Too rarely sampled for a mean, and of a kind that no cell covers.
    for len in [20, 40] {
        for kind in [CallbackKind::ClearFlushYoung, CallbackKind::TestYoung] {
            let samples = if kind.clears() { 0 } else { 1000 };
            let record = common::callbacks(kind, len, HUGE, samples, 0);
            file.records.push(record);
        }
    }
    file
}

fn bench() -> ResultFile {
    let folder = tempfile::tempdir().unwrap();
    let cell = |scheme, len| common::cell(scheme, Op::Age, len, Cache::Hot, &[6.0; 8]);
    let mut cells: Vec<Record> = (1..9).map(|len| cell("bitlock", len)).collect();
    cells.extend((1..9).map(|len| cell("rcu", len)));
    for (threads, record) in (0..).zip(&mut cells) {
        if let Record::Bench(cell) = record {
            cell.params.agers = Some(u32::MAX - threads);
            cell.params.vcpus = Some(u32::MAX);
        }
    }
    cells.push(cell("bitlock", 3));
    common::file(folder.path(), "b.jsonl", ResultKind::Bench, &cells)
}

#[test]
fn sums_of_huge_counts_do_not_overflow() {
    for timed in [false, true] {
        let file = profile(timed);
        assert!(!summary::tables(&file).is_empty());
        letter::letter(&file);
        compare::real_costs(&file);
        let _ = compare::compare_profiles(&file, &file).unwrap().tables();
        compare::compare(&bench(), &file, None).unwrap().tables();
        let _ = replay::Recording::of(&file);
        #[cfg(feature = "page")]
        report::page::render(&[bench(), file.clone()]).unwrap();
        let mut merger = Merger::new(file.clone(), Runs::AddedUp).unwrap();
        let _ = merger.add(file);
        merger.finish();
    }
}

#[test]
fn cells_that_are_listed_twice_are_no_cells_that_one_run_lacks() {
    let file = bench();
    let compared = compare::compare_runs(&file, &file).unwrap();
    assert_eq!(compared.only_one, 0);
    let mut twice = file.clone();
    twice.records.extend(file.records.clone());
    let compared = compare::compare_runs(&file, &twice).unwrap();
    assert_eq!(compared.only_one, 0);
}

#[test]
fn the_committed_results_are_all_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/reference");
    let mut read = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            ResultFile::read(&path).unwrap();
            read += 1;
        }
    }
    assert!(read > 5, "{read} files");
}
