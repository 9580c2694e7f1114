//! What was asked for: how much, of which schemes, on which CPUs, how long.

use std::time::Duration;

use thiserror::Error;

use crate::clock::Clock;
use crate::cpus::CpuList;
use crate::memory::Caches;
use crate::subject;
use crate::topology::Placement;

/// Shortest time one cell is measured in one round.
const LEAST_SLICE: Duration = Duration::from_millis(2);
/// Longest chain the model takes, as KVM recycles an rmap above it.
const LONGEST_CHAIN: u32 = 1000;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Enough for a comparison, under two minutes in all.
    Quick,
    /// All parameters.
    Full,
}

impl Scale {
    /// Rounds where none were asked for. Six is the least number that gives a
    /// median a 95 % interval.
    #[must_use]
    pub fn rounds(self) -> u32 {
        match self {
            Self::Quick => 6,
            Self::Full => 10,
        }
    }

    /// Memory of the VM that `pass` ages where none was asked for.
    #[must_use]
    pub fn vm_gib(self) -> f64 {
        match self {
            Self::Quick => 0.25,
            Self::Full => 0.5,
        }
    }

    /// Measuring time of a whole run where none was asked for; setting up
    /// comes on top.
    #[must_use]
    pub fn budget(self) -> Duration {
        Duration::from_secs(match self {
            Self::Quick => 20,
            Self::Full => 420,
        })
    }
}

/// A plan that cannot be carried out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A scheme that does not exist.
    #[error("there is no scheme '{name}': the schemes are {known}")]
    UnknownScheme {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A workload that does not exist.
    #[error("there is no workload '{name}': the workloads are {known}")]
    UnknownWorkload {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A chain length no rmap can have.
    #[error("a chain of {0} SPTEs cannot be built: chain lengths are 0 to {LONGEST_CHAIN}")]
    ChainTooLong(u32),
    /// Thread counts that are none.
    #[error(
        "'{0}' is no list of thread counts: name numbers from 1 on, ranges such as 1..4, or all, separated by commas"
    )]
    Threads(String),
    /// Thread counts that a workload cannot use.
    #[error("workload {workload} needs {least} threads or more: name such a count with --threads")]
    TooFewThreads {
        /// The workload.
        workload: String,
        /// The fewest threads it runs with.
        least: usize,
    },
    /// A VM without memory.
    #[error("--vm-gib must be a number above 0 and at most 4096")]
    NoVm,
    /// No rounds.
    #[error("at least one round is needed")]
    NoRounds,
    /// No time.
    #[error("--seconds must be between 1 and 86400")]
    NoTime,
    /// A workload that none of the asked chain lengths applies to.
    #[error(
        "workload {workload} measures nothing with these options: at this scale its chain lengths are {known}"
    )]
    Nothing {
        /// The workload.
        workload: String,
        /// Chain lengths it has.
        known: String,
    },
}

/// One run, as asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How much.
    pub scale: Scale,
    /// Schemes, in the order of the registry.
    pub schemes: Vec<String>,
    /// Chain lengths to keep; `None` keeps all of the workload's own.
    pub chain_lengths: Option<Vec<u32>>,
    /// CPUs.
    pub cpus: CpuList,
    /// How the CPUs were put in order.
    pub placement: Placement,
    /// Numbers of threads that scaling workloads use, ascending.
    pub threads: Vec<usize>,
    /// Memory of the VM that `pass` ages, in pages.
    pub vm_pages: u64,
    /// Rounds per cell.
    pub rounds: u32,
    /// Seed of every random order.
    pub seed: u64,
    /// Measuring time of all workloads.
    pub budget: Duration,
    /// Sum of the weights of all workloads.
    pub total_weight: u32,
    /// Caches of the CPU that measures single-threaded cells.
    pub caches: Caches,
    /// The clock all cells use.
    pub clock: Clock,
}

impl Plan {
    /// Measuring time of a workload of this weight.
    #[must_use]
    pub fn time_for(&self, weight: u32) -> Duration {
        self.budget * weight / self.total_weight.max(weight)
    }

    /// The plan as a workload of this weight sees it: its own time, and no other
    /// workload's.
    #[must_use]
    pub fn for_weight(&self, weight: u32) -> Self {
        Self {
            budget: self.time_for(weight),
            total_weight: weight,
            ..self.clone()
        }
    }

    /// Of the thread counts, those of at least `least` threads.
    ///
    /// # Errors
    /// When none is left.
    pub fn threads_from(&self, workload: &str, least: usize) -> Result<Vec<usize>, PlanError> {
        let kept: Vec<usize> = self
            .threads
            .iter()
            .copied()
            .filter(|&n| n >= least)
            .collect();
        if kept.is_empty() {
            return Err(PlanError::TooFewThreads {
                workload: workload.to_owned(),
                least,
            });
        }
        Ok(kept)
    }

    /// Time for one cell in one round when a workload has `cells`, at most
    /// `most`.
    #[must_use]
    pub fn slice(&self, cells: usize, most: Duration) -> Duration {
        let measurements = (cells as u32).max(1).saturating_mul(self.rounds.max(1));
        (self.budget / measurements).clamp(LEAST_SLICE, most)
    }

    /// The schemes under which a page can be mapped this often.
    #[must_use]
    pub fn schemes_with(&self, chain_len: u32) -> Vec<String> {
        subject::keep(&self.schemes, |s| {
            chain_len <= s.max_aliases && !s.reads_heads_only
        })
    }

