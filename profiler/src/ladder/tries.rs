//! What the kernel answers when each program is loaded and attached.

use aya::sys::{Stats, enable_stats};

use crate::{
    hooks,
    object::{Kernel, ObjectError, Settings},
    programs::{self, Attached},
    vms::load_iterator,
};

pub(crate) type Outcome = Result<(), String>;

/// What the kernel answered to each try.
pub(super) struct Tries {
    /// VMs are found and their heads read.
    pub(super) iterator: Outcome,
    /// The TDP MMU's tables are walked.
    pub(super) tables: Outcome,
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
        const PERIOD_NS: u64 = 1_000_000_000;
        let ebpf = &mut kernel.prepare(&Settings::CENSUS)?;
        let tried = |attached: Attached| attached.map(drop);
        let mut iterator = |name| {
            let loaded = load_iterator(ebpf, name, &kernel.btf);
            loaded.map(drop).map_err(|error| error.to_string())
        };
        Ok(Self {
            iterator: iterator("rs_vms").and_then(|()| iterator("rs_heads")),
            tables: kernel
                .tables_readable()
                .and_then(|()| iterator("rs_tables")),
            tracepoints: tried(programs::tracepoints(ebpf)),
            sampler: programs::sampler(ebpf, PERIOD_NS).map(drop),
            pair: tried(programs::notifiers(ebpf, kernel)),
            inner: tried(programs::inner(ebpf, kernel)),
            tdp: tried(programs::tdp(ebpf, kernel)),
            faults: tried(programs::faults(ebpf, kernel)),
            waits: tried(programs::waits(ebpf)),
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
