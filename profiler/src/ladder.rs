//! The ladder of mechanisms: which one observes each signal on this host.
//!
//! Everything is found out by trying: each program of the object is loaded and
//! attached for a moment, and what the kernel answers is what `doctor` prints.
//! Nothing is concluded from a kernel version.

mod tries;

use report::{Observed, schema::MechanismRecord};
use serde::Serialize;

use self::tries::{Outcome, Tries};
use crate::object::{Kernel, ObjectError};

/// How callbacks are observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rung {
    /// Every callback is timed.
    Exact,
    /// Every callback is counted, its cost is sampled.
    Sampled,
}

/// One mechanism for one signal, and whether it works here.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Attempt {
    pub(crate) mechanism: &'static str,
    /// The rung it belongs to; none if it serves both.
    pub(crate) rung: Option<Rung>,
    /// Whether it sees everything (`true`) or samples.
    pub(crate) exact: bool,
    /// Why it is not available; none if it is.
    pub(crate) refused: Option<String>,
    /// What would make it available.
    pub(crate) advice: &'static str,
}

/// One signal with its mechanisms, best first.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Signal {
    pub(crate) name: &'static str,
    pub(crate) attempts: Vec<Attempt>,
}

/// What this host offers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ladder {
    pub(crate) signals: Vec<Signal>,
    /// The rung a recording would use; none if nothing can be recorded.
    pub(crate) rung: Option<Rung>,
    /// The rungs that have all that a recording takes, best first.
    #[serde(skip)]
    pub(crate) offered: Vec<Rung>,
    /// Whether the inner functions can be probed too on the exact rung, and why not.
    #[serde(serialize_with = "is_ok")]
    pub(crate) inner: Outcome,
    /// Whether the TDP MMU's functions can be probed too on the exact rung, and why not.
    #[serde(skip)]
    pub(crate) tdp: Outcome,
    /// What can be observed beside callbacks.
    #[serde(skip)]
    pub(crate) interference: Interference,
}

/// Writes whether something works; why not is with its signals.
fn is_ok<S: serde::Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(outcome.is_ok())
}

/// Whether faults and waits can be observed, and why not.
#[derive(Debug, Clone)]
pub(crate) struct Interference {
    /// vCPU faults.
    pub(crate) faults: Outcome,
    /// Waits for `mmu_lock`.
    pub(crate) waits: Outcome,
}

impl Interference {
    /// Whether any of it can.
    pub(crate) fn any(&self) -> bool {
        self.faults.is_ok() || self.waits.is_ok()
    }
}

impl Ladder {
    /// Tries everything.
    pub(crate) fn probe(kernel: &Kernel) -> Result<Self, ObjectError> {
        let tries = Tries::new(kernel)?;
        Ok(Self::of(&tries, kernel.layout.kvm_built_in))
    }

    /// What these answers come to.
    fn of(tries: &Tries, kvm_built_in: bool) -> Self {
        let offered = tries.offered();
        Self {
            signals: tries.signals(kvm_built_in),
            rung: offered.first().copied(),
            offered,
            inner: tries.pair.clone().and(tries.inner.clone()),
            tdp: tries.pair.clone().and(tries.tdp.clone()),
            interference: Interference {
                faults: tries.faults.clone(),
                waits: tries.waits.clone(),
            },
        }
    }

    /// Whether `rung` can be used here.
    pub(crate) fn offers(&self, rung: Rung) -> bool {
        self.offered.contains(&rung)
    }

    /// What observes each signal in a recording on `rung`.
    pub(crate) fn records(&self, run: u32, rung: Rung) -> Vec<MechanismRecord> {
        self.signals
            .iter()
            .map(|signal| signal.record(run, rung))
            .collect()
    }
}

impl Signal {
    /// The best attempt that works on `rung`.
    fn best(&self, rung: Rung) -> Option<usize> {
        let usable = |a: &Attempt| a.refused.is_none() && a.rung.is_none_or(|own| own == rung);
        self.attempts.iter().position(usable)
    }

