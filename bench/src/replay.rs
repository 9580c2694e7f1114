//! `replay`: a recorded host's aging under every scheme.
//!
//! Each group of the recording (callbacks of one kind, range and chain length) is
//! walked on a VM of as many pages as the census found with chains of that
//! length, in scattered order, so that the working set decides what is in the
//! caches, by as many threads at once as there were callers. Rounds go over all
//! schemes and groups in a random order.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use report::replay::{Group, Model, Recording, ReplayError};
use report::schema::{Outcome, Record, ReplayRecord, ResultKind, Summary};
use report::{Observed, ResultFile, ResultWriter, compare, host, letter, summary};

use crate::clock::Clock;
use crate::cpus::{CpuList, pin_current_thread};
use crate::disturb::RunWatch;
use crate::plan;
use crate::rng::Rng;
use crate::signals::Signals;
use crate::subject;
use crate::workloads::vm::{self, Vm};

/// Time of one group, scheme and round.
const SLICE: Duration = Duration::from_millis(4);
/// Rounds; six is the least number that gives a median an interval.
const ROUNDS: u32 = 6;

/// What to replay and what to predict it with.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording to replay: a profile.
    #[arg(long, value_name = "FILE")]
    profile: PathBuf,
    /// Another recording, to which the model is fitted that carries synthetic
    /// times over to real ones; without it nothing is predicted.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Schemes to replay under, separated by commas; all if none is named.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    schemes: Vec<String>,
    /// Result file; results/runs/bench-TIME.jsonl if not given.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of all random orders; a fresh one if not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Replays a recording and writes a result file.
///
/// # Errors
/// When a file cannot be read or written, or the model refuses.
pub fn run(args: &ReplayArgs) -> Result<ExitCode> {
    let profile = ResultFile::read(&args.profile)?;
    let recording = Recording::of(&profile)?;
    let other = args.model.as_deref().map(ResultFile::read).transpose()?;
    if let Some(other) = &other
        && other.context == profile.context
    {
        bail!(ReplayError::Itself(other.path.clone()));
    }
    let own = compare::kernel_scheme(&profile.context.host);
    let signals = Signals::watch()?;
    let cpus = CpuList::usable()?;
    pin_current_thread(cpus.leader())?;
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| host::default_output(ResultKind::Bench));
    let mut writer = ResultWriter::create(&path, subject::context())?;
    let mut player = Player {
        clock: Clock::calibrate(),
        rng: Rng::new(args.seed.unwrap_or_else(Rng::fresh_seed)),
        signals: &signals,
        watch: RunWatch::start(cpus.as_slice()),
    };
    report::say!("replaying {} groups of callbacks", recording.groups.len());
    let model = match &other {
        Some(other) => player.model(other)?,
        None => Err("no other recording was named with --model".to_owned()),
    };
    let played = player.play(&recording, &schemes(&args.schemes)?)?;
    for (scheme, rounds) in &played {
        let record = record(
            scheme,
            rounds,
            &recording,
            &model,
            own == Some(scheme.as_str()),
        );
        writer.push(&Record::Replay(Box::new(record)))?;
    }
    let stopped = player.stopped();
    let (outcome, reason) = if stopped {
        (Outcome::Partial, Some("ended by a signal".to_owned()))
    } else {
        (Outcome::Complete, None)
    };
    let path = writer.finish(outcome, reason, player.watch.finish())?;
    for table in summary::tables(&ResultFile::read(&path)?) {
        report::out!("{}", letter::within(&table))?;
    }
    report::say!("result: {}", path.display());
    Ok(if stopped {
        signals.exit_code()
    } else {
        ExitCode::SUCCESS
    })
}

fn schemes(asked: &[String]) -> Result<Vec<String>> {
    if asked.is_empty() {
        let sound = rmap::schemes().iter().filter(|scheme| scheme.sound);
        return Ok(sound.map(|scheme| scheme.name.to_owned()).collect());
    }
    let known = rmap::schemes().iter().chain(rmap::ablations());
    let known: Vec<&str> = known.map(|scheme| scheme.name).collect();
    let kept = plan::select(asked, &known).map_err(|unknown| {
        anyhow!(
            "there is no scheme '{unknown}': the schemes are {}",
            known.join(", ")
        )
    })?;
    Ok(kept.into_iter().map(str::to_owned).collect())
}

