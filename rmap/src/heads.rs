//! Heads of neighbouring pages, a cache line of them at a time.
//!
//! For walks of ranges ([`single_batched`](crate::schemes::single_batched)): which of
//! many heads lead anywhere, and which eight lead to one SPTE each, told without a
//! branch that depends on a single head, for no predictor foresees where pages are
//! mapped.

use std::mem::MaybeUninit;

use crate::{
    head::{HeadWord, RmapHead},
    spte::Spte,
};

/// Heads of one cache line.
#[cfg(not(any(loom, shuttle)))]
pub(crate) const BATCH: usize = 8;
/// Two in the models, so that their few pages make a batch.
#[cfg(any(loom, shuttle))]
pub(crate) const BATCH: usize = 2;

/// One cache line of heads.
pub(crate) type Batch = [RmapHead; BATCH];

/// Whether a head of the batch leads somewhere.
///
/// As good as a relaxed load of each head: what it says decides only whether the
/// heads are read again, with acquire, or passed over.
///
/// One wide load takes the place of eight. The language has no vector load of atomics
/// and its memory model says nothing of assembly, so the argument is the machine's:
/// x86-64 performs a vector load of aligned words as loads of at least 8 bytes, each of
/// them single (vendors promise 16 where there is AVX), and orders them like any load.
/// The checkers, which know the language alone, are given the eight loads.
#[inline(always)]
pub(crate) fn any_mapped(batch: &Batch) -> bool {
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
    {
        let zero_bytes: u32;
        // SAFETY: it reads the 64 bytes of eight heads, which are borrowed, and writes
        // nothing but its registers. SSE2 is part of x86-64.
        unsafe {
            std::arch::asm!(
                "movdqu {a}, [{heads}]",
                "movdqu {b}, [{heads} + 16]",
                "movdqu {c}, [{heads} + 32]",
                "movdqu {d}, [{heads} + 48]",
                "por {a}, {b}",
                "por {c}, {d}",
                "por {a}, {c}",
                "pxor {b}, {b}",
                "pcmpeqb {a}, {b}",
                "pmovmskb {mask:e}, {a}",
                heads = in(reg) batch.as_ptr(),
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                mask = lateout(reg) zero_bytes,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        zero_bytes != 0xffff
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, miri)))))]
    batch.iter().any(|head| !head.load().is_empty())
}

/// The SPTEs of pages that have one each; `None` if some page has not, or its rmap is
/// locked.
///
/// # Safety
/// **I-life**: the caller is on the read side as long as it uses them.
#[inline(always)]
pub(crate) unsafe fn lone_sptes<'a>(heads: [&RmapHead; BATCH]) -> Option<[&'a Spte; BATCH]> {
    let words = heads.map(RmapHead::load_acquire);
    if !HeadWord::all_lone(&words) {
        return None;
    }
    // SAFETY: a lone word without tags is the address of an SPTE, which the caller keeps.
    Some(words.map(|word| unsafe { &*word.untagged().cast::<Spte>() }))
}

/// Batches one list covers: as many as keep their heads in a first-level cache until
/// they are visited.
pub(crate) const LISTED: usize = 256;

/// Batches told apart by the bits of one word.
const GROUP: usize = 64;

/// The heads of some batches that led somewhere when they were listed.
pub(crate) struct Mapped<'a> {
    heads: &'a [RmapHead],
    positions: [MaybeUninit<u16>; LISTED * BATCH],
    len: usize,
}

