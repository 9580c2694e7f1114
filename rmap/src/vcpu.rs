//! A vCPU, as far as the MMU knows it: what it has prepared for the next fault.
//!
//! One per thread that faults or zaps. It may be used with any MMU.

use crate::{desc::DescCache, reclaim::Retired, tdp_mmu::TableCache};

/// One vCPU's caches of descriptors and page tables, and what it has retired.
#[derive(Debug, Default)]
pub struct Vcpu {
    pub(crate) cache: DescCache,
    pub(crate) tables: TableCache,
    pub(crate) retired: Retired,
}

impl Vcpu {
    /// A vCPU with nothing prepared; its first fault fills the cache.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cache: DescCache::new(),
            tables: TableCache::new(),
            retired: Retired::new(),
        }
    }
}
