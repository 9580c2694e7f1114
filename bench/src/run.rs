//! `run`: measures what was asked for, writes the result file, prints its tables.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use report::schema::{Outcome, Record, ResultKind};
use report::table::Format;
use report::{ResultFile, ResultWriter, host, summary};

use crate::cli::print;
use crate::counters::CounterSet;
use crate::disturb::RunWatch;
use crate::eviction::Evictor;
use crate::frequency;
use crate::memory;
use crate::mmu_lock;
use crate::plan::Plan;
use crate::progress;
use crate::rng::Rng;
use crate::run_args::RunArgs;
use crate::runner::{self, Session};
use crate::signals::Signals;
use crate::workload::{Tools, Workload};

/// Does what was asked.
///
/// # Errors
/// What cannot be carried out as asked, before anything is measured; what failed,
/// after what was measured is kept.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode> {
    mmu_lock::choose(args.mmu_lock);
    let workloads = args.workloads()?;
    let plan = args.plan(workloads.iter().map(|w| w.weight()).sum())?;
    for workload in &workloads {
        runner::batches(*workload, &plan, memory::usable_bytes())?;
    }
    let signals = Signals::watch()?;
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| host::default_output(ResultKind::Bench));
    let mut context = args.context(plan.seed);
    let baseline = args.baseline.open(&context)?;
    let counters = CounterSet::open();
    context.missing_counters = counters.missing();
    let writer = ResultWriter::create(&path, context)?;
    announce(&plan);
    let ended = measure(&plan, &workloads, &signals, counters, writer)?;
    let file =
        ResultFile::read(&ended.path).context("the result file just written does not read back")?;
    print(&render(&file, args.json)?)?;
    report::say!("result: {}", ended.path.display());
    let too_slow = match &baseline {
        Some(baseline) if ended.failure.is_none() && file.is_complete() => {
            let (tables, too_slow) = baseline.compare(&file)?;
            print(&tables)?;
            too_slow
        }
        _ => None,
    };
    if let Some(sentence) = too_slow {
        anyhow::bail!(sentence);
    }
    match ended.failure {
        Some(failure) => Err(failure),
        None if file.is_complete() => Ok(ExitCode::SUCCESS),
        None => Ok(signals.exit_code()),
    }
}

/// A run's end: where its file is, and what went wrong if something did.
struct Ended {
    path: PathBuf,
    failure: Option<anyhow::Error>,
}

/// Measures all workloads. A failure after the first records does not lose
/// them: they are kept in a file marked partial.
fn measure(
    plan: &Plan,
    workloads: &[&dyn Workload],
    signals: &Signals,
    counters: CounterSet,
    mut writer: ResultWriter,
) -> Result<Ended> {
    let mut session = Session {
        plan,
        stop: signals.stop(),
        watch: RunWatch::start(plan.cpus.as_slice()),
        rng: Rng::new(plan.seed),
        tools: Tools {
            counters,
            evictor: Evictor::new(plan.caches.llc_bytes),
        },
        later: Duration::ZERO,
    };
    let mut written = 0;
    let mut reason = None;
    let mut failure = None;
    let planned = |workloads: &[&dyn Workload]| -> Duration {
        let times = workloads.iter().map(|w| plan.time_for(w.weight()));
        times.sum()
    };
    let begin = Instant::now();
    for (number, workload) in workloads.iter().enumerate() {
        let pace = progress::pace(begin.elapsed(), planned(&workloads[..number]));
        session.later = planned(&workloads[number + 1..]).mul_f64(pace);
        match session.run(*workload) {
            Ok(outcome) => {
                written += outcome.records.len();
                for record in outcome.records {
                    writer.push(&Record::Bench(Box::new(record)))?;
                }
                if !outcome.complete {
                    reason = Some(format!("ended by a signal during {}", workload.name()));
                    break;
                }
            }
            Err(error) if written == 0 => return Err(error),
            Err(error) => {
                reason = Some(format!("{} failed: {error:#}", workload.name()));
                failure = Some(error);
                break;
            }
        }
    }
    let outcome = if reason.is_none() {
        Outcome::Complete
    } else {
        Outcome::Partial
    };
    let path = writer.finish(outcome, reason, session.watch.finish())?;
    Ok(Ended { path, failure })
}

/// Says on stderr what will be measured, with all that is needed to repeat it.
fn announce(plan: &Plan) {
    report::say!(
        "schemes: {}; mmu_lock: {}; CPUs {} ({}); {} rounds; seed {}; LLC {} KiB; clock: {}, {:.1} ns a reading",
        plan.schemes.join(", "),
        mmu_lock::chosen(),
        plan.cpus,
        plan.placement,
        plan.rounds,
        plan.seed,
        plan.caches.llc_bytes >> 10,
        plan.clock.source(),
        plan.clock.overhead_ns(),
    );
    if let Some(warning) = frequency::warning(&plan.cpus) {
        report::say!("warning: {warning}");
    }
}

fn render(file: &ResultFile, json: bool) -> Result<String> {
    if json {
        return read_back(&file.path);
    }
    let mut text = summary::heading(file).join("\n");
    text.push('\n');
    for table in summary::tables(file) {
        text.push('\n');
        text.push_str(&table.render(Format::Text));
    }
    Ok(text)
}

fn read_back(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
