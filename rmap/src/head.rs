//! The head word of one rmap.
//!
//! Eight bytes per gfn and level. The word is one of
//!
//! | word | meaning |
//! |---|---|
//! | 0 | no SPTE maps the page |
//! | pointer, bit 0 clear | exactly one SPTE maps it, and this is its address |
//! | pointer, bit 0 set (MANY) | several do; the address is the first descriptor's |
//!
//! and bit 1 (LOCKED) may be set on any non-zero word: it is the per-rmap spin bit
//! of the bit-lock schemes. **I-bit**: LOCKED never leaks into a pointer, is never
//! left set, and is released with release ordering. [`HeadWord`] hands out
//! pointers only with both bits taken off, which is the first third of that.
//!
//! Provenance is kept strictly: the word is a real pointer all the time and its
//! low bits are changed with `map_addr`.

use std::{ptr::NonNull, sync::atomic::compiler_fence};

use crate::{
    desc::PteListDesc,
    spte::Spte,
    sync::{
        AtomicPtr, Canary,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        spin_loop,
    },
};

/// The word points to a descriptor (bit 0).
const MANY: usize = 1 << 0;
/// Somebody is inside the rmap (bit 1).
const LOCKED: usize = 1 << 1;
/// The bits that are not part of a pointer.
const TAGS: usize = MANY | LOCKED;

const _: () = assert!(
    align_of::<Spte>() > TAGS,
    "an SPTE's address must leave the tag bits free"
);
const _: () = assert!(align_of::<PteListDesc>() > TAGS, "so must a descriptor's");
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(
    size_of::<RmapHead>() == 8,
    "the head is one word, as in the kernel"
);

/// The value of a head word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadWord(*mut ());

impl HeadWord {
    /// The word of an rmap without SPTEs.
    pub const EMPTY: Self = Self(std::ptr::null_mut());

    /// The word of an rmap with exactly one SPTE.
    #[must_use]
    pub fn one(spte: NonNull<Spte>) -> Self {
        Self(spte.as_ptr().cast())
    }

    /// The word of an rmap whose first descriptor is `desc`.
    #[must_use]
    pub fn many(desc: NonNull<PteListDesc>) -> Self {
        Self(desc.as_ptr().cast::<()>().map_addr(|addr| addr | MANY))
    }

    /// No SPTE maps the page.
    #[must_use]
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0.is_null()
    }

    /// The word points to a descriptor.
    #[must_use]
    #[inline]
    pub fn is_many(self) -> bool {
        self.0.addr() & MANY != 0
    }

    /// Where the word points, or null; to prefetch, never to follow.
    #[must_use]
    #[inline]
    pub(crate) fn target(self) -> *const () {
        self.0.map_addr(|addr| addr & !TAGS)
    }

    /// Somebody is inside the rmap.
    #[must_use]
    #[inline]
    pub fn is_locked(self) -> bool {
        self.0.addr() & LOCKED != 0
    }

    /// The same word with LOCKED set.
    #[must_use]
    #[inline]
    pub fn locked(self) -> Self {
        Self(self.0.map_addr(|addr| addr | LOCKED))
    }

    /// The same word with LOCKED clear.
    #[must_use]
    #[inline]
    pub fn unlocked(self) -> Self {
        Self(self.0.map_addr(|addr| addr & !LOCKED))
    }

    /// Each of these words is that of one SPTE, and nobody has locked it. Without a
    /// branch between the words; false also of addresses in the upper half.
    #[must_use]
    #[inline(always)]
    pub(crate) fn all_lone<const N: usize>(words: &[Self; N]) -> bool {
        let (tags, borrow) = words.iter().fold((0, 0), |(tags, borrow), word| {
            let word = word.0.addr();
            (tags | word, borrow | word.wrapping_sub(1))
        });
        tags & TAGS == 0 && borrow.cast_signed() >= 0
    }

    /// Where a word without tags points.
    #[must_use]
    #[inline(always)]
    pub(crate) fn untagged(self) -> *const () {
        self.0
    }

    /// The same word with MANY clear. Only the negative control that drops MANY
    /// has a use for it.
    #[doc(hidden)]
    #[must_use]
    pub fn without_many(self) -> Self {
        Self(self.0.map_addr(|addr| addr & !MANY))
    }

    /// What the word says about the chain.
    #[must_use]
    #[inline]
    pub fn chain(self) -> Chain {
        let many = self.is_many();
        match NonNull::new(self.0.map_addr(|addr| addr & !TAGS)) {
            None => Chain::Empty,
            Some(desc) if many => Chain::Many(desc.cast()),
            Some(spte) => Chain::One(spte.cast()),
        }
    }
}

/// What a head word says about its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// No SPTE.
    Empty,
    /// Exactly one SPTE.
    One(NonNull<Spte>),
    /// The first descriptor of a chain.
    Many(NonNull<PteListDesc>),
}

/// The head of one rmap.
#[derive(Debug)]
pub struct RmapHead {
    word: AtomicPtr<()>,
    /// Read by walkers and written by mutators of schemes that keep them apart.
    race: Canary,
}

