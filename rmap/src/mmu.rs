//! The MMU as its callers see it: one object-safe trait.
//!
//! Calls go through `dyn Mmu`, as the kernel's go through an MMU notifier's
//! operations table, so every scheme pays the same indirect call and no caller
//! can tell schemes apart.

use crate::{
    error::{RmapError, Violation},
    gfn::{Gfn, GfnRange, Level, Mapping},
    tdp_mmu::OwnedTable,
    vcpu::Vcpu,
};

/// What a vCPU wanted when it faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A read; the SPTE is installed read-only and clean.
    Read,
    /// A write; the SPTE is installed writable and Dirty.
    Write,
}

/// What a fault did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The SPTE was there already; it is young, and writable if that was asked.
    Spurious,
    /// The SPTE was installed and added to its rmap.
    Installed {
        /// SPTEs in the rmap afterwards; 1 where there is no rmap.
        chain_len: u32,
    },
    /// The SPTE was installed, and the rmap had become so long that all of it was
    /// zapped, the new SPTE included (as KVM does beyond 1000 entries).
    Recycled {
        /// SPTEs zapped.
        zapped: u32,
    },
}

/// What a zap found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zapped {
    /// There was no SPTE.
    NotPresent,
    /// An SPTE was zapped; its page had not been used since it was last aged.
    Old,
    /// An SPTE was zapped; its page was young, which the caller has to remember.
    Young,
}

impl Zapped {
    /// Whether an SPTE was there to be zapped.
    #[must_use]
    pub fn was_present(self) -> bool {
        self != Self::NotPresent
    }
}

/// The answer of one aging callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aging {
    /// At least one page of the range was young, as far as the scheme could see.
    pub young: bool,
    /// The answer was found without waiting for mmu_lock.
    pub fast: bool,
}

/// A shadow page in a stranger's hands, and what the stranger wrote into it.
#[derive(Debug)]
#[must_use = "take it back with Mmu::take_page_back"]
pub struct GivenPage {
    pub(crate) place: Mapping,
    pub(crate) words: Vec<u64>,
    /// The page itself, where it does not stay part of the MMU.
    pub(crate) table: Option<OwnedTable>,
}

/// One VM's MMU under one lock scheme.
///
/// All methods may be called from any thread at any time. Methods that take a
/// [`Vcpu`] take mmu_lock: the shadow MMU for write, the TDP MMU for read except in
/// [`unmap_range`](Self::unmap_range) and [`give_page_away`](Self::give_page_away).
/// The aging calls take what their scheme takes; [`touch`](Self::touch) takes
/// nothing.
pub trait Mmu: Send + Sync {
    /// Handles a vCPU's fault: installs a young SPTE and, in the shadow MMU, adds it
    /// to the rmap. In the TDP MMU the SPTE takes the place of the smaller pages
    /// mapped there, or of its part of a larger one, whose other parts stay mapped.
    ///
    /// # Errors
    /// The gfn is in no memslot, the alias does not exist, or the chain is corrupt.
    fn fault(
        &self,
        vcpu: &mut Vcpu,
        mapping: Mapping,
        access: Access,
    ) -> Result<FaultOutcome, RmapError>;

    /// Zaps one SPTE and removes it from its rmap, if it has one.
    ///
    /// # Errors
    /// As for [`fault`](Self::fault), and if a present SPTE is not in its rmap.
    fn zap(&self, vcpu: &mut Vcpu, mapping: Mapping) -> Result<Zapped, RmapError>;

