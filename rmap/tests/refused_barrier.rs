//! A process may be refused the barriers it has registered for. Then nobody can say
//! whether a reader is still inside, and nothing that waits for readers is freed.
#![cfg(all(target_os = "linux", not(any(loom, shuttle, miri))))]

use std::collections::BTreeMap;

use rmap::{Access, Gfn, GfnRange, Level, Mapping, Mmu, MmuConfig, Vcpu};
use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

const PAGE: GfnRange = GfnRange {
    start: Gfn(0),
    end: Gfn(1),
};
/// Several times as many as wait for an advance where barriers are to be had.
const CHAINS: usize = 1000;

/// Makes this thread's membarrier fail as on a host that does not allow it.
fn refuse_barriers() {
    let architecture = TargetArch::try_from(std::env::consts::ARCH);
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_membarrier, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        architecture.expect("seccompiler knows this machine"),
    );
    let program = filter.expect("the filter is valid").try_into();
    let program: seccompiler::BpfProgram = program.expect("the filter can be compiled");
    let applied = seccompiler::apply_filter(&program);
    assert!(
        applied.is_ok(),
        "the kernel refuses seccomp filters: {applied:?}"
    );
}

/// Makes a chain and unmaps it, again and again; the descriptors that then still wait.
fn waiting_after_churn(mmu: &dyn Mmu) -> usize {
    let mut vcpu = Vcpu::new();
    for _ in 0..CHAINS {
        for alias in 0..2 {
            let mapping = Mapping::new(PAGE.start, Level::Size4K, alias);
            let fault = mmu.fault(&mut vcpu, mapping, Access::Read);
            assert!(fault.is_ok(), "{fault:?}");
        }
        assert_eq!(mmu.unmap_range(&mut vcpu, PAGE), Ok(2));
    }
    mmu.deferred_descs()
}

#[test]
fn i_life_without_barriers_nothing_is_freed() {
    let rcu = rmap::scheme("rcu").expect("it is registered");
    let build = || (rcu.build)(&MmuConfig::new(PAGE.start, 1, 2)).expect("valid");
    let mmu = build();
    // Registers the process.
    mmu.age(PAGE);
    assert!(waiting_after_churn(&*mmu) < CHAINS, "barriers free");
    refuse_barriers();
    assert_eq!(waiting_after_churn(&*build()), CHAINS);
}