/// Per scheme, per round, the time of each group.
type Played = Vec<(String, Vec<Vec<f64>>)>;

struct Player<'a> {
    clock: Clock,
    rng: Rng,
    signals: &'a Signals,
    watch: RunWatch,
}

impl Player<'_> {
    fn stopped(&self) -> bool {
        self.signals
            .stop()
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The model of another recording, from its kernel's own scheme.
    fn model(&mut self, file: &ResultFile) -> Result<Result<Model, String>> {
        let recording = Recording::of(file)?;
        let Some(own) = compare::kernel_scheme(&file.context.host) else {
            return Ok(Err(
                "the model's kernel does not say which scheme it uses".to_owned()
            ));
        };
        let played = self.play(&recording, &[own.to_owned()])?;
        let Some((_, rounds)) = played.first() else {
            return Ok(Err(format!(
                "the model has no chains as long as {own} takes"
            )));
        };
        Ok(Model::fit(&recording, &medians(rounds)))
    }

    fn play(&mut self, recording: &Recording, schemes: &[String]) -> Result<Played> {
        let mut cells = Vec::new();
        let mut played: Played = Vec::new();
        for scheme in schemes {
            let longest = rmap::scheme(scheme).map_or(0, rmap::SchemeInfo::max_aliases);
            if recording.groups.iter().any(|g| g.chain_len > longest) {
                report::say!("{scheme} has no chains as long as the recording's: left out");
                continue;
            }
            for index in 0..recording.groups.len() {
                cells.push((played.len(), index));
            }
            played.push((scheme.clone(), Vec::new()));
        }
        let mut vms = Vec::new();
        for (scheme, index) in &cells {
            let group = &recording.groups[*index];
            let vm = Vm::build(&played[*scheme].0, group.pages, group.chain_len)
                .with_context(|| format!("building a VM of {}", played[*scheme].0))?;
            vms.push(vm);
        }
        let mut order: Vec<usize> = (0..cells.len()).collect();
        for _ in 0..ROUNDS {
            for (_, rounds) in &mut played {
                rounds.push(vec![0.0; recording.groups.len()]);
            }
            self.rng.shuffle(&mut order);
            for &cell in &order {
                let (scheme, index) = cells[cell];
                let ns = self.group(
                    &recording.groups[index],
                    recording.input.young_share,
                    recording.callers(),
                    &vms[cell],
                )?;
                self.watch.look();
                if let Some(round) = played[scheme].1.last_mut() {
                    round[index] = ns;
                }
                if self.stopped() {
                    played.iter_mut().for_each(|(_, rounds)| drop(rounds.pop()));
                    return Ok(played);
                }
            }
        }
        Ok(played)
    }

    /// The time of one callback of a group, the median over passes.
    fn group(&mut self, group: &Group, young_share: f64, callers: usize, vm: &Vm) -> Result<f64> {
        let ranges = group.pages / group.range_pages;
        let mut starts: Vec<u64> = (0..ranges).map(|r| r * group.range_pages).collect();
        self.rng.shuffle(&mut starts);
        let share = if group.kind.clears() {
            young_share
        } else {
            1.0
        };
        let young = (share * starts.len() as f64).round() as usize;
        let mut passes = Vec::new();
        let end = Instant::now() + SLICE;
        loop {
            self.rng.shuffle(&mut starts);
            for (place, start) in starts.iter().enumerate() {
                let share = if place < young { 1.0 } else { 0.0 };
                vm.set_young(*start, group.range_pages, share);
            }
            self.rng.shuffle(&mut starts);
            passes.push(self.pass(group, &starts, callers, vm)?);
            if Instant::now() >= end {
                return report::stats::median(&passes)
                    .context("a pass took no time that could be measured");
            }
        }
    }

    /// Walks all ranges once, shared out between the callers; the mean time of a
    /// callback as a caller sees it.
    fn pass(&self, group: &Group, starts: &[u64], callers: usize, vm: &Vm) -> Result<f64> {
        let each = starts.len().div_ceil(callers);
        if callers == 1 {
            return Ok(walk(&self.clock, group, starts, vm) / starts.len() as f64);
        }
        let begin = Barrier::new(starts.chunks(each).len());
        let cpus = CpuList::usable()?;
        let total_ns = std::thread::scope(|scope| -> Result<f64> {
            let threads: Vec<_> = starts
                .chunks(each)
                .zip(cpus.as_slice().iter().copied().cycle())
                .map(|(share, cpu)| {
                    let begin = &begin;
                    scope.spawn(move || {
                        let pinned = pin_current_thread(cpu);
                        begin.wait();
                        pinned.map(|()| walk(&self.clock, group, share, vm))
                    })
                })
                .collect();
            let mut total = 0.0;
            for thread in threads {
                let ns = thread
                    .join()
                    .map_err(|_| anyhow!("a caller's thread panicked"))?;
                total += ns?;
            }
            Ok(total)
        })?;
        Ok(total_ns / starts.len() as f64)
    }
}