    /// Zaps everything that maps any gfn of the range, at every level, under
    /// mmu_lock for write. Gfns outside the memslots are ignored. Returns the
    /// number of SPTEs zapped.
    ///
    /// # Errors
    /// A chain is corrupt; rmaps before it are empty, those after it as they were.
    fn unmap_range(&self, vcpu: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError>;

    /// Looks for young pages in the range and makes them old (the notifier's
    /// `clear_young`).
    fn age(&self, range: GfnRange) -> Aging;

    /// Looks for a young page in the range and changes nothing (`test_young`).
    fn test_age(&self, range: GfnRange) -> Aging;

    /// [`age`](Self::age) by what can be asked without ever waiting for mmu_lock (the
    /// v5 series' fast-only notifier; periodic aging and [lookaround](fn@crate::lookaround)
    /// can live with it). What cannot be asked that way counts as old, and `fast` is
    /// false only if nothing can.
    /// The same as `age` where that never waits for mmu_lock.
    fn age_fast_only(&self, range: GfnRange) -> Aging {
        self.age(range)
    }

    /// [`age`](Self::age) as the last look before a page is evicted (the notifier's
    /// `clear_flush_young`): it must not miss a young SPTE, and takes mmu_lock where the
    /// scheme cannot see one without. The same as `age` for every exact scheme.
    fn age_before_eviction(&self, range: GfnRange) -> Aging {
        self.age(range)
    }

    /// Uses the mapped page as the hardware would: sets Accessed without any lock.
    /// Returns false if there is no such SPTE (a fault would follow).
    fn touch(&self, mapping: Mapping) -> bool;

    /// Write-protects every SPTE that maps a gfn of the range: the shadow MMU's by
    /// walking the rmaps under mmu_lock held for write and without any rmap lock, the
    /// TDP MMU's under mmu_lock held for read. Returns the number of SPTEs that were
    /// writable.
    fn write_protect(&self, range: GfnRange) -> u64;

    /// Zaps the 4 KiB SPTEs of the range whose 2 MiB page lies wholly inside range
    /// and memslot, so that the next fault can map it huge (KVM does this when dirty
    /// logging ends). Each rmap is walked under mmu_lock held for write, without its
    /// lock, and each SPTE is then removed with it; the TDP MMU cuts the whole table
    /// off. Returns the number of SPTEs zapped.
    ///
    /// # Errors
    /// A chain is corrupt; what was zapped before stays zapped.
    fn zap_collapsible(&self, vcpu: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError>;

    /// Frees the shadow page that holds `mapping`, all its SPTEs zapped and out of
    /// their rmaps (in the TDP MMU the table with all below it, and a larger page in
    /// its place is zapped), and plays the stranger who gets it next and happens to fill it
    /// with the very words it held. Waits for lock-free agers first, with no lock
    /// held, if the scheme needs it. Until the page is back, faults and zaps on it
    /// are refused; do not touch it meanwhile.
    ///
    /// # Errors
    /// As for [`zap`](Self::zap), and if the page is away already.
    fn give_page_away(&self, vcpu: &mut Vcpu, mapping: Mapping) -> Result<GivenPage, RmapError>;

    /// Takes the page back, empty, and returns how many of the stranger's words the
    /// MMU had changed: each is a breach of **I-life**.
    fn take_page_back(&self, page: GivenPage) -> usize;

    /// SPTEs that map `gfn` at `level`.
    ///
    /// # Errors
    /// The gfn is in no memslot.
    fn chain_len(&self, gfn: Gfn, level: Level) -> Result<u32, RmapError>;

    /// Makes about `young_permille` of every 1000 present SPTEs of the range young
    /// and the rest old, chosen by `seed` alone. Set-up for workloads: call it
    /// while nothing else runs if the share has to be exact.
    fn set_young_share(&self, range: GfnRange, young_permille: u16, seed: u64);

    /// Descriptors taken out of chains and not yet free for use again.
    fn deferred_descs(&self) -> usize;

    /// Page tables of 4 KiB cut off from the TDP MMU's tree and not yet freed; 0 where
    /// there is no such tree.
    fn deferred_tables(&self) -> usize {
        0
    }

    /// Checks I-chain and I-bit over the whole MMU. Meaningful only while no other
    /// call is running.
    ///
    /// # Errors
    /// The first broken invariant found.
    fn verify(&self) -> Result<(), Violation>;
}
