//! What the kernel answers when each program is loaded and attached.

use aya::sys::{Stats, enable_stats};

use crate::{
    hooks,
    kernel::WalkOrder,
    object::{Kernel, ObjectError, Settings},
    vms::load_iterator,
};

pub(crate) type Outcome = Result<(), String>;

/// What the kernel answered to each try.
pub(super) struct Tries {
    pub(super) iterator: Outcome,
    pub(super) tracepoints: Outcome,
    pub(super) sampler: Outcome,
    pub(super) pair: Outcome,
    pub(super) inner: Outcome,
    pub(super) tdp: Outcome,
    pub(super) faults: Outcome,
    pub(super) waits: Outcome,
    pub(super) statistics: Outcome,
    pub(super) rmap_function: Outcome,
}

impl Tries {
    /// Tries everything.
    pub(super) fn new(kernel: &Kernel) -> Result<Self, ObjectError> {
        const NOTIFIER: &str = "__mmu_notifier_clear_flush_young";
        const FAULT: &str = "kvm_mmu_page_fault";
        const PERIOD_NS: u64 = 1_000_000_000;
        let ebpf = &mut kernel.prepare(&Settings::CENSUS)?;
        let built_in = kernel.layout.kvm_built_in;
        let inner = if built_in {
            hooks::fentry(ebpf, kernel, "rs_inner_age", "kvm_age_gfn")
                .and_then(|_| hooks::fentry(ebpf, kernel, "rs_inner_test", "kvm_test_age_gfn"))
        } else {
            hooks::kprobe(ebpf, "rs_inner_kprobe", &["kvm_age_gfn"])
        };
        let tdp = if built_in {
            hooks::fentry(ebpf, kernel, "rs_tdp_age", "kvm_tdp_mmu_age_gfn_range").and_then(|_| {
                hooks::fentry(ebpf, kernel, "rs_tdp_test", "kvm_tdp_mmu_test_age_gfn")
            })
        } else {
            hooks::kprobe(ebpf, "rs_tdp_kprobe", &["kvm_tdp_mmu_age_gfn_range"])
        };
        let tdp = tdp.and_then(|_| match kernel.symbols.walk_order()? {
            WalkOrder::RmapsFirst => Ok(()),
            WalkOrder::TdpFirst(rmaps) => hooks::kprobe(ebpf, "rs_rmap_kprobe", &[rmaps]).map(drop),
        });
        let faults = if built_in {
            hooks::fexit(ebpf, kernel, "rs_fault_exit", FAULT)
                .and_then(|_| hooks::fentry(ebpf, kernel, "rs_fault_enter", FAULT))
        } else {
            hooks::kprobe(ebpf, "rs_fault_return", &[FAULT])
                .and_then(|_| hooks::kprobe(ebpf, "rs_fault_kprobe", &[FAULT]))
        };
        let pair = hooks::fentry(ebpf, kernel, "rs_cfy_enter", NOTIFIER)
            .and_then(|_| hooks::fexit(ebpf, kernel, "rs_cfy_exit", NOTIFIER));
        let tracepoints = hooks::tracepoint(ebpf, "rs_age_hva", "kvm_age_hva")
            .and_then(|_| hooks::tracepoint(ebpf, "rs_test_age_hva", "kvm_test_age_hva"));
        let waits = hooks::tracepoint(ebpf, "rs_wait_begins", "contention_begin")
            .and_then(|_| hooks::tracepoint(ebpf, "rs_wait_ends", "contention_end"));
        Ok(Self {
            iterator: load_iterator(ebpf, "rs_vms", &kernel.btf)
                .map(drop)
                .map_err(|error| error.to_string()),
            tracepoints: tracepoints.map(drop),
            sampler: hooks::sampler(ebpf, "rs_sample", PERIOD_NS).map(drop),
            pair: pair.map(drop),
            inner: inner.map(drop),
            tdp,
            faults: faults.map(drop),
            waits: waits.map(drop),
            statistics: enable_stats(Stats::RunTime)
                .map(drop)
                .map_err(|error| hooks::errno(&error.io_error)),
            rmap_function: if kernel.symbols.has("kvm_rmap_age_gfn_range") {
                Ok(())
            } else {
                Err("kvm_rmap_age_gfn_range was inlined away".to_owned())
            },
        })
    }
}
