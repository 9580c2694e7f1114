//! Loading and attaching the programs of one rung, and no others.
//!
//! A [`Probes`] is what stands between the kernel and the recording: dropping
//! it detaches everything, in any order and however the process ends.

use anyhow::{Result, anyhow};
use aya::Ebpf;

use crate::{
    hooks::{self, Hook},
    ladder::Rung,
    object::Kernel,
    programs::{self, Attached},
};

/// The attached programs.
#[derive(Default)]
pub(crate) struct Probes {
    hooks: Vec<Hook>,
    /// On the sampled rung.
    sampler: Option<Hook>,
    /// CPUs the sampler was last attached to; it may be detached since.
    sampled_cpus: usize,
}

/// What is to be observed beside the callbacks themselves, where it can be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) rung: Rung,
    /// The inner functions, on the exact rung.
    pub(crate) inner: bool,
    /// The TDP MMU's functions, on the exact rung.
    pub(crate) tdp: bool,
    /// vCPU faults.
    pub(crate) faults: bool,
    /// Waits for `mmu_lock`.
    pub(crate) waits: bool,
    /// CPU time between two samples, on the sampled rung.
    pub(crate) period_ns: u64,
}

impl Probes {
    /// Loads and attaches what is wanted.
    pub(crate) fn attach(ebpf: &mut Ebpf, kernel: &Kernel, wanted: Wanted) -> Result<Self> {
        let mut probes = Self::default();
        // What notes the callbacks' time comes last, so that nothing asks for it in vain.
        if wanted.faults {
            probes.keep(programs::faults(ebpf, kernel))?;
        }
        if wanted.waits {
            probes.keep(programs::waits(ebpf))?;
        }
        match wanted.rung {
            Rung::Sampled => {
                probes.keep(programs::tracepoints(ebpf))?;
                let sampler =
                    programs::sampler(ebpf, wanted.period_ns).map_err(|reason| refused(&reason))?;
                probes.sampled_cpus = sampler.places();
                probes.sampler = Some(sampler);
            }
            Rung::Exact => {
                probes.keep(programs::notifiers(ebpf, kernel))?;
                if wanted.inner {
                    probes.keep(programs::inner(ebpf, kernel))?;
                }
                if wanted.tdp {
                    probes.keep(programs::tdp(ebpf, kernel))?;
                }
            }
        }
        Ok(probes)
    }

    /// The loaded programs.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Hook> {
        self.hooks.iter().chain(&self.sampler)
    }

    /// CPUs that are sampled, or were until everything was detached.
    pub(crate) fn sampled_cpus(&self) -> usize {
        self.sampled_cpus
    }

    /// Detaches everything; the programs stay loaded for their statistics.
    pub(crate) fn detach(&mut self) {
        let hooks = self.hooks.iter_mut().chain(&mut self.sampler);
        hooks.for_each(Hook::detach);
    }

    /// Samples every `period_ns` from now on, on the CPUs that are online.
    pub(crate) fn resample(&mut self, ebpf: &mut Ebpf, period_ns: u64) -> Result<()> {
        let Some(sampler) = &mut self.sampler else {
            return Ok(());
        };
        hooks::resample(ebpf, sampler, period_ns)
            .map_err(|reason| anyhow!("cannot change the sampling rate: {reason}"))?;
        self.sampled_cpus = sampler.places();
        Ok(())
    }

    fn keep(&mut self, attached: Attached) -> Result<()> {
        self.hooks
            .extend(attached.map_err(|reason| refused(&reason))?);
        Ok(())
    }
}

fn refused(reason: &str) -> anyhow::Error {
    anyhow!("a program that `rmapscope doctor` could attach is refused now: {reason}")
}
