//! The command line: checks what was asked before anything is measured, writes
//! the result file, prints its tables.
//!
//! Exit status: 0 when all was measured, 2 when the request cannot be carried
//! out as asked, 130 or 143 when a signal ended the run (what was measured is
//! kept and marked partial), 1 for any other failure.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use report::schema::{Outcome, Record, ResultKind};
use report::table::Format;
use report::{ResultFile, ResultWriter, host, summary};
use rmap::LockKind;

use crate::baseline::BaselineArgs;
use crate::clock::Clock;
use crate::counters::CounterSet;
use crate::cpus::{CpuError, CpuList, pin_current_thread};
use crate::disturb::RunWatch;
use crate::eviction::Evictor;
use crate::frequency;
use crate::memory::{self, Caches, TooLarge};
use crate::mmu_lock;
use crate::plan::{self, Plan, PlanError, Scale};
use crate::progress;
use crate::rng::Rng;
use crate::runner::{self, Session};
use crate::self_test::{self, SelfTestArgs};
use crate::signals::Signals;
use crate::stress::StressArgs;
use crate::subject;
use crate::thread_counts::ThreadCounts;
use crate::topology::Placement;
use crate::workload::{self, Tools, WORKLOADS, Workload};

/// Longest measuring time that can be asked for, seconds.
const LONGEST_RUN_S: u64 = 86_400;
/// Largest VM that can be asked for.
const LARGEST_VM_GIB: f64 = 4096.0;
/// 4 KiB pages.
const PAGES_PER_GIB: f64 = 262_144.0;

/// Benchmarks of KVM's reverse map under competing lock schemes.
#[derive(Debug, Parser)]
#[command(name = "rmapscope-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure workloads and write a result file.
    Run(RunArgs),
    /// Show what the test of significance sees: equal things, and one made slower.
    SelfTest(SelfTestArgs),
    Stress(StressArgs),
    /// Replay a recorded host's aging under every scheme.
    Replay(crate::replay::ReplayArgs),
}

/// What to measure and where.
#[derive(Debug, Args)]
struct RunArgs {
    /// Workloads to run; all if none is named.
    workloads: Vec<String>,
    /// Fewer parameters and rounds; all workloads together stay under two minutes.
    #[arg(long)]
    quick: bool,
    /// List workloads and schemes and exit.
    #[arg(long)]
    list: bool,
    /// Schemes to measure, separated by commas; all if none is named.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    schemes: Vec<String>,
    /// CPUs to pin threads to, such as 0-3 or 0,2; all usable ones if not given.
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// In which order threads take the CPUs.
    #[arg(long, value_enum, default_value_t = Placement::Listed, value_name = "HOW")]
    placement: Placement,
    /// Thread counts of workloads that scale, such as 1..all or 1,2,8; if not
    /// given, 1, 2, 4, … and all CPUs.
    #[arg(long, value_name = "COUNTS")]
    threads: Option<ThreadCounts>,
    /// Memory of the VM that `pass` ages, GiB; 0.25 with --quick and 1 without if
    /// not given.
    #[arg(long, value_name = "GIB")]
    vm_gib: Option<f64>,
    /// Interleaved rounds; 6 with --quick and 10 without if not given.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Keep only these chain lengths, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "LEN,…")]
    chain_lengths: Option<Vec<u32>>,
    /// Measuring time of the whole run in seconds; setting up comes on top.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Result file; results/runs/bench-TIME.jsonl if not given.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result file's JSON lines instead of tables.
    #[arg(long)]
    json: bool,
    /// Seed of all random orders; a fresh one if not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Which lock mmu_lock is.
    #[arg(long, value_name = "LOCK", default_value_t)]
    mmu_lock: LockKind,
    #[command(flatten)]
    baseline: BaselineArgs,
}

/// A failure and the exit status that goes with it.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub error: anyhow::Error,
    /// Exit status.
    pub code: u8,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let badly_asked = error
            .chain()
            .any(|e| e.is::<PlanError>() || e.is::<CpuError>() || e.is::<TooLarge>());
        Self {
            error,
            code: if badly_asked { 2 } else { 1 },
        }
    }
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// A sentence for the user and an exit status.
    pub fn execute(self) -> Result<ExitCode, Failure> {
        let args = match self.command {
            Command::Run(args) => args,
            Command::Stress(args) => return Ok(args.run()?),
            Command::SelfTest(args) => return Ok(self_test::run(&args)?),
            Command::Replay(args) => return Ok(crate::replay::run(&args)?),
        };
        if args.list {
            return Ok(list()?);
        }
        Ok(run(&args)?)
    }
}