impl RmapHead {
    /// The head of an rmap without SPTEs.
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicPtr::new(std::ptr::null_mut()),
            race: Canary::new(),
        }
    }

    /// The word now. Enough for those whom mmu_lock orders against all mutators.
    #[inline]
    pub fn load(&self) -> HeadWord {
        HeadWord(self.word.load(Relaxed))
    }

    /// The word now, and with it everything its publisher had written to the chain.
    #[inline]
    pub fn load_acquire(&self) -> HeadWord {
        HeadWord(self.word.load(Acquire))
    }

    /// Publishes a word without LOCKED, and with it everything written to the
    /// chain so far. Only under mmu_lock held for write, and with the bit held in
    /// schemes that have one.
    #[inline]
    pub fn publish(&self, word: HeadWord) {
        self.word.store(word.unlocked().0, Release);
    }

    /// Sets LOCKED unless the rmap is empty, and returns the word without it.
    ///
    /// Acquire on success: the walk that follows sees the chain as the last holder
    /// left it. An empty rmap is never locked: there is nothing to walk, and
    /// whoever fills it holds mmu_lock. While the bit is taken the word is only
    /// read, with a pause before each read.
    #[inline]
    pub fn lock(&self) -> HeadWord {
        self.lock_unless(HeadWord::is_empty)
    }

    /// [`lock`](Self::lock) that leaves an rmap of one SPTE unlocked as well. Where
    /// agers lock no other, a mutator of such an rmap meets none inside and has
    /// nobody but mmu_lock to wait for.
    #[inline]
    pub fn lock_chain(&self) -> HeadWord {
        self.lock_unless(|word| !word.is_many())
    }

    #[inline(always)]
    fn lock_unless(&self, open: impl Fn(HeadWord) -> bool) -> HeadWord {
        let mut seen = self.load();
        loop {
            if open(seen) {
                return seen;
            }
            if seen.is_locked() {
                spin_loop();
                seen = self.load();
                continue;
            }
            let locked = seen.locked().0;
            match self
                .word
                .compare_exchange_weak(seen.0, locked, Acquire, Relaxed)
            {
                Ok(_) => return seen,
                Err(now) => seen = HeadWord(now),
            }
        }
    }

    /// Clears LOCKED after a walk that changed nothing. `word` is what
    /// [`lock`](Self::lock) returned.
    ///
    /// Release: the walk's reads are over before the next holder may change or
    /// free what they read.
    #[inline]
    pub fn unlock(&self, word: HeadWord) {
        if !word.is_empty() {
            self.publish(word);
        }
    }

    /// [`lock`](Self::lock) as the July 2024 patch had it: a full compare-exchange,
    /// and a waiter that reads first and pauses afterwards.
    #[inline]
    pub fn lock_seed(&self) -> HeadWord {
        let mut seen = self.load();
        loop {
            while seen.is_locked() {
                seen = self.load();
                spin_loop();
            }
            if seen.is_empty() {
                return seen;
            }
            let locked = seen.locked().0;
            match self.word.compare_exchange(seen.0, locked, SeqCst, Relaxed) {
                Ok(_) => return seen,
                Err(now) => seen = HeadWord(now),
            }
        }
    }

    /// Publishes a word without LOCKED by a plain store, as the July 2024 patch
    /// did: ordered on x86-64, by the machine, and nowhere else.
    #[inline]
    pub fn store_plain(&self, word: HeadWord) {
        compiler_fence(Release);
        self.word.store(word.unlocked().0, Relaxed);
    }

    /// Declares a read of the chain that no mutator may run beside.
    #[inline(always)]
    pub fn assert_no_mutator(&self) {
        self.race.read();
    }

    /// Declares a change of the chain that no walker may run beside.
    #[inline(always)]
    pub fn assert_no_walker(&self) {
        self.race.write();
    }
}

impl Default for RmapHead {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn i_bit_locked_never_leaks_into_a_pointer() {
        let spte = Spte::new();
        let desc = PteListDesc::new();
        let one = HeadWord::one(NonNull::from(&spte));
        let many = HeadWord::many(NonNull::from(&desc));
        for word in [one, many] {
            assert_eq!(word.locked().chain(), word.chain());
            assert_eq!(word.locked().unlocked(), word);
            assert_eq!(word.locked().is_many(), word.is_many());
        }
        assert_eq!(one.chain(), Chain::One(NonNull::from(&spte)));
        assert_eq!(many.chain(), Chain::Many(NonNull::from(&desc)));
    }

    #[test]
    fn i_bit_an_empty_rmap_is_never_locked() {
        let head = RmapHead::new();
        assert!(head.lock().is_empty());
        assert!(!head.load().is_locked());
        head.unlock(HeadWord::EMPTY);
        assert_eq!(head.load(), HeadWord::EMPTY);
    }

    #[test]
    fn i_bit_locking_returns_the_word_and_unlocking_restores_it() {
        let spte = Spte::new();
        let word = HeadWord::one(NonNull::from(&spte));
        let head = RmapHead::new();
        head.publish(word);
        assert_eq!(head.lock(), word);
        assert!(head.load().is_locked());
        head.unlock(word);
        assert_eq!(head.load(), word);
    }
}