/// Nanoseconds that one caller takes for these ranges.
fn walk(clock: &Clock, group: &Group, starts: &[u64], vm: &Vm) -> f64 {
    let start = clock.now();
    let mut found = 0_u64;
    for gfn in starts {
        let range = vm::range(*gfn, group.range_pages);
        let answer = if group.kind.clears() {
            vm.mmu().age(range)
        } else {
            vm.mmu().test_age(range)
        };
        found += u64::from(answer.young);
    }
    std::hint::black_box(found);
    clock.elapsed_ns(start, clock.now())
}

/// The median of each group over the rounds.
fn medians(rounds: &[Vec<f64>]) -> Vec<f64> {
    let groups = rounds.first().map_or(0, Vec::len);
    let of_group = |group: usize| rounds.iter().map(|r| r[group]).collect::<Vec<f64>>();
    (0..groups)
        .map(|group| report::stats::median(&of_group(group)).unwrap_or(f64::NAN))
        .collect()
}

fn record(
    scheme: &str,
    rounds: &[Vec<f64>],
    recording: &Recording,
    model: &Result<Model, String>,
    kernels_own: bool,
) -> ReplayRecord {
    let rounds_ns: Vec<f64> = rounds
        .iter()
        .map(|round| recording.mean(|_| true, |i, _| round[i]))
        .collect();
    let predicted = match model {
        Ok(_) if rounds.is_empty() => Observed::missing("no round was finished"),
        Ok(model) => model.predict(recording, &medians(rounds)),
        Err(reason) => Observed::Missing(reason.clone()),
    };
    let covered = |group: &Group| model.as_ref().map_or(true, |m| m.covers(group));
    let recorded = if kernels_own {
        recording.recorded(covered)
    } else {
        Observed::missing("the recorded kernel uses another scheme")
    };
    let error = match (&predicted, &recorded) {
        (Observed::Value(p), Observed::Value(r)) if r.mean_ns > 0.0 => {
            Observed::Value(p.mean_ns / r.mean_ns - 1.0)
        }
        (Observed::Missing(reason), _) | (_, Observed::Missing(reason)) => {
            Observed::Missing(reason.clone())
        }
        _ => Observed::missing("the recorded callbacks took no time"),
    };
    ReplayRecord {
        scheme: scheme.to_owned(),
        kernels_own,
        input: recording.input.clone(),
        synthetic_ns: Summary::of(&rounds_ns).map_or_else(
            || Observed::missing("no round was finished"),
            Observed::Value,
        ),
        rounds_ns,
        predicted_ns: predicted,
        covered_share: model.is_ok().then(|| recording.share(covered)),
        model_utc: model.as_ref().ok().map(|m| m.utc.clone()),
        recorded_ns: recorded,
        relative_error: error,
    }
}
