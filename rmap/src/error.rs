//! What can go wrong, and what a broken invariant looks like.
//!
//! Nothing here is ever a panic: a caller that maps the same SPTE twice, or a
//! chain that does not add up, is reported to whoever asked.

use crate::gfn::{Gfn, Level, Mapping};

/// A chain operation that could not be done. The chain is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PteListError {
    /// The SPTE to add is in the chain already.
    #[error("the SPTE is in the chain already; remove it before it is added again")]
    AlreadyMapped,
    /// The SPTE to remove is not in the chain.
    #[error("the SPTE is not in the chain; only what was added can be removed")]
    NotMapped,
    /// A descriptor's counts or pointers contradict each other.
    #[error("the chain is corrupt: {0}; the VM cannot go on")]
    CorruptChain(&'static str),
    /// The vCPU's descriptor cache was not topped up before mmu_lock was taken.
    #[error("the vCPU's descriptor cache is empty; top it up before taking mmu_lock")]
    CacheEmpty,
}

/// An MMU operation that could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RmapError {
    /// The gfn lies in no memslot.
    #[error("no memslot holds {0}; map only gfns inside the configured slots")]
    NoMemslot(Gfn),
    /// No mmu_lock has that name.
    #[error("no lock is called {name:?}; choose one of {known}")]
    NoSuchLock {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The alias is not one of the configured columns.
    #[error("alias {alias} is not below the configured {aliases}; raise MmuConfig::aliases")]
    NoSuchAlias {
        /// The alias asked for.
        alias: u32,
        /// The number of aliases configured.
        aliases: u32,
    },
    /// The configuration asks for no columns, or for too many.
    #[error("the number of aliases must be 1 to 4096")]
    NoAliases,
    /// A memslot without pages, or one that ends beyond the guest's address space.
    #[error("the memslot at {0} is empty or ends beyond the guest's physical address space")]
    BadMemslot(Gfn),
    /// Two memslots share gfns.
    #[error("two memslots share {0}; memslots must not overlap")]
    OverlappingMemslots(Gfn),
    /// The shadow pages or rmap heads do not fit into memory.
    #[error(
        "{bytes} bytes of shadow pages and rmaps could not be allocated; use fewer pages or aliases"
    )]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// The shadow page was given away.
    #[error("the shadow page of {0} was given away; take it back first")]
    PageGivenAway(Mapping),
    /// This MMU has no such operation.
    #[error("this index has no way to {0}; choose one of the lock schemes for it")]
    NotSupported(&'static str),
    /// A chain operation failed.
    #[error("{mapping}: {source}")]
    PteList {
        /// The mapping it was done for.
        mapping: Mapping,
        /// What was wrong.
        source: PteListError,
    },
}

/// A broken invariant found by [`Mmu::verify`](crate::Mmu::verify).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A head is locked although nobody works on it.
    #[error("I-bit: the rmap of {gfn} at {level:?} is locked and nobody holds it")]
    LockedLeaked {
        /// First gfn of the rmap.
        gfn: Gfn,
        /// Level of the rmap.
        level: Level,
    },
    /// A chain does not add up.
    #[error("I-chain: the rmap of {gfn} at {level:?}: {source}")]
    Corrupt {
        /// First gfn of the rmap.
        gfn: Gfn,
        /// Level of the rmap.
        level: Level,
        /// What does not add up.
        source: PteListError,
    },
    /// The rmap and the SPTEs tell different stories.
    #[error("I-chain: the rmap of {gfn} at {level:?} holds {in_rmap} SPTEs, {present} are present")]
    Miscounted {
        /// First gfn of the rmap.
        gfn: Gfn,
        /// Level of the rmap.
        level: Level,
        /// Entries found in the chain.
        in_rmap: u32,
        /// Present SPTEs that map the page.
        present: u32,
    },
    /// The number of shadow SPTEs that decides whether rmaps are walked is wrong.
    #[error("I-young: {counted} shadow SPTEs are counted, {present} are present")]
    MiscountedShadow {
        /// What the counter says.
        counted: u64,
        /// What the shadow pages hold.
        present: u64,
    },
    /// A frozen entry was left in a table that can be reached.
    #[error("I-frozen: the entry of {gfn} at height {height} is frozen and nobody will empty it")]
    FrozenLeft {
        /// First gfn of the entry.
        gfn: Gfn,
        /// Height of its table.
        height: u32,
    },
    /// A TDP SPTE maps another page than its place says.
    #[error("{0} maps another page than its place in the tables says")]
    WrongPage(Mapping),
    /// A mapping, or a way to another table, where there can be none.
    #[error("the entry of {gfn} at height {height} cannot be where it is")]
    BadEntry {
        /// First gfn of the entry.
        gfn: Gfn,
        /// Height of its table.
        height: u32,
    },
    /// A present SPTE is not in its rmap.
    #[error("I-chain: {0} is present and not in its rmap")]
    Missing(Mapping),
}
