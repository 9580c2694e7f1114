//! One shadow page table entry.
//!
//! An SPTE is one word that hardware, agers and mutators change at the same time,
//! so every change is one atomic operation, and each keeps **I-zap**: clearing
//! Accessed never revives or changes a zapped SPTE. Zapping stores 0, and every
//! other change either leaves 0 alone by its nature (clearing a bit) or is a
//! compare-exchange from a present value.
//!
//! Ordering is relaxed wherever an SPTE maps a page: nothing is published through
//! it. Who may look at one at all is decided by the rmap, or the tables, that lead to
//! it. Only the TDP MMU's entries that lead to another table publish something, and
//! have functions of their own: [`Spte::load_entry`], [`Spte::replace`],
//! [`Spte::swap_entry`], [`Spte::unfreeze`].
//!
//! The TDP MMU knows four more values of the word, none of which maps a page and so
//! none of which any other function here ever changes: the address of the next table
//! (TABLE), *frozen*, and *away*.
//!
//! Two forms exist, told apart by a bit of the SPTE itself, as in KVM. With A/D
//! bits, young is the Accessed bit. Without, an old page's SPTE is made
//! non-present for the hardware and its permissions are kept in high bits; young
//! means "not in that state".

mod word;

use std::ptr::NonNull;

pub use self::word::SpteWord;

use crate::sync::{
    AtomicWord,
    Ordering::{Acquire, Relaxed, Release},
};

/// A value as the word holds it.
#[inline(always)]
fn pack(word: SpteWord) -> *mut () {
    std::ptr::without_provenance_mut(word.0 as usize)
}

/// The value of the word.
#[inline(always)]
fn unpack(word: *mut ()) -> SpteWord {
    SpteWord(word.addr() as u64)
}

/// One entry of a TDP page table, as read: with the address it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(*mut ());

/// What an entry of a TDP page table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Nothing.
    Empty,
    /// About to be emptied by whoever froze it, or part of a table cut off.
    Frozen,
    /// The page-table page beneath is in a stranger's hands.
    Away,
    /// A mapping.
    Leaf(SpteWord),
    /// The way to the next table.
    Table(NonNull<()>),
}

impl Entry {
    /// No mapping.
    pub const EMPTY: Self = Self(std::ptr::null_mut());

    /// An entry with this value, which is no table's.
    #[must_use]
    pub fn new(word: SpteWord) -> Self {
        Self(pack(word))
    }

    /// The entry that leads to a table, whose address has its low 12 bits clear.
    #[must_use]
    pub fn table(table: NonNull<()>) -> Self {
        let tag = |addr| addr | SpteWord::TABLE as usize;
        Self(table.as_ptr().map_addr(tag))
    }

    /// What it is.
    #[must_use]
    #[inline]
    pub fn kind(self) -> EntryKind {
        let word = unpack(self.0);
        if word.is_present() {
            return EntryKind::Leaf(word);
        }
        if word.0 & SpteWord::TABLE != 0 {
            let address = self.0.map_addr(|addr| addr & !(SpteWord::TABLE as usize));
            return NonNull::new(address).map_or(EntryKind::Empty, EntryKind::Table);
        }
        match word {
            SpteWord::FROZEN => EntryKind::Frozen,
            SpteWord::AWAY => EntryKind::Away,
            _ => EntryKind::Empty,
        }
    }
}

/// One SPTE in its shadow page.
#[derive(Debug)]
#[repr(transparent)]
pub struct Spte(AtomicWord);

impl Spte {
    /// A zapped SPTE.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicWord::new(pack(SpteWord::ZAPPED)))
    }

    /// The value now.
    #[inline]
    pub fn load(&self) -> SpteWord {
        unpack(self.0.load(Relaxed))
    }

    /// Installs a value. Only under mmu_lock held for write, on a zapped SPTE.
    #[inline]
    pub fn install(&self, word: SpteWord) {
        self.0.store(pack(word), Relaxed);
    }

    /// Zaps the SPTE and returns what it was. Only under mmu_lock held for write.
    #[inline]
    pub fn zap(&self) -> SpteWord {
        unpack(self.0.swap(pack(SpteWord::ZAPPED), Relaxed))
    }

    /// Whether none of these SPTEs was young when it was read. False also where this
    /// takes a look at each of them: where one uses access tracking.
    ///
    /// The words are read without a branch between them, so that none waits for another.
    #[inline(always)]
    pub fn none_young<const N: usize>(sptes: &[&Self; N]) -> bool {
        let any = sptes.iter().fold(0, |any, spte| any | spte.load().0);
        any & (SpteWord::ACCESSED | SpteWord::TRACKED) == 0
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
            let _changed_meanwhile =
                self.0
                    .compare_exchange(pack(old), pack(old.aged()), Relaxed, Relaxed);
        } else {
            self.0.and(!(SpteWord::ACCESSED as usize), Relaxed);
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
            let _changed_meanwhile =
                self.0
                    .compare_exchange(pack(old), pack(old.aged()), Relaxed, Relaxed);
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
            match self
                .0
                .compare_exchange_weak(pack(old), pack(new), Relaxed, Relaxed)
            {
                Ok(_) => return Some(old),
                Err(now) => old = unpack(now),
            }
        }
    }

    /// What a page-table walk finds here, and with it the contents of the table it
    /// leads to.
    #[inline]
    pub fn load_entry(&self) -> Entry {
        Entry(self.0.load(Acquire))
    }

    /// Puts `new` in the place of `old`, and publishes the table it leads to. False
    /// if the entry is not `old` any more.
    ///
    /// No acquire: who cuts a table off goes on to read it, but has [loaded](Self::load_entry)
    /// the entry that leads to it before.
    #[inline]
    pub fn replace(&self, old: Entry, new: Entry) -> bool {
        self.0
            .compare_exchange(old.0, new.0, Release, Relaxed)
            .is_ok()
    }

    /// Puts `new`, which leads to no table, here and returns what there was, and with it
    /// the contents of the table that it led to.
    #[inline]
    pub fn swap_entry(&self, new: Entry) -> Entry {
        Entry(self.0.swap(new.0, Acquire))
    }

    /// Empties an entry the caller has frozen itself.
    ///
    /// A swap, although nobody else replaces the value: agers clear bits of it, which
    /// changes nothing, and of a swap and those there is one order in every model.
    ///
    /// Release: who finds the entry empty comes after the zap, and in the kernel after
    /// its TLB flush. (There is no TLB here, so no checker can see it missing.)
    #[inline]
    pub fn unfreeze(&self) {
        self.0.swap(pack(SpteWord::ZAPPED), Release);
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
    use crate::{config::AccessedBits, gfn::Gfn, mmu::Access};

    const BOTH: [AccessedBits; 2] = [AccessedBits::AD, AccessedBits::AccessTracking];

    #[test]
    fn i_young_aging_keeps_everything_but_young() {
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
    fn i_young_several_are_old_only_if_each_is() {
        for accessed in BOTH {
            let sptes = [1, 2, 3].map(Gfn).map(|gfn| {
                let spte = Spte::new();
                spte.install(SpteWord::young(gfn, Access::Write, accessed));
                spte
            });
            let [a, b, c] = &sptes;
            for spte in &sptes {
                assert!(!Spte::none_young(&[a, b, c]), "{accessed:?}");
                spte.clear_young();
            }
            // Access tracking is left to a look at each.
            let told = accessed == AccessedBits::AD;
            assert_eq!(Spte::none_young(&[a, b, c]), told);
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
    fn i_young_clearing_reports_young_once() {
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
