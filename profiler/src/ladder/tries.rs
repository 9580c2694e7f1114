//! What the kernel answers when each program is loaded and attached.

use std::io;

use aya::{
    Ebpf,
    programs::{
        FEntry, FExit, KProbe, PerfEvent, Program, ProgramError, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    sys::{Stats, enable_stats},
};

use crate::{
    object::{Kernel, ObjectError, Settings},
    vms::load_iterator,
};

pub(super) type Outcome = Result<(), String>;

/// What the kernel answered to each try.
pub(super) struct Tries {
    pub(super) iterator: Outcome,
    pub(super) tracepoints: Outcome,
    pub(super) sampler: Outcome,
    pub(super) pair: Outcome,
    pub(super) inner: Outcome,
    pub(super) statistics: Outcome,
    pub(super) rmap_function: Outcome,
}

impl Tries {
    /// Tries everything.
    pub(super) fn new(kernel: &Kernel) -> Result<Self, ObjectError> {
        let mut ebpf = kernel.prepare(&Settings::CENSUS)?;
        let inner = if kernel.layout.kvm_built_in {
            fentry(&mut ebpf, kernel, "rs_inner_age", "kvm_age_gfn")
                .and_then(|()| fentry(&mut ebpf, kernel, "rs_inner_test", "kvm_test_age_gfn"))
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