impl<'a> Mapped<'a> {
    /// None.
    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self {
            heads: &[],
            positions: [const { MaybeUninit::uninit() }; LISTED * BATCH],
            len: 0,
        }
    }

    /// Lists anew, from the first [`LISTED`] of these batches.
    #[inline(always)]
    pub(crate) fn list(&mut self, batches: &'a [Batch]) {
        let batches = &batches[..batches.len().min(LISTED)];
        self.heads = batches.as_flattened();
        let (mut len, mut first) = (0, 0);
        for group in batches.chunks(GROUP) {
            let mut with_any = group.iter().rev().fold(0, |mask: u64, batch| {
                mask << 1 | u64::from(any_mapped(batch))
            });
            while with_any != 0 {
                let number = with_any.trailing_zeros() as usize;
                with_any &= with_any - 1;
                len = self.note(first + number * BATCH, len);
            }
            first += group.len() * BATCH;
        }
        self.len = len;
    }

    /// Adds the mapped heads of the batch that begins at `first` to the `len` listed.
    /// Every position is written, and its place counted only if it is kept: a store and
    /// an addition whatever the head is.
    #[inline(always)]
    fn note(&mut self, first: usize, mut len: usize) -> usize {
        for (position, head) in self.heads.iter().enumerate().skip(first).take(BATCH) {
            if let Some(place) = self.positions.get_mut(len) {
                place.write(position as u16);
                len += usize::from(!head.load().is_empty());
            }
        }
        len
    }

    /// Whether it lists every head it covers.
    #[inline(always)]
    pub(crate) fn is_all(&self) -> bool {
        self.len == self.heads.len()
    }

    /// The heads by eights, and the rest one by one.
    #[inline(always)]
    pub(crate) fn batches(
        &self,
    ) -> (
        impl Iterator<Item = [&'a RmapHead; BATCH]>,
        impl Iterator<Item = &'a RmapHead>,
    ) {
        // SAFETY: so many were written when they were listed; MaybeUninit<u16> is laid
        // out as u16.
        let positions =
            unsafe { std::slice::from_raw_parts(self.positions.as_ptr().cast(), self.len) };
        let (eights, rest) = positions.as_chunks::<BATCH>();
        let heads = self.heads;
        let head = move |position: u16| &heads[usize::from(position)];
        (
            eights.iter().map(move |eight| eight.map(head)),
            rest.iter().map(move |&position| head(position)),
        )
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::ptr::NonNull;

    use super::*;
    use crate::desc::PteListDesc;

    fn batch() -> Batch {
        std::array::from_fn(|_| RmapHead::new())
    }

    #[test]
    fn one_mapped_head_is_seen_wherever_it_is() {
        assert!(!any_mapped(&batch()));
        let spte = Spte::new();
        for place in 0..BATCH {
            let heads = batch();
            heads[place].publish(HeadWord::one(NonNull::from(&spte)));
            assert!(any_mapped(&heads), "{place}");
            heads[place].publish(HeadWord::EMPTY);
            assert!(!any_mapped(&heads), "{place}");
        }
    }

    #[test]
    fn a_word_is_seen_by_any_of_its_bytes() {
        for byte in 0..8 {
            let heads = batch();
            let address = std::ptr::without_provenance_mut(0x80 << (8 * byte));
            heads[5].publish(HeadWord::one(NonNull::new(address).unwrap()));
            assert!(any_mapped(&heads), "{byte}");
        }
    }

    #[test]
    fn only_lone_and_unlocked_rmaps_are_taken_together() {
        let sptes: [Spte; BATCH] = std::array::from_fn(|_| Spte::new());
        let desc = PteListDesc::new();
        let heads = batch();
        for (head, spte) in heads.iter().zip(&sptes) {
            head.publish(HeadWord::one(NonNull::from(spte)));
        }
        // SAFETY: I-life: the SPTEs are this test's.
        let lone = || unsafe { lone_sptes(heads.each_ref()) };
        let found = lone().expect("all are lone");
        assert!(found.iter().zip(&sptes).all(|(a, b)| std::ptr::eq(*a, b)));
        for (place, head) in heads.iter().enumerate() {
            let before = head.load();
            head.publish(HeadWord::EMPTY);
            assert!(lone().is_none(), "{place}: empty");
            head.publish(HeadWord::many(NonNull::from(&desc)));
            assert!(lone().is_none(), "{place}: a chain");
            head.publish(before);
            let held = head.lock();
            assert!(lone().is_none(), "{place}: locked");
            head.unlock(held);
        }
        assert!(lone().is_some());
    }

    #[test]
    fn every_mapped_head_is_listed_once_and_no_other() {
        let spte = Spte::new();
        let batches: Vec<Batch> = (0..LISTED + 3).map(|_| batch()).collect();
        let mapped = |number: usize| number % 97 < 3 || number % 13 == 5;
        for (number, head) in batches.as_flattened().iter().enumerate() {
            if mapped(number) {
                head.publish(HeadWord::one(NonNull::from(&spte)));
            }
        }
        let mut listed = Mapped::none();
        for _ in 0..2 {
            listed.list(&batches);
            let (eights, rest) = listed.batches();
            let found: Vec<_> = eights
                .flatten()
                .chain(rest)
                .map(std::ptr::from_ref)
                .collect();
            let covered = batches.as_flattened().iter().take(LISTED * BATCH);
            let wanted = covered.enumerate().filter(|&(number, _)| mapped(number));
            assert_eq!(
                found,
                wanted
                    .map(|(_, head)| std::ptr::from_ref(head))
                    .collect::<Vec<_>>()
            );
            assert!(!listed.is_all());
        }
        listed.list(&[]);
        assert!(listed.is_all() && listed.batches().1.next().is_none());
    }
}