    fn record(&self, run: u32, rung: Rung) -> MechanismRecord {
        let best = self.best(rung);
        let better = &self.attempts[..best.unwrap_or(self.attempts.len())];
        let passed_over: Vec<String> = better
            .iter()
            .map(|attempt| match &attempt.refused {
                Some(reason) => format!("{}: {reason}", attempt.mechanism),
                None => format!("{}: not on the chosen rung", attempt.mechanism),
            })
            .collect();
        let (mechanism, exact) = match best.map(|position| &self.attempts[position]) {
            Some(attempt) => (Observed::Value(attempt.mechanism.to_owned()), attempt.exact),
            None => (Observed::Missing(passed_over.join("; ")), false),
        };
        MechanismRecord {
            run,
            signal: self.name.to_owned(),
            mechanism,
            exact,
            passed_over: if best.is_some() {
                passed_over
            } else {
                Vec::new()
            },
        }
    }
}

impl Tries {
    /// The rungs that can be recorded on, best first: on both VMs have to be found, on the
    /// sampled one callbacks counted and samples taken.
    fn offered(&self) -> Vec<Rung> {
        let is_offered = |rung: &Rung| {
            let needed: &[&Outcome] = match rung {
                Rung::Exact => &[&self.iterator, &self.pair],
                Rung::Sampled => &[&self.iterator, &self.tracepoints, &self.sampler],
            };
            needed.iter().all(|outcome| outcome.is_ok())
        };
        let best_first = [Rung::Exact, Rung::Sampled].into_iter();
        best_first.filter(is_offered).collect()
    }

    /// The ladder that these answers make.
    fn signals(&self, kvm_built_in: bool) -> Vec<Signal> {
        const TRAMPOLINE: &str =
            "a kernel that lets BPF programs attach to function entry and exit";
        const TRACEPOINT: &str = "load KVM; a kernel with CONFIG_TRACEPOINTS";
        const SAMPLER: &str = "a kernel with CONFIG_PERF_EVENTS";
        const ITERATOR: &str = "a kernel with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and BTF";
        let exact = Some(Rung::Exact);
        let sampled = Some(Rung::Sampled);
        let inner = if kvm_built_in {
            "fentry of kvm_age_gfn"
        } else {
            "kprobe of kvm_age_gfn"
        };
        let faults = if kvm_built_in {
            "fentry and fexit of kvm_mmu_page_fault"
        } else {
            "kprobe and kretprobe of kvm_mmu_page_fault"
        };
        let tdp = if kvm_built_in {
            "fentry of kvm_tdp_mmu_age_gfn_range"
        } else {
            "kprobe of kvm_tdp_mmu_age_gfn_range"
        };
        let pair_and_tdp = self.pair.clone().and(self.tdp.clone());
        let pair_and_inner = self.pair.clone().and(self.inner.clone());
        let rmap = self.sampler.clone().and(self.rmap_function.clone());
        let pair = "fentry and fexit of __mmu_notifier_*";
        let sampling = "cpu-clock sampling";
        vec![
            signal(
                "callbacks",
                vec![
                    attempt(pair, exact, true, &self.pair, TRAMPOLINE),
                    attempt(
                        "raw tracepoints of kvm",
                        sampled,
                        true,
                        &self.tracepoints,
                        TRACEPOINT,
                    ),
                ],
            ),
            signal(
                "latency",
                vec![
                    attempt(pair, exact, true, &self.pair, TRAMPOLINE),
                    attempt(sampling, sampled, false, &self.sampler, SAMPLER),
                ],
            ),
            signal(
                "young result",
                vec![attempt(pair, exact, true, &self.pair, TRAMPOLINE)],
            ),
            signal(
                "wait before the walk",
                vec![attempt(inner, exact, true, &pair_and_inner, TRAMPOLINE)],
            ),
            signal(
                "the TDP MMU's part of the walk",
                vec![attempt(tdp, exact, true, &pair_and_tdp, TRAMPOLINE)],
            ),
            signal(
                "rmap part of the cost",
                vec![attempt(
                    sampling,
                    sampled,
                    false,
                    &rmap,
                    "a kernel that keeps kvm_rmap_age_gfn_range out of line",
                )],
            ),
            signal(
                "VM",
                vec![
                    attempt(
                        "struct kvm and mm_struct",
                        exact,
                        true,
                        &self.pair,
                        TRAMPOLINE,
                    ),
                    attempt(
                        "host virtual address ranges",
                        sampled,
                        true,
                        &self.iterator,
                        ITERATOR,
                    ),
                ],
            ),
            signal(
                "caller class",
                vec![attempt("kernel stacks", None, false, &Ok(()), "")],
            ),
            signal(
                "chain length at the callback",
                vec![
                    attempt(
                        "heads at the inner entry",
                        exact,
                        true,
                        &pair_and_inner,
                        TRAMPOLINE,
                    ),
                    attempt(
                        "heads by address table",
                        sampled,
                        true,
                        &self.iterator,
                        ITERATOR,
                    ),
                ],
            ),
            signal(
                "chain lengths of a VM",
                vec![attempt(
                    "BPF iterator",
                    None,
                    true,
                    &self.iterator,
                    ITERATOR,
                )],
            ),
            signal(
                "SPTEs in the TDP MMU",
                vec![attempt(
                    "BPF iterator",
                    None,
                    true,
                    &self.tables,
                    "a kernel with CONFIG_KALLSYMS_ALL, whose TDP MMU is of a known form",
                )],
            ),
            signal(
                "vCPU faults",
                vec![attempt(faults, None, true, &self.faults, TRAMPOLINE)],
            ),
            signal(
                "waits for mmu_lock",
                vec![attempt(
                    "raw tracepoints contention_begin and contention_end",
                    None,
                    true,
                    &self.waits,
                    "a kernel from 5.19 on, with CONFIG_TRACEPOINTS",
                )],
            ),
            signal(
                "own cost",
                vec![attempt(
                    "BPF statistics",
                    None,
                    true,
                    &self.statistics,
                    "CAP_SYS_ADMIN, or sysctl kernel.bpf_stats_enabled=1",
                )],
            ),
        ]
    }
}

