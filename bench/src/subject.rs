//! What is measured: lock schemes, peers and physical limits, by name.
//!
//! Workloads take subjects from here and never know which kind they have in hand:
//! a [`Subject`] says what it can do, and [`Subject::build`] makes an MMU. A scheme
//! of the registry is one by itself; adding a peer or a limit is one entry of a list.

use report::host;
use report::schema::{Context, ResultKind};
use rmap::scheme::NeedsMmuLock;
use rmap::{Mmu, MmuConfig, RmapError, SchemeInfo};

use crate::limits::{Cmpxchg, LimitMmu, Loads, Stream};
use crate::mmu_lock;
use crate::peers::{DashIndex, PapayaIndex, PeerMmu, RwLockIndex, SccIndex};

/// Why a subject is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A lock scheme of rmaps.
    Scheme,
    /// A data structure that a Rust programmer would use instead.
    Peer,
    /// What the machine can do at best.
    Limit,
}

/// One row of the tables.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// The name on command lines and in results.
    pub name: &'static str,
    /// Why it is there.
    pub kind: Kind,
    /// What aging does, in one line.
    pub summary: &'static str,
    /// It keeps its promises; what does not is measured only when it is named.
    pub sound: bool,
    /// A scheme with some of its ideas left out, measured only when it is named.
    pub ablation: bool,
    /// Mutators and agers may run beside each other.
    pub concurrent: bool,
    /// The most SPTEs that can map one gfn.
    pub max_aliases: u32,
    /// A large set of pages is mapped in little time.
    pub quick_to_fill: bool,
    /// It maps huge pages.
    pub huge_pages: bool,
    /// It reads heads and follows none: a row only where whole slots are aged whose
    /// pages are old or not mapped.
    pub reads_heads_only: bool,
    build: fn(&MmuConfig) -> Result<Box<dyn Mmu>, RmapError>,
}

impl Subject {
    /// Builds an MMU.
    ///
    /// # Errors
    /// The configuration is contradictory or does not fit into memory.
    pub fn build(&self, config: &MmuConfig) -> Result<Box<dyn Mmu>, RmapError> {
        (self.build)(config)
    }

    fn scheme(info: &SchemeInfo) -> Self {
        Self {
            name: info.name,
            kind: Kind::Scheme,
            summary: info.summary,
            sound: info.sound,
            ablation: false,
            concurrent: true,
            max_aliases: info.max_aliases(),
            quick_to_fill: true,
            huge_pages: true,
            reads_heads_only: false,
            build: info.build,
        }
    }

    fn ablation(info: &SchemeInfo) -> Self {
        Self {
            ablation: true,
            ..Self::scheme(info)
        }
    }

    const fn peer(
        name: &'static str,
        summary: &'static str,
        build: fn(&MmuConfig) -> Result<Box<dyn Mmu>, RmapError>,
    ) -> Self {
        Self {
            name,
            kind: Kind::Peer,
            summary,
            sound: true,
            ablation: false,
            concurrent: true,
            max_aliases: rmap::config::MAX_ALIASES,
            quick_to_fill: false,
            huge_pages: true,
            reads_heads_only: false,
            build,
        }
    }

    const fn limit(
        name: &'static str,
        summary: &'static str,
        build: fn(&MmuConfig) -> Result<Box<dyn Mmu>, RmapError>,
    ) -> Self {
        Self {
            kind: Kind::Limit,
            concurrent: false,
            quick_to_fill: true,
            huge_pages: false,
            ..Self::peer(name, summary, build)
        }
    }
}

static PEERS: [Subject; 4] = [
    Subject::peer(
        "peer-rwlock",
        "RwLock<HashMap<page, Vec<SPTE>>>, read-locked by agers",
        PeerMmu::<RwLockIndex>::boxed,
    ),
    Subject::peer(
        "peer-dashmap",
        "dashmap: a sharded hash map, a lock per shard",
        PeerMmu::<DashIndex>::boxed,
    ),
    Subject::peer(
        "peer-papaya",
        "papaya: a hash map with lock-free readers",
        PeerMmu::<PapayaIndex>::boxed,
    ),
    Subject::peer(
        "peer-scc",
        "scc: a hash map with a lock per bucket",
        PeerMmu::<SccIndex>::boxed,
    ),
];

static LIMITS: [Subject; 3] = [
    Subject::limit(
        "limit-loads",
        "the dependent loads of the walk and no synchronisation",
        LimitMmu::<Loads>::boxed,
    ),
    Subject::limit(
        "limit-cmpxchg",
        "an uncontended lock cmpxchg and a release store around the loads",
        LimitMmu::<Cmpxchg>::boxed,
    ),
    Subject {
        reads_heads_only: true,
        ..Subject::limit(
            "limit-stream",
            "the heads of a whole slot read with wide loads, none followed",
            LimitMmu::<Stream>::boxed,
        )
    },
];

/// Everything that can be measured, in the order in which tables show it.
pub fn subjects() -> impl Iterator<Item = Subject> {
    let schemes = rmap::schemes().iter().map(Subject::scheme);
    let ablations = rmap::ablations().iter().map(Subject::ablation);
    schemes.chain(ablations).chain(PEERS).chain(LIMITS)
}

/// The context of a result in which any of them are measured.
#[must_use]
pub fn context() -> Context {
    let that = |need| {
        let schemes = rmap::schemes().iter().chain(rmap::ablations());
        let schemes = schemes.filter(|info| info.needs_mmu_lock == need);
        schemes.map(|info| info.name.to_owned()).collect()
    };
    Context {
        mmu_lock: Some(mmu_lock::chosen().to_string()),
        pass_over_chains: that(NeedsMmuLock::SkipsChains),
        age_without_mmu_lock: that(NeedsMmuLock::Never),
        ..host::context(ResultKind::Bench)
    }
}

/// The time a cache line takes from one CPU to another: a row of `agers` without an
/// MMU behind it.
pub const TRANSFER: &str = "limit-transfer";

/// Names of all rows, subjects or not.
pub fn names() -> impl Iterator<Item = &'static str> {
    subjects().map(|s| s.name).chain([TRANSFER])
}

/// The subject of that name.
#[must_use]
pub fn subject(name: &str) -> Option<Subject> {
    subjects().find(|subject| subject.name == name)
}

/// Of these names, those whose subject has what is asked for.
#[must_use]
pub fn keep(names: &[String], has: impl Fn(&Subject) -> bool) -> Vec<String> {
    let kept = names
        .iter()
        .filter(|name| subject(name).is_some_and(|s| has(&s)));
    kept.cloned().collect()
}

/// Of these names, the subjects that bear mutators beside agers.
#[must_use]
pub fn concurrent(names: &[String]) -> Vec<String> {
    keep(names, |subject| subject.concurrent)
}

/// Of these names, the lock schemes of rmaps.
#[must_use]
pub fn lock_schemes(names: &[String]) -> Vec<String> {
    keep(names, |subject| subject.kind == Kind::Scheme)
}

#[cfg(test)]
#[path = "subject_tests.rs"]
mod tests;
