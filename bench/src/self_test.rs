//! Does the test of significance see what is there, and only that?
//!
//! Two arms walk the same pages under the same scheme in interleaved rounds, as the
//! runner's cells do, and are compared as two runs are. With equal arms a difference
//! is a false alarm; with one arm held up for some percent of each pass, inside the
//! timed part, no difference is a miss. Both are counted over many trials, on the
//! machine at hand, and written to a result file.
//!
//! Both arms share one placement of the model's memory, so what two runs differ by
//! because their memory lies elsewhere is not part of these figures.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use report::proportion::Counts;
use report::schema::{BenchRecord, Op, Outcome, Params, Record, ResultKind, Summary};
use report::stats::{self, SIGNIFICANT, mann_whitney_p};
use report::{Observed, ResultWriter, host};

use crate::clock::Clock;
use crate::cpus::{CpuList, pin_current_thread};
use crate::disturb::RunWatch;
use crate::rng::Rng;
use crate::signals::Signals;
use crate::subject;
use crate::workloads::ground::{Ground, Track};
use crate::workloads::passes::walk;

/// Pages of the set and of one range.
const PAGES: (u64, u64) = (1024, 64);
/// Time for one arm in one round.
const SLICE: Duration = Duration::from_millis(1);
/// Turns over the set in one pass: long enough that reading the clock is nothing.
const TURNS: u32 = 16;

/// How often, and with what.
#[derive(Debug, Args)]
pub struct SelfTestArgs {
    /// Comparisons of each kind.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    trials: u64,
    /// Rounds of each arm.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=32))]
    rounds: u32,
    /// How much slower the slow arm is made, percent.
    #[arg(long, default_value_t = 5, value_name = "PCT", value_parser = clap::value_parser!(u32).range(1..=100))]
    slower: u32,
    /// Scheme that walks.
    #[arg(long, default_value = "bitlock", value_name = "NAME")]
    scheme: String,
    /// Result file; results/runs/bench-TIME.jsonl if not given.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of all random orders; a fresh one if not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs both kinds of trials; fails if the figures are not what they should be.
///
/// # Errors
/// The model or the result file refuses, or a figure is beyond its bound.
pub fn run(args: &SelfTestArgs) -> Result<ExitCode> {
    let cpus = CpuList::usable()?;
    pin_current_thread(cpus.leader())?;
    let signals = Signals::watch()?;
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| host::default_output(ResultKind::Bench));
    let seed = args.seed.unwrap_or_else(Rng::fresh_seed);
    let mut context = subject::context();
    if args.seed.is_none() {
        context
            .command
            .extend(["--seed".to_owned(), seed.to_string()]);
    }
    let mut writer = ResultWriter::create(&path, context)?;
    let mut watch = RunWatch::start(cpus.as_slice());
    let mut bench = Bench::new(&args.scheme, seed)?;
    let mut verdicts = Vec::new();
    for kind in [Kind::Equal, Kind::Slower(args.slower)] {
        let mut found = Counts::default();
        for _ in 0..args.trials {
            if signals.stop().load(Ordering::Relaxed) {
                break;
            }
            found.trials += 1;
            found.hits += u64::from(bench.trial(kind, args.rounds)?);
            watch.look();
        }
        writer.push(&Record::Bench(Box::new(kind.record(args, found)?)))?;
        report::say!("{}", kind.sentence(found));
        verdicts.extend(kind.verdict(found));
    }
    let stopped = signals.stop().load(Ordering::Relaxed);
    let (outcome, reason) = if stopped {
        (Outcome::Partial, Some("ended by a signal".to_owned()))
    } else {
        (Outcome::Complete, None)
    };
    let path = writer.finish(outcome, reason, watch.finish())?;
    report::say!("result: {}", path.display());
    match verdicts.first() {
        _ if stopped => Ok(signals.exit_code()),
        Some(verdict) => bail!("{verdict}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// What the second arm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Like the first.
    Equal,
    /// Held up for this many percent.
    Slower(u32),
}

impl Kind {
    fn slowdown(self) -> f64 {
        match self {
            Self::Equal => 0.0,
            Self::Slower(percent) => f64::from(percent) / 100.0,
        }
    }

    /// Whether the rounds of two arms differ, in the right direction if there is one.
    fn is_found(self, arms: &[Vec<f64>; 2]) -> Option<bool> {
        let p = mann_whitney_p(&arms[0], &arms[1])?;
        let medians = arms.each_ref().map(|arm| stats::median(arm));
        Some(p <= SIGNIFICANT && (self == Self::Equal || medians[1] > medians[0]))
    }

    fn metric(self) -> &'static str {
        match self {
            Self::Equal => "false_alarm_share",
            Self::Slower(_) => "found_share",
        }
    }

    fn sentence(self, found: Counts) -> String {
        let Counts { hits, trials } = found;
        match self {
            Self::Equal => {
                format!("equal arms: a difference in {hits} of {trials} trials")
            }
            Self::Slower(percent) => {
                format!("one arm {percent} % slower: found in {hits} of {trials} trials")
            }
        }
    }

    /// Why the figure is beyond its bound, with more than chance.
    fn verdict(self, found: Counts) -> Option<String> {
        let (low, high) = found.share_ci95()?;
        match self {
            Self::Equal if low > SIGNIFICANT => Some(format!(
                "{}: more than the 5 % the test promises; is a CPU shared with other work?",
                self.sentence(found)
            )),
            Self::Slower(_) if high < 0.95 => Some(format!(
                "{}: fewer than 95 %; measure on a quiet machine, or with more --rounds",
                self.sentence(found)
            )),
            _ => None,
        }
    }

    fn record(self, args: &SelfTestArgs, found: Counts) -> Result<BenchRecord> {
        let share = found.share().context("no trial was made")?;
        Ok(BenchRecord {
            workload: "self-test".to_owned(),
            scheme: args.scheme.clone(),
            op: Op::TestAge,
            metric: self.metric().to_owned(),
            params: Params {
                chain_len: Some(1),
                range_pages: Some(PAGES.1),
                slot_pages: Some(PAGES.0),
                ..Params::default()
            },
            rounds: vec![share],
            summary: Summary::of(&[share])
                .map_or_else(|| Observed::missing("no trial"), Observed::Value),
            latency: None,
            counts: Some(found),
            counters: std::collections::BTreeMap::new(),
            spoiled: None,
        })
    }
}

/// One set of pages, and the clock.
struct Bench {
    ground: Ground,
    clock: Clock,
    rng: Rng,
}

impl Bench {
    fn new(scheme: &str, seed: u64) -> Result<Self> {
        let mut ground = Ground::new(scheme, 1, PAGES.0, PAGES.1, 0);
        ground.build()?;
        ground.enter(&mut Track::new(0));
        ground.set_young(0.0);
        Ok(Self {
            ground,
            clock: Clock::calibrate(),
            rng: Rng::new(seed),
        })
    }