fn signal(name: &'static str, attempts: Vec<Attempt>) -> Signal {
    Signal { name, attempts }
}

fn attempt(
    mechanism: &'static str,
    rung: Option<Rung>,
    exact: bool,
    outcome: &Outcome,
    advice: &'static str,
) -> Attempt {
    Attempt {
        mechanism,
        rung,
        exact,
        refused: outcome.clone().err(),
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries() -> Tries {
        Tries {
            iterator: Ok(()),
            tables: Ok(()),
            tracepoints: Ok(()),
            sampler: Ok(()),
            pair: Ok(()),
            inner: Ok(()),
            tdp: Ok(()),
            faults: Ok(()),
            waits: Ok(()),
            statistics: Ok(()),
            rmap_function: Ok(()),
        }
    }

    fn refused() -> Outcome {
        Err("EPERM".to_owned())
    }

    #[test]
    fn a_rung_is_offered_where_all_that_a_recording_takes_works() {
        use Rung::{Exact, Sampled};
        let all = tries();
        assert_eq!(all.offered(), [Exact, Sampled]);
        let pair = refused();
        let no_pair = Tries { pair, ..tries() };
        assert_eq!(no_pair.offered(), [Sampled]);
        let sampler = refused();
        let no_sampler = Tries { sampler, ..tries() };
        assert_eq!(no_sampler.offered(), [Exact]);
        let tracepoints = refused();
        let no_tracepoints = Tries {
            tracepoints,
            ..tries()
        };
        assert_eq!(no_tracepoints.offered(), [Exact]);
        let iterator = refused();
        let no_iterator = Tries {
            iterator,
            ..tries()
        };
        assert_eq!(no_iterator.offered(), []);
        // All else is left out of a recording that goes on without it.
        let least = Tries {
            tables: refused(),
            inner: refused(),
            tdp: refused(),
            faults: refused(),
            waits: refused(),
            statistics: refused(),
            rmap_function: refused(),
            ..tries()
        };
        assert_eq!(least.offered(), [Exact, Sampled]);
    }

    #[test]
    fn a_host_that_cannot_sample_what_it_counts_has_no_rung() {
        let tries = Tries {
            pair: refused(),
            sampler: refused(),
            ..tries()
        };
        let ladder = Ladder::of(&tries, true);
        assert_eq!(ladder.rung, None);
        assert!(!ladder.offers(Rung::Sampled) && !ladder.offers(Rung::Exact));
    }
}