fn list() -> Result<ExitCode> {
    let mut text = String::from("workloads:\n");
    for workload in WORKLOADS {
        text.push_str(&format!(
            "  {:<12} {}\n",
            workload.name(),
            workload.summary()
        ));
    }
    text.push_str("schemes, peers and limits:\n");
    for subject in subject::subjects() {
        let note = if subject.ablation { "ablation: " } else { "" };
        text.push_str(&format!(
            "  {:<20} {note}{}\n",
            subject.name, subject.summary
        ));
    }
    text.push_str(&format!(
        "  {:<20} a cache line handed from one CPU to another (agers)\n",
        subject::TRANSFER
    ));
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn run(args: &RunArgs) -> Result<ExitCode> {
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
    print(&args.render(&file)?)?;
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

impl RunArgs {
    fn workloads(&self) -> Result<Vec<&'static dyn Workload>, PlanError> {
        let known = workload::names();
        let names =
            plan::select(&self.workloads, &known).map_err(|name| PlanError::UnknownWorkload {
                name,
                known: known.join(", "),
            })?;
        Ok(WORKLOADS
            .iter()
            .filter(|w| names.contains(&w.name()))
            .copied()
            .collect())
    }

    /// The schemes named, or all that keep their promises: a negative control
    /// or an ablation is measured only when it is named.
    fn schemes(&self) -> Result<Vec<String>, PlanError> {
        let known: Vec<_> = subject::names().collect();
        let named =
            plan::select(&self.schemes, &known).map_err(|name| PlanError::UnknownScheme {
                name,
                known: known.join(", "),
            })?;
        let by_default =
            |name: &&str| subject::subject(name).is_none_or(|s| s.sound && !s.ablation);
        let kept = named
            .into_iter()
            .filter(|name| !self.schemes.is_empty() || by_default(name));
        Ok(kept.map(ToOwned::to_owned).collect())
    }

    /// Checks everything and pins the calling thread, so that the clock is
    /// calibrated and memory touched where it will be measured.
    fn plan(&self, total_weight: u32) -> Result<Plan> {
        let schemes = self.schemes()?;
        plan::check_chains(self.chain_lengths.as_deref().unwrap_or_default())?;
        let scale = if self.quick {
            Scale::Quick
        } else {
            Scale::Full
        };
        let rounds = self.rounds.unwrap_or(scale.rounds());
        if rounds == 0 {
            return Err(PlanError::NoRounds.into());
        }
        let cpus = match &self.cpus {
            Some(cpus) => cpus.clone().check()?,
            None => CpuList::usable()?,
        };
        let cpus = self.placement.order(&cpus)?;
        let threads = match &self.threads {
            Some(counts) => counts.resolve(&cpus)?,
            None => ThreadCounts::doubling(&cpus),
        };
        let vm_pages = self.vm_pages(scale)?;
        pin_current_thread(cpus.leader())?;
        Ok(Plan {
            scale,
            schemes,
            chain_lengths: self.chain_lengths.clone(),
            rounds,
            seed: self.seed.unwrap_or_else(Rng::fresh_seed),
            budget: self.budget(scale)?,
            total_weight,
            placement: self.placement,
            threads,
            vm_pages,
            caches: Caches::of_cpu(cpus.leader()),
            clock: Clock::calibrate(),
            cpus,
        })
    }

    /// Pages of the VM asked for.
    fn vm_pages(&self, scale: Scale) -> Result<u64, PlanError> {
        let gib = self.vm_gib.unwrap_or(scale.vm_gib());
        let pages = (gib * PAGES_PER_GIB).round();
        if !(1.0..=LARGEST_VM_GIB * PAGES_PER_GIB).contains(&pages) {
            return Err(PlanError::NoVm);
        }
        Ok(pages as u64)
    }

    fn budget(&self, scale: Scale) -> Result<Duration, PlanError> {
        match self.seconds {
            None => Ok(scale.budget()),
            Some(seconds) if (1..=LONGEST_RUN_S).contains(&seconds) => {
                Ok(Duration::from_secs(seconds))
            }
            Some(_) => Err(PlanError::NoTime),
        }
    }

    /// The context, its command completed by the seed so that it repeats the run.
    fn context(&self, seed: u64) -> report::schema::Context {
        let mut context = host::context(ResultKind::Bench);
        context.mmu_lock = Some(mmu_lock::chosen().to_string());
        if self.seed.is_none() {
            context
                .command
                .extend(["--seed".to_owned(), seed.to_string()]);
        }
        context
    }

    fn render(&self, file: &ResultFile) -> Result<String> {
        if self.json {
            return read_back(&file.path);
        }
        let mut text = summary::heading(&file.context).join("\n");
        text.push('\n');
        for table in summary::tables(file) {
            text.push('\n');
            text.push_str(&table.render(Format::Text));
        }
        if let Some(reason) = &file.end.reason {
            text.push_str(&format!("\nPARTIAL: {reason}\n"));
        }
        Ok(text)
    }
}

fn read_back(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Prints to stdout. A reader that has gone away is not an error: the results
/// are in the file.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(e).context("cannot print the tables")
        }
        _ => Ok(()),
    }
}
