//! Which programs observe each signal, and where they are attached.
//!
//! One function per signal, for `doctor` that only tries and for a recording that keeps
//! what it attaches: what is said to work is what is then done. Each loads its programs
//! and attaches them in an order that leaves nothing half seen: an end without its
//! beginning is counted, a beginning without its end would stay behind in a map, so ends
//! come first.

use aya::Ebpf;

use crate::{
    hooks::{self, Hook},
    kernel::WalkOrder,
    object::Kernel,
};

/// The attached programs of a signal, or why they cannot be: those attached until then are
/// detached again.
pub(crate) type Attached = Result<Vec<Hook>, String>;

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

/// Callbacks with their times, on the exact rung.
pub(crate) fn notifiers(ebpf: &mut Ebpf, kernel: &Kernel) -> Attached {
    let mut hooks = Vec::new();
    for (function, enter, exit) in NOTIFIERS {
        hooks.push(hooks::fexit(ebpf, kernel, exit, function)?);
        hooks.push(hooks::fentry(ebpf, kernel, enter, function)?);
    }
    Ok(hooks)
}

/// KVM's own part of a callback: what comes before the walk, ranges and chain lengths.
pub(crate) fn inner(ebpf: &mut Ebpf, kernel: &Kernel) -> Attached {
    entries(ebpf, kernel, INNER, "rs_inner_kprobe")
}

/// The TDP MMU's part of a walk, told from that of the rmaps.
pub(crate) fn tdp(ebpf: &mut Ebpf, kernel: &Kernel) -> Attached {
    let mut hooks = Vec::new();
    if let WalkOrder::TdpFirst(rmaps) = kernel.symbols.walk_order()? {
        hooks.push(hooks::kprobe(ebpf, "rs_rmap_kprobe", &[rmaps])?);
    }
    hooks.extend(entries(ebpf, kernel, TDP, "rs_tdp_kprobe")?);
    Ok(hooks)
}

/// vCPU faults.
pub(crate) fn faults(ebpf: &mut Ebpf, kernel: &Kernel) -> Attached {
    if kernel.layout.kvm_built_in {
        return Ok(vec![
            hooks::fexit(ebpf, kernel, "rs_fault_exit", FAULT)?,
            hooks::fentry(ebpf, kernel, "rs_fault_enter", FAULT)?,
        ]);
    }
    Ok(vec![
        hooks::kprobe(ebpf, "rs_fault_return", &[FAULT])?,
        hooks::kprobe(ebpf, "rs_fault_kprobe", &[FAULT])?,
    ])
}

/// Waits for `mmu_lock`.
pub(crate) fn waits(ebpf: &mut Ebpf) -> Attached {
    Ok(vec![
        hooks::tracepoint(ebpf, "rs_wait_ends", "contention_end")?,
        hooks::tracepoint(ebpf, "rs_wait_begins", "contention_begin")?,
    ])
}

/// Callbacks without their times, on the sampled rung.
pub(crate) fn tracepoints(ebpf: &mut Ebpf) -> Attached {
    Ok(vec![
        hooks::tracepoint(ebpf, "rs_age_hva", "kvm_age_hva")?,
        hooks::tracepoint(ebpf, "rs_test_age_hva", "kvm_test_age_hva")?,
    ])
}

/// What runs on each CPU every `period_ns` of its time, on the sampled rung.
pub(crate) fn sampler(ebpf: &mut Ebpf, period_ns: u64) -> Result<Hook, String> {
    hooks::sampler(ebpf, "rs_sample", period_ns)
}

/// Runs a program whenever one of two functions of KVM's is entered: one of each where KVM
/// is in vmlinux, and the same for both where it is a module.
fn entries(
    ebpf: &mut Ebpf,
    kernel: &Kernel,
    functions: [(&'static str, &'static str); 2],
    in_module: &'static str,
) -> Attached {
    if kernel.layout.kvm_built_in {
        let fentry = |(function, name)| hooks::fentry(ebpf, kernel, name, function);
        return functions.into_iter().map(fentry).collect();
    }
    let functions = functions.map(|(function, _)| function);
    Ok(vec![hooks::kprobe(ebpf, in_module, &functions)?])
}
