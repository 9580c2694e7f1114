//! `replay`: a recorded host's aging under every scheme.
//!
//! Each group of the recording (callbacks of one kind, range and chain length) is
//! walked on a VM of as many pages as the census found with chains of that
//! length, in scattered order, so that the working set decides what is in the
//! caches, by as many threads at once as there were callers, or as there are CPUs.
//! Rounds go over all schemes and groups in a random order.

mod callers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use report::replay::{Group, Model, Recording, ReplayError};
use report::schema::{Estimate, Outcome, Record, ReplayRecord, ResultKind, Summary};
use report::{Observed, ResultFile, ResultWriter, compare, host, letter, summary};

use crate::clock::Clock;
use crate::cpus::{CpuList, pin_current_thread};
use crate::disturb::RunWatch;
use crate::plan;
use crate::rng::Rng;
use crate::signals::Signals;
use crate::subject;
use crate::workloads::vm::Vm;

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
        cpus,
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
    cpus: CpuList,
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
        let callers = at_once(recording.callers(), self.cpus.as_slice().len());
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
                    callers,
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
        let on = (group, vm);
        let callers = callers::callers(on, young_share, callers, self.clock, &mut self.rng);
        let walks = callers::walks(self.cpus.as_slice(), callers, SLICE)?;
        let passes = callers::means_ns(&self.clock, &walks, group.pages / group.range_pages);
        report::stats::median(&passes).context("a pass took no time that could be measured")
    }
}

/// Threads that walk at once: as many as there were callers, one to a CPU.
fn at_once(recorded: usize, cpus: usize) -> usize {
    if recorded > cpus {
        report::say!("{recorded} callers were at once; {cpus} are here, one on each CPU");
    }
    recorded.min(cpus)
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
    let error = relative_error(&predicted, &recorded);
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

/// How far a prediction is above what was recorded (below, if negative), as a share of it.
fn relative_error(predicted: &Observed<Estimate>, recorded: &Observed<Estimate>) -> Observed<f64> {
    match (predicted, recorded) {
        (Observed::Value(p), Observed::Value(r)) if r.mean_ns > 0.0 => {
            Observed::Value(p.mean_ns / r.mean_ns - 1.0)
        }
        (Observed::Missing(reason), _) | (_, Observed::Missing(reason)) => {
            Observed::Missing(reason.clone())
        }
        _ => Observed::missing("the recorded callbacks took no time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(mean_ns: f64) -> Observed<Estimate> {
        let (low_ns, high_ns) = (mean_ns, mean_ns);
        Observed::Value(Estimate {
            mean_ns,
            low_ns,
            high_ns,
        })
    }

    #[test]
    fn a_prediction_that_is_too_high_has_a_positive_error() {
        let error = |p, r| {
            let error = relative_error(&estimate(p), &estimate(r));
            error.value().copied()
        };
        assert_eq!(error(125.0, 100.0), Some(0.25));
        assert_eq!(error(75.0, 100.0), Some(-0.25));
        assert_eq!(error(100.0, 0.0), None);
        let missing = || Observed::missing("no model");
        let reasons = [
            relative_error(&missing(), &estimate(1.0)),
            relative_error(&estimate(1.0), &missing()),
        ];
        assert!(reasons.iter().all(|e| *e == Observed::missing("no model")));
    }

    #[test]
    fn a_group_has_its_own_median_over_the_rounds() {
        let rounds = [vec![1.0, 10.0], vec![3.0, 30.0], vec![2.0, 90.0]];
        assert_eq!(medians(&rounds), [2.0, 30.0]);
        assert!(medians(&[]).is_empty());
    }

    #[test]
    fn no_name_means_every_sound_scheme_and_an_unknown_one_is_refused() {
        let all = schemes(&[]).unwrap();
        assert!(all.iter().any(|name| name == "bitlock"));
        assert!(!all.iter().any(|name| name == "single-recheck"));
        assert_eq!(schemes(&["rcu".to_owned()]).unwrap(), ["rcu"]);
        let error = schemes(&["no-such".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("no-such"), "{error}");
    }

    #[test]
    fn as_many_walk_at_once_as_there_were_callers_or_are_cpus() {
        assert_eq!([1, 2, 3].map(|recorded| at_once(recorded, 2)), [1, 2, 2]);
    }
}