    /// Whether a difference is found: any between equal arms, the right one else.
    fn trial(&mut self, kind: Kind, rounds: u32) -> Result<bool> {
        let mut arms = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let mut order = [0, 1];
            self.rng.shuffle(&mut order);
            for arm in order {
                let slowdown = if arm == 1 { kind.slowdown() } else { 0.0 };
                arms[arm].push(self.round(slowdown)?);
            }
        }
        kind.is_found(&arms).context("a round gave no figure")
    }

    /// The median pass of one slice, ns.
    fn round(&self, slowdown: f64) -> Result<f64> {
        let mut passes = Vec::new();
        let end = Instant::now() + SLICE;
        while Instant::now() < end {
            let start = self.clock.now();
            walk(Op::TestAge, TURNS, &self.ground)?;
            if slowdown > 0.0 {
                let took = self.clock.now().saturating_sub(start) as f64;
                let until = start + (took * (1.0 + slowdown)) as u64;
                while self.clock.now() < until {}
            }
            passes.push(self.clock.elapsed_ns(start, self.clock.now()));
        }
        stats::median(&passes).context("the slice was too short for a pass")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_made_much_slower_is_found_on_any_machine() {
        let mut bench = Bench::new("bitlock", 1).unwrap();
        let found = (0..4).filter(|_| bench.trial(Kind::Slower(100), 10).unwrap());
        assert!(found.count() >= 3);
    }

    #[test]
    fn only_a_difference_in_the_right_direction_is_found() {
        let (fast, slow) = (vec![1.0, 1.1, 1.2, 1.3], vec![2.0, 2.1, 2.2, 2.3]);
        let mixed = vec![0.9, 1.15, 1.25, 2.0];
        let found = |kind: Kind, a: &Vec<f64>, b: &Vec<f64>| {
            kind.is_found(&[a.clone(), b.clone()]).unwrap()
        };
        assert!(found(Kind::Slower(5), &fast, &slow));
        assert!(!found(Kind::Slower(5), &slow, &fast));
        assert!(found(Kind::Equal, &fast, &slow) && found(Kind::Equal, &slow, &fast));
        for kind in [Kind::Equal, Kind::Slower(5)] {
            assert!(!found(kind, &fast, &mixed));
        }
    }

    #[test]
    fn figures_beyond_their_bounds_are_told_and_chance_is_not() {
        let counts = |hits, trials| Counts { hits, trials };
        assert!(Kind::Equal.verdict(counts(12, 200)).is_none());
        assert!(Kind::Equal.verdict(counts(30, 200)).is_some());
        assert!(Kind::Slower(5).verdict(counts(188, 200)).is_none());
        assert!(Kind::Slower(5).verdict(counts(150, 200)).is_some());
    }
}
