//! `cargo xtask bench census-cost`: how long a census takes, how long it holds a
//! CPU, and what it costs the guest while it is repeated.

mod rounds;

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use ::report::{
    Observed, ResultWriter, host,
    schema::{
        BenchRecord, Disturbance, Op, Outcome as JobOutcome, Params, Record, ResultKind, Summary,
    },
    summary::census::{CHUNK, PASSES, TIME, WORKLOAD},
};
use anyhow::ensure;
use clap::Parser;

use self::rounds::{Measured, Vm};
use crate::{Outcome, process, report::finished};

/// Pages of a GiB.
const GIB_PAGES: u64 = 1 << 18;

/// Measures what a census of rmap heads takes of the host and of the guest: of a large
/// VM that has few pages mapped, and of one that has all mapped.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench census-cost",
    bin_name = "cargo xtask bench census-cost"
)]
struct Options {
    /// Censuses of each kind, and pairs of spans with and without one every second
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Size of the large VM
    #[arg(long, default_value_t = 16, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=60))]
    large_gib: u64,
    /// Size of the VM that has all its pages mapped
    #[arg(long, default_value_t = 4, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=60))]
    mapped_gib: u64,
    /// Result file [default: results/runs/census-cost-TIME.jsonl]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures, writes the result file and prints its tables.
pub(crate) fn run(arguments: &[OsString]) -> Outcome {
    let program = OsString::from("census-cost");
    let options = Options::parse_from(std::iter::once(&program).chain(arguments));
    let output = options.output.clone();
    let output = output.unwrap_or_else(|| host::default_output_named("census-cost"));
    let mut writer = ResultWriter::create(&output, process::own_context(ResultKind::Bench))?;
    for vm in [
        Vm::sparse(options.large_gib * GIB_PAGES),
        Vm::mapped(options.mapped_gib * GIB_PAGES),
    ] {
        let measured = rounds::measure(&vm, options.rounds)?;
        ensure!(
            !process::interrupted(),
            "interrupted; no result was written"
        );
        for record in records(&vm, measured) {
            writer.push(&record)?;
        }
    }
    let unwatched = Disturbance::unwatched("spans with and without a census take turns");
    finished(&writer.finish(JobOutcome::Complete, None, unwatched)?)
}

fn records(vm: &Vm, measured: Measured) -> Vec<Record> {
    let Measured { censuses, passes } = measured;
    let times = censuses.into_iter().flat_map(|(scheme, runs)| {
        [
            (scheme, TIME, runs.times_ms),
            (scheme, CHUNK, runs.longest_chunks_ms),
        ]
    });
    let passes = passes
        .into_iter()
        .map(|(scheme, rates)| (scheme, PASSES, rates));
    times
        .chain(passes)
        .map(|(scheme, metric, rounds)| record(vm, scheme, metric, rounds))
        .collect()
}

fn record(vm: &Vm, scheme: &str, metric: &str, rounds: Vec<f64>) -> Record {
    let summary = Summary::of(&rounds);
    Record::Bench(Box::new(BenchRecord {
        workload: WORKLOAD.to_owned(),
        scheme: scheme.to_owned(),
        op: Op::Census,
        metric: metric.to_owned(),
        params: Params {
            chain_len: Some(1),
            empty_share: Some(vm.spare_pages as f64 / (vm.pages + vm.spare_pages) as f64),
            vm_bytes: Some((vm.pages + vm.spare_pages) << 12),
            ..Params::default()
        },
        summary: summary.map_or_else(|| Observed::missing("no round was done"), Observed::Value),
        rounds,
        latency: None,
        counts: None,
        counters: BTreeMap::new(),
        spoiled: None,
    }))
}
