//! The registry of lock schemes: one module and one line each.
//!
//! Everything that runs over "all schemes" (property tests, model checks,
//! benchmarks) takes them from here.

use crate::{config::MmuConfig, error::RmapError, mmu::Mmu};

pub mod bitlock;
#[cfg(any(target_arch = "x86_64", loom))]
pub mod bitlock_seed;
pub mod rcu;
pub mod rwlock_read;
pub mod rwlock_write;
pub mod single_bitlock;
pub mod single_fallback;
pub mod single_recheck;
pub mod single_skip;

/// One scheme, as commands and tables show it.
#[derive(Debug, Clone, Copy)]
pub struct SchemeInfo {
    /// The name used on command lines and in results.
    pub name: &'static str,
    /// Where the scheme comes from.
    pub origin: &'static str,
    /// What aging does under it, in one line.
    pub summary: &'static str,
    /// With no concurrent mutator it never reports a young page old (**I-young**).
    pub exact: bool,
    /// An ager sees each rmap as it was at one moment: a young SPTE that stays mapped
    /// is reported whatever mutators do beside it.
    pub consistent: bool,
    /// Two agers can be inside the same rmap, or wait for each other at most there.
    pub parallel_agers: bool,
    /// It keeps every invariant; false only for negative controls.
    pub sound: bool,
    /// Builds an MMU that uses it.
    pub build: fn(&MmuConfig) -> Result<Box<dyn Mmu>, RmapError>,
}

static SCHEMES: &[SchemeInfo] = &[
    rwlock_write::INFO,
    rwlock_read::INFO,
    #[cfg(any(target_arch = "x86_64", loom))]
    bitlock_seed::INFO,
    bitlock::INFO,
    single_skip::INFO,
    single_fallback::INFO,
    single_recheck::INFO,
    single_bitlock::INFO,
    rcu::INFO,
];

/// All schemes, in the order in which tables show them.
#[must_use]
pub fn schemes() -> &'static [SchemeInfo] {
    SCHEMES
}

/// The scheme of that name.
#[must_use]
pub fn scheme(name: &str) -> Option<&'static SchemeInfo> {
    SCHEMES.iter().find(|scheme| scheme.name == name)
}
