//! Loading and attaching the programs of one rung, and no others.
//!
//! A [`Probes`] is what stands between the kernel and the recording: dropping
//! it detaches everything, in any order and however the process ends.

use anyhow::{Result, anyhow};
use aya::Ebpf;

use crate::{
    hooks::{self, Hook},
    kernel::WalkOrder,
    ladder::Rung,
    object::Kernel,
};

/// The attached programs.
#[derive(Default)]
pub(crate) struct Probes {
    hooks: Vec<Hook>,
    /// On the sampled rung.
    sampler: Option<Hook>,
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

/// The TDP MMU's functions with their fentry programs.
const TDP: [(&str, &str); 2] = [
    ("kvm_tdp_mmu_age_gfn_range", "rs_tdp_age"),
    ("kvm_tdp_mmu_test_age_gfn", "rs_tdp_test"),
];

const FAULT: &str = "kvm_mmu_page_fault";

impl Probes {
    /// Loads and attaches what is wanted.
    pub(crate) fn attach(ebpf: &mut Ebpf, kernel: &Kernel, wanted: Wanted) -> Result<Self> {
        let mut probes = Self::default();
        // What notes the callbacks' time comes last, so that nothing asks for it in vain.
        if wanted.faults {
            probes.faults(ebpf, kernel)?;
        }
        if wanted.waits {
            // The end first: one without its beginning is counted, a beginning without its
            // end would stay behind in the map.
            probes.add(hooks::tracepoint(ebpf, "rs_wait_ends", "contention_end"))?;
            probes.add(hooks::tracepoint(
                ebpf,
                "rs_wait_begins",
                "contention_begin",
            ))?;
        }
        match wanted.rung {
            Rung::Sampled => probes.sampled(ebpf, wanted.period_ns)?,
            Rung::Exact => probes.exact(ebpf, kernel, wanted)?,
        }
        Ok(probes)
    }

    /// The loaded programs.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Hook> {
        self.hooks.iter().chain(&self.sampler)
    }

    /// CPUs that are sampled.
    pub(crate) fn sampled_cpus(&self) -> usize {
        self.sampler.as_ref().map_or(0, Hook::places)
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
            .map_err(|reason| anyhow!("cannot change the sampling rate: {reason}"))
    }

    fn sampled(&mut self, ebpf: &mut Ebpf, period_ns: u64) -> Result<()> {
        self.add(hooks::tracepoint(ebpf, "rs_age_hva", "kvm_age_hva"))?;
        self.add(hooks::tracepoint(
            ebpf,
            "rs_test_age_hva",
            "kvm_test_age_hva",
        ))?;
        self.sampler = Some(attached(hooks::sampler(ebpf, "rs_sample", period_ns))?);
        Ok(())
    }

    fn exact(&mut self, ebpf: &mut Ebpf, kernel: &Kernel, wanted: Wanted) -> Result<()> {
        for (function, enter, exit) in NOTIFIERS {
            // The exit first, as with the waits.
            self.add(hooks::fexit(ebpf, kernel, exit, function))?;
            self.add(hooks::fentry(ebpf, kernel, enter, function))?;
        }
        if wanted.inner {
            self.entries(ebpf, kernel, INNER, "rs_inner_kprobe")?;
        }
        if wanted.tdp {
            if let Ok(WalkOrder::TdpFirst(rmaps)) = kernel.symbols.walk_order() {
                self.add(hooks::kprobe(ebpf, "rs_rmap_kprobe", &[rmaps]))?;
            }
            self.entries(ebpf, kernel, TDP, "rs_tdp_kprobe")?;
        }
        Ok(())
    }

    /// Runs a program whenever one of two functions of KVM's is entered.
    fn entries(
        &mut self,
        ebpf: &mut Ebpf,
        kernel: &Kernel,
        functions: [(&'static str, &'static str); 2],
        in_module: &'static str,
    ) -> Result<()> {
        if kernel.layout.kvm_built_in {
            for (function, name) in functions {
                self.add(hooks::fentry(ebpf, kernel, name, function))?;
            }
            return Ok(());
        }
        let functions = functions.map(|(function, _)| function);
        self.add(hooks::kprobe(ebpf, in_module, &functions))
    }

    fn faults(&mut self, ebpf: &mut Ebpf, kernel: &Kernel) -> Result<()> {
        if kernel.layout.kvm_built_in {
            self.add(hooks::fexit(ebpf, kernel, "rs_fault_exit", FAULT))?;
            return self.add(hooks::fentry(ebpf, kernel, "rs_fault_enter", FAULT));
        }
        self.add(hooks::kprobe(ebpf, "rs_fault_return", &[FAULT]))?;
        self.add(hooks::kprobe(ebpf, "rs_fault_kprobe", &[FAULT]))
    }

    fn add(&mut self, hook: Result<Hook, String>) -> Result<()> {
        self.hooks.push(attached(hook)?);
        Ok(())
    }
}

fn attached(hook: Result<Hook, String>) -> Result<Hook> {
    hook.map_err(|reason| {
        anyhow!("a program that `rmapscope doctor` could attach is refused now: {reason}")
    })
}