    /// Of those, the ones that bear mutators, beside agers too.
    #[must_use]
    pub fn mutable_with(&self, chain_len: u32) -> Vec<String> {
        subject::concurrent(&self.schemes_with(chain_len))
    }

    /// Of a workload's chain lengths, those asked for.
    ///
    /// # Errors
    /// When none is left.
    pub fn keep_chains(&self, workload: &str, own: &[u32]) -> Result<Vec<u32>, PlanError> {
        let kept = self.chains_of(own);
        if kept.is_empty() {
            return Err(PlanError::Nothing {
                workload: workload.to_owned(),
                known: join(own),
            });
        }
        Ok(kept)
    }

    /// Of these chain lengths, those asked for; perhaps none.
    #[must_use]
    pub fn chains_of(&self, own: &[u32]) -> Vec<u32> {
        let asked = |chain: &u32| {
            self.chain_lengths
                .as_ref()
                .is_none_or(|a| a.contains(chain))
        };
        own.iter().copied().filter(asked).collect()
    }
}

/// Checks chain lengths given by the user.
///
/// # Errors
/// Names the first that no rmap can have.
pub fn check_chains(chains: &[u32]) -> Result<(), PlanError> {
    match chains.iter().find(|&&chain| chain > LONGEST_CHAIN) {
        Some(&chain) => Err(PlanError::ChainTooLong(chain)),
        None => Ok(()),
    }
}

/// Names asked for, in the order of `known` and each once; all if none were.
///
/// # Errors
/// The first name that is not known.
pub fn select<'a>(asked: &[String], known: &[&'a str]) -> Result<Vec<&'a str>, String> {
    if let Some(stranger) = asked.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(stranger.clone());
    }
    let wanted = |name: &&&str| asked.is_empty() || asked.iter().any(|a| a == **name);
    Ok(known.iter().filter(wanted).copied().collect())
}

/// Numbers as people list them.
#[must_use]
pub fn join(numbers: &[u32]) -> String {
    numbers
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::thread_counts::ThreadCounts;

    pub(crate) fn plan() -> Plan {
        let cpus = CpuList::usable().unwrap();
        Plan {
            scale: Scale::Quick,
            schemes: Vec::new(),
            chain_lengths: None,
            caches: Caches {
                l2_bytes: 64 << 10,
                llc_bytes: 256 << 10,
            },
            threads: ThreadCounts::doubling(&cpus),
            placement: Placement::Listed,
            vm_pages: 4096,
            total_weight: 1,
            cpus,
            rounds: 2,
            seed: 1,
            budget: Duration::from_secs(1),
            clock: Clock::calibrate(),
        }
    }

    #[test]
    fn a_slice_divides_the_budget_and_keeps_its_bounds() {
        let mut plan = plan();
        (plan.budget, plan.rounds) = (Duration::from_secs(10), 5);
        let most = Duration::from_millis(100);
        assert_eq!(plan.slice(100, most), Duration::from_millis(20));
        assert_eq!(plan.slice(1, most), most);
        assert_eq!(plan.slice(1_000_000, most), LEAST_SLICE);
    }

    #[test]
    fn workloads_share_the_budget_by_weight() {
        let mut plan = plan();
        (plan.budget, plan.total_weight) = (Duration::from_secs(10), 5);
        assert_eq!(plan.time_for(2), Duration::from_secs(4));
        let alone = plan.for_weight(2);
        assert_eq!(alone.budget, Duration::from_secs(4));
        assert_eq!(alone.for_weight(2).budget, alone.budget);
    }

    #[test]
    fn names_are_kept_in_registry_order_and_once() {
        let asked = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            select(&asked(&["c", "a", "c"]), &["a", "b", "c"]),
            Ok(vec!["a", "c"])
        );
        assert_eq!(select(&[], &["a", "b"]), Ok(vec!["a", "b"]));
        assert_eq!(
            select(&asked(&["a", "x"]), &["a", "b"]),
            Err("x".to_owned())
        );
    }

    #[test]
    fn a_workload_takes_only_what_can_do_it() {
        let mut plan = plan();
        plan.schemes = subject::names().map(ToOwned::to_owned).collect();
        let has = |names: &[String], name: &str| names.iter().any(|kept| kept == name);
        let short = rmap::schemes().iter().find(|s| s.max_aliases() == 1);
        let short = short.unwrap().name;
        let (one, two) = (plan.schemes_with(1), plan.schemes_with(2));
        assert!(has(&one, short) && !has(&two, short));
        for name in ["bitlock", "peer-scc", "limit-loads"] {
            assert!(has(&one, name) && has(&two, name), "{name}");
        }
        // It follows no head, and limits bear no mutators.
        assert!(!has(&one, "limit-stream"));
        let mutable = plan.mutable_with(1);
        assert!(has(&mutable, "peer-scc") && has(&mutable, short));
        assert!(!has(&mutable, "limit-loads"));
    }

    #[test]
    fn a_workload_left_without_chains_is_refused() {
        let mut plan = plan();
        plan.chain_lengths = Some(vec![3, 16]);
        assert_eq!(plan.keep_chains("walk", &[1, 16, 64]), Ok(vec![16]));
        assert!(matches!(
            plan.keep_chains("walk", &[1, 2]),
            Err(PlanError::Nothing { .. })
        ));
        assert_eq!(check_chains(&[0, 1000]), Ok(()));
        assert_eq!(check_chains(&[1, 1001]), Err(PlanError::ChainTooLong(1001)));
    }
}
