//! What a VM's MMU is built from. Plain values; checked when the MMU is built.

use std::{fmt, str::FromStr};

use crate::{error::RmapError, gfn::Gfn};

/// Aliases a memslot may have: KVM's recycling threshold, with room to pass it.
pub const MAX_ALIASES: u32 = 4096;

/// KVM zaps a whole rmap when one fault makes it longer than this.
pub const RECYCLE_THRESHOLD: u32 = 1000;

/// One memslot: a run of guest physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemslotConfig {
    /// First gfn of the slot. It need not be aligned to anything.
    pub base_gfn: Gfn,
    /// Length of the slot in 4 KiB pages.
    pub npages: u64,
}

/// How SPTEs remember that a page was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessedBits {
    /// The hardware sets Accessed and Dirty bits.
    #[default]
    AD,
    /// No such hardware: an old page's SPTE is made non-present for the hardware,
    /// and the fault that follows a use makes it present again.
    AccessTracking,
}

/// Which lock mmu_lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockKind {
    /// A queued fair rwlock that spins, with the behaviour of the kernel's.
    #[default]
    Queued,
    /// `parking_lot`'s rwlock: eventually fair, sleeps after a short spin.
    ParkingLot,
    /// The standard library's rwlock.
    Std,
}

impl LockKind {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Queued, Self::ParkingLot, Self::Std];

    /// The name used on command lines and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::ParkingLot => "parking-lot",
            Self::Std => "std",
        }
    }
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LockKind {
    type Err = RmapError;

    fn from_str(name: &str) -> Result<Self, RmapError> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| RmapError::NoSuchLock {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// Everything an MMU is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MmuConfig {
    /// The VM's memory. Slots must not overlap; their order does not matter.
    pub memslots: Vec<MemslotConfig>,
    /// Columns of shadow pages: the most SPTEs one rmap can hold. 1 to
    /// [`MAX_ALIASES`].
    pub aliases: u32,
    /// How SPTEs remember a use.
    pub accessed: AccessedBits,
    /// Which lock mmu_lock is.
    pub lock: LockKind,
    /// A fault that makes an rmap longer than this zaps the whole rmap.
    pub recycle_threshold: u32,
}

impl MmuConfig {
    /// One memslot of `npages` pages from `base_gfn` on, with A/D bits and the
    /// defaults for the rest.
    #[must_use]
    pub fn new(base_gfn: Gfn, npages: u64, aliases: u32) -> Self {
        Self {
            memslots: vec![MemslotConfig { base_gfn, npages }],
            aliases,
            accessed: AccessedBits::default(),
            lock: LockKind::default(),
            recycle_threshold: RECYCLE_THRESHOLD,
        }
    }

    /// The same with another way of remembering a use.
    #[must_use]
    pub fn with_accessed(mut self, accessed: AccessedBits) -> Self {
        self.accessed = accessed;
        self
    }

    /// The same with another mmu_lock.
    #[must_use]
    pub fn with_lock(mut self, lock: LockKind) -> Self {
        self.lock = lock;
        self
    }
}
