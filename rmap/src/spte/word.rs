//! The bits of an SPTE, and what they say of the page it maps.

use crate::{config::AccessedBits, gfn::Gfn, mmu::Access};

/// The value of one SPTE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpteWord(pub(super) u64);

impl SpteWord {
    /// A zapped SPTE.
    pub const ZAPPED: Self = Self(0);

    /// The hardware may read through the entry (bit 0, P).
    const HW_READ: u64 = 1 << 0;
    /// The hardware may write through the entry (bit 1, W).
    const HW_WRITE: u64 = 1 << 1;
    /// The page was used since this bit was last cleared (bit 5, A).
    pub(super) const ACCESSED: u64 = 1 << 5;
    /// The page was written (bit 6, D).
    const DIRTY: u64 = 1 << 6;
    /// The entry maps something, whatever the hardware sees (bit 11, software).
    const PRESENT: u64 = 1 << 11;
    /// First bit of the page frame number.
    const PFN_SHIFT: u32 = 12;
    /// The page frame number, bits 12 to 51.
    const PFN: u64 = ((1 << 40) - 1) << Self::PFN_SHIFT;
    /// The entry has no A/D bits and uses access tracking (bit 52, software).
    pub(super) const TRACKED: u64 = 1 << 52;
    /// Where access tracking keeps the hardware permissions of an old entry.
    const SAVED_SHIFT: u32 = 54;
    /// The permissions access tracking takes away.
    pub(super) const HW_PERMISSIONS: u64 = Self::HW_READ | Self::HW_WRITE;

    /// Somebody is about to zap this entry, or has cut its table off (bit 10).
    pub const FROZEN: Self = Self(1 << 10);
    /// Frozen, because the page-table page beneath is in a stranger's hands.
    pub const AWAY: Self = Self(1 << 10 | 1 << 8);
    /// The rest of the word is the address of the next table (bit 9).
    pub(super) const TABLE: u64 = 1 << 9;

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

    /// Entry `index` of a table whose entries map `1 << shift` pages each, when this
    /// entry is split over such a table.
    #[must_use]
    pub const fn split(self, index: u64, shift: u32) -> Self {
        Self(self.0 + (index << (Self::PFN_SHIFT + shift)))
    }

    /// The gfn of the page it maps (this model's guests have gfn and pfn equal).
    #[must_use]
    pub const fn gfn(self) -> Gfn {
        Gfn((self.0 & Self::PFN) >> Self::PFN_SHIFT)
    }

    /// The same entry, read-only.
    #[must_use]
    pub const fn write_protected(self) -> Self {
        Self(self.0 & !(Self::HW_WRITE | Self::HW_WRITE << Self::SAVED_SHIFT))
    }
}
