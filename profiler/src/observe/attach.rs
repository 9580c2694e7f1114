//! Loading and attaching the programs of one rung, and no others.
//!
//! A [`Probes`] is what stands between the kernel and the recording: dropping
//! it detaches everything, in any order and however the process ends.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        FEntry, FExit, KProbe, PerfEvent, Program, ProgramError, ProgramFd, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};

use crate::{
    ladder::{Rung, explain},
    object::Kernel,
};

/// A loaded program by name, for its statistics.
pub(crate) struct Loaded {
    pub(crate) name: &'static str,
    pub(crate) fd: ProgramFd,
}

/// The attached programs.
pub(crate) struct Probes {
    pub(crate) loaded: Vec<Loaded>,
    links: Vec<Box<dyn std::any::Any>>,
    /// The sampler's, which come and go with its rate.
    sampler_links: Vec<Box<dyn std::any::Any>>,
}

/// The notifiers with their entry and exit programs.
const NOTIFIERS: [(&str, &str, &str); 3] = [
    (
        "__mmu_notifier_clear_flush_young",
        "rs_cfy_enter",
        "rs_cfy_exit",
    ),
    ("__mmu_notifier_clear_young", "rs_cy_enter", "rs_cy_exit"),
    ("__mmu_notifier_test_young", "rs_ty_enter", "rs_ty_exit"),
];

/// The inner functions with their fentry programs.
const INNER: [(&str, &str); 2] = [
    ("kvm_age_gfn", "rs_inner_age"),
    ("kvm_test_age_gfn", "rs_inner_test"),
];

impl Probes {
    /// Loads and attaches what `rung` needs, with the `inner` functions if they
    /// can be probed; samples every `period_ns`.
    pub(crate) fn attach(
        ebpf: &mut Ebpf,
        kernel: &Kernel,
        rung: Rung,
        inner: bool,
        period_ns: u64,
    ) -> Result<Self> {
        let mut probes = Self {
            loaded: Vec::new(),
            links: Vec::new(),
            sampler_links: Vec::new(),
        };
        match rung {
            Rung::Sampled => {
                probes.tracepoint(ebpf, "rs_age_hva", "kvm_age_hva")?;
                probes.tracepoint(ebpf, "rs_test_age_hva", "kvm_test_age_hva")?;
                probes.sampler(ebpf, period_ns)?;
            }
            Rung::Exact => {
                for (function, enter, exit) in NOTIFIERS {
                    // The exit first: one without its entry is counted, an entry without
                    // its exit would stay behind in the map.
                    probes.fexit(ebpf, kernel, exit, function)?;
                    probes.fentry(ebpf, kernel, enter, function)?;
                }
                if inner {
                    probes.inner(ebpf, kernel)?;
                }
            }
        }
        Ok(probes)
    }

    /// Detaches everything; the programs stay loaded for their statistics.
    pub(crate) fn detach(&mut self) {
        self.sampler_links.clear();
        self.links.clear();
    }

    /// Samples every `period_ns` from now on.
    pub(crate) fn resample(&mut self, ebpf: &mut Ebpf, period_ns: u64) -> Result<()> {
        self.sampler_links.clear();
        let program = ebpf
            .program_mut("rs_sample")
            .context("the eBPF object has no program rs_sample")?;
        <&mut PerfEvent>::try_from(program)
            .and_then(|program| sample_all_cpus(program, period_ns, &mut self.sampler_links))
            .map_err(|error| anyhow::anyhow!("cannot attach rs_sample: {}", explain(&error)))
    }

    /// The entries that split wait from walk and see the chains.
    fn inner(&mut self, ebpf: &mut Ebpf, kernel: &Kernel) -> Result<()> {
        if kernel.layout.kvm_built_in {
            for (function, name) in INNER {
                self.fentry(ebpf, kernel, name, function)?;
            }
            return Ok(());
        }
        let functions = INNER.map(|(function, _)| function);
        self.add(ebpf, "rs_inner_kprobe", |program: &mut KProbe, links| {
            program.load()?;
            for function in functions {
                let id = program.attach(function, 0)?;
                links.push(Box::new(program.take_link(id)?));
            }
            Ok(program.fd()?.try_clone()?)
        })
    }

    fn fentry(
        &mut self,
        ebpf: &mut Ebpf,
        kernel: &Kernel,
        name: &'static str,
        function: &str,
    ) -> Result<()> {
        self.add(ebpf, name, |program: &mut FEntry, links| {
            program.load(function, &kernel.btf)?;
            let id = program.attach()?;
            links.push(Box::new(program.take_link(id)?));
            Ok(program.fd()?.try_clone()?)
        })
    }

    fn fexit(
        &mut self,
        ebpf: &mut Ebpf,
        kernel: &Kernel,
        name: &'static str,
        function: &str,
    ) -> Result<()> {
        self.add(ebpf, name, |program: &mut FExit, links| {
            program.load(function, &kernel.btf)?;
            let id = program.attach()?;
            links.push(Box::new(program.take_link(id)?));
            Ok(program.fd()?.try_clone()?)
        })
    }

    fn tracepoint(&mut self, ebpf: &mut Ebpf, name: &'static str, tracepoint: &str) -> Result<()> {
        self.add(ebpf, name, |program: &mut RawTracePoint, links| {
            program.load()?;
            let id = program.attach(tracepoint)?;
            links.push(Box::new(program.take_link(id)?));
            Ok(program.fd()?.try_clone()?)
        })
    }

    fn sampler(&mut self, ebpf: &mut Ebpf, period_ns: u64) -> Result<()> {
        let mut links = Vec::new();
        self.add(ebpf, "rs_sample", |program: &mut PerfEvent, _| {
            program.load()?;
            sample_all_cpus(program, period_ns, &mut links)?;
            Ok(program.fd()?.try_clone()?)
        })?;
        self.sampler_links = links;
        Ok(())
    }

    /// Finds a program in its typed form and lets `attach` load and attach it.
    fn add<'a, P: 'a>(
        &mut self,
        ebpf: &'a mut Ebpf,
        name: &'static str,
        attach: impl FnOnce(
            &'a mut P,
            &mut Vec<Box<dyn std::any::Any>>,
        ) -> Result<ProgramFd, ProgramError>,
    ) -> Result<()>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let program = ebpf
            .program_mut(name)
            .with_context(|| format!("the eBPF object has no program {name}"))?;
        let fd = <&mut P>::try_from(program)
            .and_then(|program| attach(program, &mut self.links))
            .map_err(|error| anyhow::anyhow!("cannot attach {name}: {}", explain(&error)))?;
        self.loaded.push(Loaded { name, fd });
        Ok(())
    }
}

/// Attaches the sampler to every CPU that is online. One that goes offline
/// meanwhile has no callbacks to sample.
fn sample_all_cpus(
    program: &mut PerfEvent,
    period_ns: u64,
    links: &mut Vec<Box<dyn std::any::Any>>,
) -> Result<(), ProgramError> {
    let cpus = aya::util::online_cpus().map_err(|(_, error)| ProgramError::IOError(error))?;
    for cpu in cpus {
        let id = program.attach(
            PerfEventConfig::Software(SoftwareEvent::CpuClock),
            PerfEventScope::AllProcessesOneCpu { cpu },
            SamplePolicy::Period(period_ns),
            false,
        )?;
        links.push(Box::new(program.take_link(id)?));
    }
    Ok(())
}
