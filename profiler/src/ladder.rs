//! The ladder of mechanisms: which one observes each signal on this host.
//!
//! Everything is found out by trying: each program of the object is loaded and
//! attached for a moment, and what the kernel answers is what `doctor` prints.
//! Nothing is concluded from a kernel version.

use std::io;

use aya::{
    Ebpf,
    programs::{
        FEntry, FExit, KProbe, PerfEvent, Program, ProgramError, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    sys::{Stats, enable_stats},
};
use report::{Observed, schema::MechanismRecord};
use serde::Serialize;

use crate::{
    object::{Kernel, ObjectError, Settings},
    vms::load_iterator,
};

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
}

type Outcome = Result<(), String>;

/// What the kernel answered to each try.
struct Tries {
    iterator: Outcome,
    tracepoints: Outcome,
    sampler: Outcome,
    pair: Outcome,
    inner: Outcome,
    statistics: Outcome,
    rmap_function: Outcome,
}

impl Ladder {
    /// Tries everything.
    pub(crate) fn probe(kernel: &Kernel) -> Result<Self, ObjectError> {
        let tries = Tries::new(kernel)?;
        let rung = match (&tries.iterator, &tries.pair, &tries.tracepoints) {
            (Err(_), _, _) | (_, Err(_), Err(_)) => None,
            (_, Ok(()), _) => Some(Rung::Exact),
            (_, _, Ok(())) => Some(Rung::Sampled),
        };
        Ok(Self {
            signals: tries.signals(kernel.layout.kvm_built_in),
            rung,
        })
    }

    /// Whether `rung` can be used here.
    pub(crate) fn offers(&self, rung: Rung) -> bool {
        let callbacks = self.signals.first();
        let works = |a: &Attempt| a.rung == Some(rung) && a.refused.is_none();
        self.rung.is_some() && callbacks.is_some_and(|s| s.attempts.iter().any(works))
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
    fn new(kernel: &Kernel) -> Result<Self, ObjectError> {
        let mut ebpf = kernel.prepare(&Settings::CENSUS)?;
        let inner = if kernel.layout.kvm_built_in {
            fentry(&mut ebpf, kernel, "rs_inner_age", "kvm_age_gfn")
        } else {
            kprobe(&mut ebpf, "rs_inner_kprobe", "kvm_age_gfn")
        };
        let notifier = "__mmu_notifier_clear_flush_young";
        let entry = fentry(&mut ebpf, kernel, "rs_cfy_enter", notifier);
        Ok(Self {
            iterator: load_iterator(&mut ebpf, "rs_vms", &kernel.btf)
                .map(drop)
                .map_err(|error| error.to_string()),
            tracepoints: tracepoint(&mut ebpf, "rs_age_hva", "kvm_age_hva")
                .and_then(|()| tracepoint(&mut ebpf, "rs_test_age_hva", "kvm_test_age_hva")),
            sampler: sampler(&mut ebpf),
            pair: entry.and_then(|()| fexit(&mut ebpf, kernel, "rs_cfy_exit", notifier)),
            inner,
            statistics: enable_stats(Stats::RunTime)
                .map(drop)
                .map_err(|error| errno(&error.io_error)),
            rmap_function: if kernel.symbols.has("kvm_rmap_age_gfn_range") {
                Ok(())
            } else {
                Err("kvm_rmap_age_gfn_range was inlined away".to_owned())
            },
        })
    }

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

/// Finds a program in its typed form and tries it.
fn try_program<'a, P: 'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
    attach: impl FnOnce(&'a mut P) -> Result<(), ProgramError>,
) -> Outcome
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| format!("no program {name}"))?;
    <&mut P>::try_from(program)
        .and_then(attach)
        .map_err(|error| explain(&error))
}

fn fentry(ebpf: &mut Ebpf, kernel: &Kernel, name: &str, function: &str) -> Outcome {
    try_program(ebpf, name, |program: &mut FEntry| {
        program.load(function, &kernel.btf)?;
        let link = program.attach()?;
        program.detach(link)
    })
}

fn fexit(ebpf: &mut Ebpf, kernel: &Kernel, name: &str, function: &str) -> Outcome {
    try_program(ebpf, name, |program: &mut FExit| {
        program.load(function, &kernel.btf)?;
        let link = program.attach()?;
        program.detach(link)
    })
}

fn kprobe(ebpf: &mut Ebpf, name: &str, function: &str) -> Outcome {
    try_program(ebpf, name, |program: &mut KProbe| {
        program.load()?;
        let link = program.attach(function, 0)?;
        program.detach(link)
    })
}

fn tracepoint(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Outcome {
    try_program(ebpf, name, |program: &mut RawTracePoint| {
        program.load()?;
        let link = program.attach(tracepoint)?;
        program.detach(link)
    })
}

fn sampler(ebpf: &mut Ebpf) -> Outcome {
    try_program(ebpf, "rs_sample", |program: &mut PerfEvent| {
        program.load()?;
        let link = program.attach(
            PerfEventConfig::Software(SoftwareEvent::CpuClock),
            PerfEventScope::AllProcessesOneCpu { cpu: 0 },
            SamplePolicy::Period(1_000_000_000),
            false,
        )?;
        program.detach(link)
    })
}

/// A refusal in a few words.
pub(crate) fn explain(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => match last_words(&verifier_log.to_string()) {
            Some(last) => format!("the verifier rejects it: {last}"),
            None => format!("the kernel refuses to load it: {}", errno(io_error)),
        },
        ProgramError::SyscallError(error) => {
            format!("{} fails: {}", error.call, errno(&error.io_error))
        }
        other => other.to_string(),
    }
}

/// The verifier's complaint: the last line of its log that is not statistics.
fn last_words(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed"];
    log.lines()
        .rfind(|line| !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start)))
}

/// A system error with its name rather than its number.
fn errno(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).to_string(),
        None => error.to_string(),
    }
}
