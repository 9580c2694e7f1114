//! The registry of lock schemes: one module under `schemes/` each, and two lines here,
//! its `pub mod` and its entry in the list.
//!
//! Everything that runs over "all schemes" (property tests, model checks,
//! benchmarks) takes them from here.

use crate::{
    config::{MAX_ALIASES, MmuConfig},
    error::RmapError,
    mmu::Mmu,
    scheme::NeedsMmuLock,
};

pub mod bitlock;
#[cfg(any(target_arch = "x86_64", loom, shuttle))]
pub mod bitlock_seed;
pub mod rcu;
pub mod rwlock_read;
pub mod rwlock_write;
pub mod single_batched;
pub mod single_bitlock;
pub mod single_fallback;
pub mod single_recheck;
pub mod single_skip;
pub mod tdp;
pub mod tiered;
pub mod tiered_was_fast;

/// Which of KVM's two MMUs a scheme's SPTEs are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mmus {
    /// The shadow MMU: every SPTE is in an rmap.
    Shadow,
    /// The TDP MMU: no rmaps; one SPTE, of one size, maps a gfn.
    Tdp,
    /// Both: alias 0 is the TDP MMU's, every other alias the shadow MMU's.
    Both,
}

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
    /// An age call that finds a young page early leaves SPTEs unaged that would take
    /// longer to reach; where false, it ages all that the scheme can reach.
    pub stops_when_fast: bool,
    /// What of an age call waits for mmu_lock; where it [stops when
    /// fast](Self::stops_when_fast), of the part that may be fast. Claimed here and not
    /// taken from the scheme's own constants, so that the two can disagree.
    pub needs_mmu_lock: NeedsMmuLock,
    /// Descriptors that left a chain may have to wait for readers.
    pub defers_descs: bool,
    /// Which MMUs it has.
    pub mmus: Mmus,
    /// Builds an MMU that uses it.
    pub build: fn(&MmuConfig) -> Result<Box<dyn Mmu>, RmapError>,
}

impl SchemeInfo {
    /// The most SPTEs that can map one gfn at one level. Aliases from here on do not
    /// exist, whatever [`MmuConfig::aliases`] says.
    #[must_use]
    pub const fn max_aliases(&self) -> u32 {
        match self.mmus {
            Mmus::Shadow | Mmus::Both => MAX_ALIASES,
            Mmus::Tdp => 1,
        }
    }

    /// `wanted` aliases, or as many as there can be.
    #[must_use]
    pub const fn aliases(&self, wanted: u32) -> u32 {
        if wanted < self.max_aliases() {
            wanted
        } else {
            self.max_aliases()
        }
    }

    /// Aliases below this are SPTEs of the TDP MMU: in no rmap and never recycled.
    /// Where one maps a page, another of them at a larger or smaller level takes its
    /// place.
    #[must_use]
    pub const fn tdp_aliases(&self) -> u32 {
        match self.mmus {
            Mmus::Shadow => 0,
            Mmus::Tdp | Mmus::Both => 1,
        }
    }
}

static SCHEMES: &[SchemeInfo] = &[
    rwlock_write::INFO,
    rwlock_read::INFO,
    #[cfg(any(target_arch = "x86_64", loom, shuttle))]
    bitlock_seed::INFO,
    bitlock::INFO,
    single_skip::INFO,
    single_fallback::INFO,
    single_recheck::INFO,
    single_bitlock::INFO,
    single_batched::INFO,
    rcu::INFO,
    tdp::INFO,
    tiered::INFO,
    tiered_was_fast::INFO,
];

/// All schemes, in the order in which tables show them.
#[must_use]
pub fn schemes() -> &'static [SchemeInfo] {
    SCHEMES
}

/// Our best scheme with some of its ideas left out, to show what each buys: not among
/// [`schemes`].
#[must_use]
pub fn ablations() -> &'static [SchemeInfo] {
    &single_batched::ABLATIONS
}

/// The scheme, or ablation, of that name.
#[must_use]
pub fn scheme(name: &str) -> Option<&'static SchemeInfo> {
    let mut all = SCHEMES.iter().chain(ablations());
    all.find(|scheme| scheme.name == name)
}
