//! Programs loaded and attached, one at a time.
//!
//! Dropping a [`Hook`] detaches its program; the descriptor keeps it loaded until then.

use std::{any::Any, io};

use aya::{
    Ebpf,
    programs::{
        FEntry, FExit, KProbe, PerfEvent, Program, ProgramError, ProgramFd, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};

use crate::object::Kernel;

/// A program that is attached.
pub(crate) struct Hook {
    pub(crate) name: &'static str,
    pub(crate) fd: ProgramFd,
    links: Vec<Box<dyn Any>>,
}

impl Hook {
    /// Detaches the program, which stays loaded for its statistics.
    pub(crate) fn detach(&mut self) {
        self.links.clear();
    }

    /// Places it is attached at.
    pub(crate) fn places(&self) -> usize {
        self.links.len()
    }

    /// Loads the program in its typed form and lets `attach` attach it.
    fn new<'a, P: 'a>(
        ebpf: &'a mut Ebpf,
        name: &'static str,
        attach: impl FnOnce(&'a mut P, &mut Vec<Box<dyn Any>>) -> Result<ProgramFd, ProgramError>,
    ) -> Result<Self, String>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let program = ebpf.program_mut(name);
        let program = program.ok_or_else(|| format!("the eBPF object has no program {name}"))?;
        let mut links = Vec::new();
        let fd = <&mut P>::try_from(program)
            .and_then(|program| attach(program, &mut links))
            .map_err(|error| explain(&error))?;
        Ok(Self { name, fd, links })
    }
}

/// Defines how a program is attached to a function of vmlinux.
macro_rules! trampoline {
    ($(#[$about:meta])* $name:ident, $program:ty) => {
        $(#[$about])*
        pub(crate) fn $name(
            ebpf: &mut Ebpf,
            kernel: &Kernel,
            name: &'static str,
            function: &str,
        ) -> Result<Hook, String> {
            Hook::new(ebpf, name, |program: &mut $program, links| {
                program.load(function, &kernel.btf)?;
                let id = program.attach()?;
                links.push(Box::new(program.take_link(id)?));
                Ok(program.fd()?.try_clone()?)
            })
        }
    };
}

trampoline!(
    /// Runs a program whenever a function is entered.
    fentry,
    FEntry
);
trampoline!(
    /// Runs a program whenever a function returns.
    fexit,
    FExit
);

/// Runs a program whenever one of some functions is entered, or returns, as
/// the program is made for.
pub(crate) fn kprobe(
    ebpf: &mut Ebpf,
    name: &'static str,
    functions: &[&str],
) -> Result<Hook, String> {
    Hook::new(ebpf, name, |program: &mut KProbe, links| {
        program.load()?;
        for function in functions {
            let id = program.attach(function, 0)?;
            links.push(Box::new(program.take_link(id)?));
        }
        Ok(program.fd()?.try_clone()?)
    })
}

/// Runs a program at a raw tracepoint.
pub(crate) fn tracepoint(
    ebpf: &mut Ebpf,
    name: &'static str,
    tracepoint: &str,
) -> Result<Hook, String> {
    Hook::new(ebpf, name, |program: &mut RawTracePoint, links| {
        program.load()?;
        let id = program.attach(tracepoint)?;
        links.push(Box::new(program.take_link(id)?));
        Ok(program.fd()?.try_clone()?)
    })
}

/// The cpu-clock sampler on every CPU.
pub(crate) fn sampler(ebpf: &mut Ebpf, name: &'static str, period_ns: u64) -> Result<Hook, String> {
    Hook::new(ebpf, name, |program: &mut PerfEvent, links| {
        program.load()?;
        sample_all_cpus(program, period_ns, links)?;
        Ok(program.fd()?.try_clone()?)
    })
}

/// Goes on sampling every `period_ns`, on the CPUs that are online now.
pub(crate) fn resample(ebpf: &mut Ebpf, hook: &mut Hook, period_ns: u64) -> Result<(), String> {
    let program = ebpf.program_mut(hook.name);
    let program = program.ok_or_else(|| format!("the eBPF object has no program {}", hook.name))?;
    hook.links.clear();
    <&mut PerfEvent>::try_from(program)
        .and_then(|program| sample_all_cpus(program, period_ns, &mut hook.links))
        .map_err(|error| explain(&error))
}

fn sample_all_cpus(
    program: &mut PerfEvent,
    period_ns: u64,
    links: &mut Vec<Box<dyn Any>>,
) -> Result<(), ProgramError> {
    let cpus = aya::util::online_cpus().map_err(|(_, error)| ProgramError::IOError(error))?;
    for cpu in cpus {
        let attached = program.attach(
            PerfEventConfig::Software(SoftwareEvent::CpuClock),
            PerfEventScope::AllProcessesOneCpu { cpu },
            SamplePolicy::Period(period_ns),
            false,
        );
        match attached {
            Ok(id) => links.push(Box::new(program.take_link(id)?)),
            // It went offline since the list was read, and has no callbacks to sample.
            Err(error) if is_offline(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_offline(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error)
        if error.io_error.raw_os_error() == Some(libc::ENODEV))
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
pub(crate) fn errno(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).to_string(),
        None => error.to_string(),
    }
}
