//! What `run` was asked to measure, checked before anything is measured: workloads,
//! schemes, CPUs, the size of the VM, the time it may take.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use rmap::LockKind;

use crate::baseline::BaselineArgs;
use crate::clock::Clock;
use crate::cpus::{CpuList, pin_current_thread};
use crate::memory::Caches;
use crate::mmu_lock;
use crate::plan::{self, Plan, PlanError, Scale};
use crate::rng::Rng;
use crate::subject;
use crate::thread_counts::ThreadCounts;
use crate::topology::Placement;
use crate::workload::{self, WORKLOADS, Workload};

/// Longest measuring time that can be asked for, seconds.
const LONGEST_RUN_S: u64 = 86_400;
/// Largest VM that can be asked for.
const LARGEST_VM_GIB: f64 = 4096.0;
/// 4 KiB pages.
const PAGES_PER_GIB: f64 = 262_144.0;

/// What to measure and where.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Workloads to run; all if none is named.
    workloads: Vec<String>,
    /// Fewer parameters and rounds; all workloads together stay under two minutes.
    #[arg(long)]
    quick: bool,
    /// List workloads and schemes and exit.
    #[arg(long)]
    pub(crate) list: bool,
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
    /// Memory of the VM that `pass` ages, GiB; 0.25 with --quick and 0.5 without
    /// if not given.
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
    pub(crate) output: Option<PathBuf>,
    /// Print the result file's JSON lines instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// Seed of all random orders; a fresh one if not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Which lock mmu_lock is.
    #[arg(long, value_name = "LOCK", default_value_t, value_parser = mmu_lock::named())]
    pub(crate) mmu_lock: LockKind,
    #[command(flatten)]
    pub(crate) baseline: BaselineArgs,
}

impl RunArgs {
    /// The workloads named, or all, in their own order.
    ///
    /// # Errors
    /// For a name that no workload has.
    pub(crate) fn workloads(&self) -> Result<Vec<&'static dyn Workload>, PlanError> {
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
    pub(crate) fn plan(&self, total_weight: u32) -> Result<Plan> {
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
    pub(crate) fn context(&self, seed: u64) -> report::schema::Context {
        let mut context = subject::context();
        if self.seed.is_none() {
            context
                .command
                .extend(["--seed".to_owned(), seed.to_string()]);
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn line(words: &[&str]) -> Result<RunArgs, clap::Error> {
        let words = ["bench"].iter().chain(words);
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn what_is_broken_or_an_ablation_is_measured_only_when_it_is_named() {
        let schemes = |words: &[&str]| line(words).unwrap().schemes().unwrap();
        let by_default = schemes(&[]);
        let left_out = |name: &str| !by_default.iter().any(|kept| kept == name);
        let ablations = rmap::ablations().iter().map(|s| s.name);
        let broken = rmap::schemes().iter().filter(|s| !s.sound).map(|s| s.name);
        let named_only: Vec<_> = ablations.chain(broken).collect();
        assert!(named_only.contains(&"single-recheck") && named_only.len() > 2);
        assert!(named_only.iter().all(|name| left_out(name)));
        assert_eq!(
            by_default.len() + named_only.len(),
            subject::names().count()
        );
        for name in named_only {
            assert_eq!(schemes(&["--schemes", name]), [name]);
        }
    }

    #[test]
    fn a_full_run_has_ten_rounds_and_a_quick_one_an_interval() {
        let rounds = |words: &[&str]| line(words).unwrap().plan(1).unwrap().rounds;
        assert!(rounds(&[]) >= 10);
        assert!(rounds(&["--quick"]) >= 6);
        assert_eq!(rounds(&["--rounds=3"]), 3);
    }

    #[test]
    fn a_threshold_needs_a_baseline() {
        assert!(line(&["--fail-if-slower=5"]).is_err());
        assert!(line(&["--fail-if-slower=5", "--baseline=old.jsonl"]).is_ok());
    }
}
