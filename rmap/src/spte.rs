//! One shadow page table entry.
//!
//! An SPTE is one word that hardware, agers and mutators change at the same time,
//! so every change is one atomic operation, and each keeps **I-zap**: clearing
//! Accessed never revives or changes a zapped SPTE. Zapping stores 0, and every
//! other change either leaves 0 alone by its nature (clearing a bit) or is a
//! compare-exchange from a present value.
//!
//! Ordering is relaxed throughout: nothing is published through an SPTE. Who may
//! look at one at all is decided by the rmap that leads to it.
//!
//! Two forms exist, told apart by a bit of the SPTE itself, as in KVM. With A/D
//! bits, young is the Accessed bit. Without, an old page's SPTE is made
//! non-present for the hardware and its permissions are kept in high bits; young
//! means "not in that state".

use crate::{
    config::AccessedBits,
    gfn::Gfn,
    mmu::Access,
    sync::{AtomicU64, Ordering::Relaxed},
};

/// The value of one SPTE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpteWord(u64);

impl SpteWord {
    /// A zapped SPTE.
    pub const ZAPPED: Self = Self(0);

    /// The hardware may read through the entry (bit 0, P).
    const HW_READ: u64 = 1 << 0;
    /// The hardware may write through the entry (bit 1, W).
    const HW_WRITE: u64 = 1 << 1;
    /// The page was used since this bit was last cleared (bit 5, A).
    const ACCESSED: u64 = 1 << 5;
    /// The page was written (bit 6, D).
    const DIRTY: u64 = 1 << 6;
    /// The entry maps something, whatever the hardware sees (bit 11, software).
    const PRESENT: u64 = 1 << 11;
    /// First bit of the page frame number.
    const PFN_SHIFT: u32 = 12;
    /// The page frame number, bits 12 to 51.
    const PFN: u64 = ((1 << 40) - 1) << Self::PFN_SHIFT;
    /// The entry has no A/D bits and uses access tracking (bit 52, software).
    const TRACKED: u64 = 1 << 52;
    /// Where access tracking keeps the hardware permissions of an old entry.
    const SAVED_SHIFT: u32 = 54;
    /// The permissions access tracking takes away.
    const HW_PERMISSIONS: u64 = Self::HW_READ | Self::HW_WRITE;

    /// A young, present SPTE that maps `gfn`'s page for `access`.
    #[must_use]
    pub const fn young(gfn: Gfn, access: Access, accessed: AccessedBits) -> Self {
        let pfn = (gfn.0 << Self::PFN_SHIFT) & Self::PFN;
        let base = Self::PRESENT | Self::HW_READ | pfn;
        let form = match accessed {
            AccessedBits::AD => Self::ACCESSED,
            AccessedBits::AccessTracking => Self::TRACKED,
        };
        let write = match access {
            Access::Read => 0,
            Access::Write => Self::HW_WRITE | Self::DIRTY,
        };
        Self(base | form | write)
    }

    /// The value with this bit pattern.
    #[must_use]
    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw value.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The entry maps a page.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// The entry maps a page and the page was used since it was last aged.
    #[must_use]
    pub const fn is_young(self) -> bool {
        let young = if self.is_tracked() {
            Self::PRESENT | Self::HW_READ
        } else {
            Self::PRESENT | Self::ACCESSED
        };
        self.0 & young == young
    }

    /// The entry has no A/D bits.
    #[must_use]
    pub const fn is_tracked(self) -> bool {
        self.0 & Self::TRACKED != 0
    }

    /// A write goes through, now or after access tracking gives it back.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & (Self::HW_WRITE | Self::HW_WRITE << Self::SAVED_SHIFT) != 0
    }

    /// The page was written.
    #[must_use]
    pub const fn is_dirty(self) -> bool {
        self.0 & Self::DIRTY != 0
    }

    /// The same entry after a use of the page.
    #[must_use]
    pub const fn touched(self) -> Self {
        if !self.is_tracked() {
            return Self(self.0 | Self::ACCESSED);
        }
        let saved = (self.0 >> Self::SAVED_SHIFT) & Self::HW_PERMISSIONS;
        Self(self.0 & !(Self::HW_PERMISSIONS << Self::SAVED_SHIFT) | saved)
    }

    /// The same entry, old.
    #[must_use]
    pub const fn aged(self) -> Self {
        if !self.is_tracked() {
            return Self(self.0 & !Self::ACCESSED);
        }
        let saved = (self.0 & Self::HW_PERMISSIONS) << Self::SAVED_SHIFT;
        Self(self.0 & !Self::HW_PERMISSIONS | saved)
    }

    /// The same entry after a write fault.
    #[must_use]
    pub const fn written(self) -> Self {
        Self(self.touched().0 | Self::HW_WRITE | Self::DIRTY)
    }

    /// The same entry, read-only.
    #[must_use]
    pub const fn write_protected(self) -> Self {
        Self(self.0 & !(Self::HW_WRITE | Self::HW_WRITE << Self::SAVED_SHIFT))
    }
}

