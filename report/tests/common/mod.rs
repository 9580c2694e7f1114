//! Small result files for tests, written through the crate's own writer.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};

use report::{
    Observed, ResultFile, ResultWriter, host,
    schema::{
        BenchRecord, Cache, CallbackKind, CallbackRecord, CallerClass, ChainLen, Disturbance, Op,
        Outcome, Params, Record, ResultKind, RunRecord, Samples, Sampling, Summary,
    },
};

/// Writes `records` to a file in `folder` and reads it back.
pub(crate) fn file(folder: &Path, name: &str, kind: ResultKind, records: &[Record]) -> ResultFile {
    ResultFile::read(&written(folder, name, kind, records)).unwrap()
}

/// Writes `records` to a file in `folder`.
pub(crate) fn written(folder: &Path, name: &str, kind: ResultKind, records: &[Record]) -> PathBuf {
    let path = folder.join(name);
    let mut writer = ResultWriter::create(&path, host::context(kind)).unwrap();
    for record in records {
        writer.push(record).unwrap();
    }
    writer
        .finish(Outcome::Complete, None, Disturbance::unwatched("a test"))
        .unwrap()
}

/// A walk cell of one chain length.
pub(crate) fn cell(scheme: &str, op: Op, len: u32, cache: Cache, rounds: &[f64]) -> Record {
    Record::Bench(Box::new(BenchRecord {
        workload: "walk".into(),
        scheme: scheme.into(),
        op,
        metric: "ns_per_callback".into(),
        params: Params {
            chain_len: Some(len),
            range_pages: Some(1),
            level: Some(1),
            young_share: Some(1.0),
            cache: Some(cache),
            ..Params::default()
        },
        rounds: rounds.to_vec(),
        summary: Summary::of(rounds)
            .map_or_else(|| Observed::missing("no rounds"), Observed::Value),
        latency: None,
        counts: None,
        counters: Default::default(),
        spoiled: None,
    }))
}

/// The same cell with another share of young SPTEs.
pub(crate) fn with_young(mut record: Record, share: f64) -> Record {
    if let Record::Bench(cell) = &mut record {
        cell.params.young_share = Some(share);
    }
    record
}

/// Sampled callbacks of one chain length.
pub(crate) fn callbacks(
    kind: CallbackKind,
    len: u32,
    callbacks: u64,
    walk: u64,
    notifier: u64,
) -> Record {
    Record::Callbacks(Box::new(CallbackRecord {
        run: 0,
        vm: None,
        kind,
        caller: CallerClass::Memcg,
        chain_len: ChainLen::Exact(len),
        several_pages: false,
        callbacks,
        pages: callbacks,
        locked: Observed::Value(0),
        young: Observed::missing("no fexit"),
        samples: Observed::Value(Samples {
            rmap: walk,
            age_gfn: 0,
            notifier,
            own: 0,
            period_ns: 250_000,
        }),
        latency: Observed::missing("no fexit"),
        wait: Observed::missing("no fexit"),
        tdp: Observed::missing("no fexit"),
    }))
}

/// A run of ten seconds.
pub(crate) fn run(number: u32, sampling: Observed<Sampling>) -> Record {
    Record::Run(Box::new(RunRecord {
        run: number,
        started_utc: "2026-01-01T00:00:00Z".to_owned(),
        duration_s: 10.0,
        pid: None,
        guest: None,
        complete: true,
        ended_by: None,
        sampling,
        stack_every: None,
        event_every: None,
    }))
}
