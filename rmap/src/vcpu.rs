//! A vCPU, as far as the MMU knows it: what it has prepared for the next fault.
//!
//! One per thread that faults or zaps. It may be used with any MMU.

use crate::{desc::DescCache, reclaim::Retired};

/// One vCPU's descriptor cache and its list of retired descriptors.
#[derive(Debug, Default)]
pub struct Vcpu {
    pub(crate) cache: DescCache,
    pub(crate) retired: Retired,
}

impl Vcpu {
    /// A vCPU with nothing prepared; its first fault fills the cache.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cache: DescCache::new(),
            retired: Retired::new(),
        }
    }
}
