//! `tdp`: no rmap at all; the TDP MMU's tables walked without a lock.
//!
//! What aging costs where two-dimensional paging needs no reverse map: four
//! dependent loads for a lone gfn, one for each neighbour in the same table. Faults
//! hold mmu_lock for read and run beside each other. The protocol and its orderings
//! are in [`tdp_mmu`](crate::tdp_mmu) and in `docs/rmap.md`.
//!
//! What it gives up: it exists for TDP only, where a gfn has one place. Nested guests
//! need the shadow MMU beside it ([`tiered`](super::tiered)). Tables that were cut off
//! are kept until the readers have left, see
//! [`Mmu::deferred_tables`](crate::Mmu::deferred_tables).

use crate::{
    scheme::NeedsMmuLock,
    schemes::{Mmus, SchemeInfo},
    tdp_mmu::{AsKvm, TdpMmu},
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "tdp",
    origin: "the TDP MMU",
    summary: "no rmap: page tables walked without a lock, frozen entries, frees deferred",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Never,
    defers_descs: false,
    mmus: Mmus::Tdp,
    build: TdpMmu::<AsKvm>::boxed,
};