/// One SPTE in its shadow page.
#[derive(Debug)]
#[repr(transparent)]
pub struct Spte(AtomicU64);

impl Spte {
    /// A zapped SPTE.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU64::new(SpteWord::ZAPPED.0))
    }

    /// The value now.
    #[inline]
    pub fn load(&self) -> SpteWord {
        SpteWord(self.0.load(Relaxed))
    }

    /// Installs a value. Only under mmu_lock held for write, on a zapped SPTE.
    #[inline]
    pub fn install(&self, word: SpteWord) {
        self.0.store(word.0, Relaxed);
    }

    /// Zaps the SPTE and returns what it was. Only under mmu_lock held for write.
    #[inline]
    pub fn zap(&self) -> SpteWord {
        SpteWord(self.0.swap(SpteWord::ZAPPED.0, Relaxed))
    }

    /// Makes a young SPTE old and returns whether it was young.
    ///
    /// With A/D bits one atomic AND: it cannot fail, and a zapped SPTE stays 0.
    /// With access tracking one compare-exchange whose failure is ignored: whoever
    /// changed the SPTE in between used it or zapped it, and either way the page
    /// counts as young this time.
    #[inline]
    pub fn clear_young(&self) -> bool {
        let old = self.load();
        if !old.is_young() {
            return false;
        }
        if old.is_tracked() {
            let _changed_meanwhile = self
                .0
                .compare_exchange(old.0, old.aged().0, Relaxed, Relaxed);
        } else {
            self.0.fetch_and(!SpteWord::ACCESSED, Relaxed);
        }
        true
    }

    /// [`clear_young`](Self::clear_young) without a lock: one compare-exchange, and
    /// only if `still_mapped` says yes after the value was read. A page that was
    /// changed meanwhile counts as young.
    #[inline]
    pub fn clear_young_rechecked(&self, still_mapped: impl FnOnce() -> bool) -> bool {
        let old = self.load();
        if !old.is_young() {
            return false;
        }
        if still_mapped() {
            let _changed_meanwhile = self
                .0
                .compare_exchange(old.0, old.aged().0, Relaxed, Relaxed);
        }
        true
    }

    /// Applies `change` to a present SPTE and returns what it was; `None` if it is
    /// zapped. Needs no lock: it never revives an SPTE.
    #[inline]
    pub fn update_present(&self, change: impl Fn(SpteWord) -> SpteWord) -> Option<SpteWord> {
        let mut old = self.load();
        loop {
            if !old.is_present() {
                return None;
            }
            let new = change(old);
            if new == old {
                return Some(old);
            }
            match self.0.compare_exchange_weak(old.0, new.0, Relaxed, Relaxed) {
                Ok(_) => return Some(old),
                Err(now) => old = SpteWord(now),
            }
        }
    }
}

impl Default for Spte {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Spte>() == 8 && align_of::<Spte>() == 8);

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    const BOTH: [AccessedBits; 2] = [AccessedBits::AD, AccessedBits::AccessTracking];

    #[test]
    fn aging_keeps_everything_but_young() {
        for accessed in BOTH {
            for access in [Access::Read, Access::Write] {
                let young = SpteWord::young(Gfn(0x1234), access, accessed);
                let old = young.aged();
                assert!(young.is_young() && !old.is_young(), "{accessed:?}");
                assert!(old.is_present(), "{accessed:?}");
                assert_eq!(old.is_writable(), young.is_writable(), "{accessed:?}");
                assert_eq!(old.is_dirty(), young.is_dirty(), "{accessed:?}");
                assert_eq!(old.touched(), young, "{accessed:?}");
                assert_eq!(old.aged(), old, "{accessed:?}");
            }
        }
    }

    #[test]
    fn i_zap_clearing_young_leaves_a_zapped_spte_alone() {
        let spte = Spte::new();
        assert!(!spte.clear_young());
        assert_eq!(spte.update_present(SpteWord::touched), None);
        assert_eq!(spte.load(), SpteWord::ZAPPED);
    }

    #[test]
    fn clear_young_reports_young_once() {
        for accessed in BOTH {
            let spte = Spte::new();
            spte.install(SpteWord::young(Gfn(3), Access::Write, accessed));
            assert!(spte.clear_young(), "{accessed:?}");
            assert!(!spte.clear_young(), "{accessed:?}");
            assert!(spte.load().is_writable(), "{accessed:?}");
        }
    }

    #[test]
    fn an_access_tracked_old_spte_is_hidden_from_the_hardware() {
        let word = SpteWord::young(Gfn(3), Access::Write, AccessedBits::AccessTracking).aged();
        assert_eq!(word.raw() & SpteWord::HW_PERMISSIONS, 0);
    }

    #[test]
    fn write_protection_also_takes_the_saved_permission() {
        for accessed in BOTH {
            let word = SpteWord::young(Gfn(3), Access::Write, accessed);
            assert!(!word.write_protected().is_writable());
            assert!(!word.aged().write_protected().touched().is_writable());
        }
    }
}
