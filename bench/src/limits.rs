//! Physical limits: what the same loads cost with nothing around them.
//!
//! A limit answers the aging calls like a scheme, so that it is a row of the same
//! table, and reads what every callback reads: the memslots, one word per page of each
//! level, descriptors and SPTEs. What it has not is a lock, a read side, or anything
//! else that keeps others out. Mutators are not synchronised with agers, so a
//! limit belongs in workloads without mutators
//! ([`Subject::concurrent`](crate::subject::Subject) is false). Memory stays sound
//! whatever is done: nothing is freed before the limit is dropped.

use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};

use parking_lot::Mutex;
use rmap::desc::{DescCache, PteListDesc};
use rmap::head::{Chain, HeadWord};
use rmap::memslot::Memslots;
use rmap::pte_list;
use rmap::reclaim::Garbage;
use rmap::spte::{Spte, SpteWord};
use rmap::{
    Access, AccessedBits, Aging, FaultOutcome, Gfn, GfnRange, GivenPage, Level, Mapping, Mmu,
    MmuConfig, RmapError, Vcpu, Violation, Zapped,
};

/// The word points to a descriptor.
const MANY: usize = 1;
/// Set and cleared again by [`Cmpxchg`].
const HELD: usize = 2;

/// What a limit does around the loads of one word.
pub trait Around: Send + Sync + 'static {
    /// Reads the word, gives it to `walk`, and undoes what it did to it.
    fn visit(
        word: &AtomicPtr<()>,
        walk: impl FnOnce(*mut ()) -> ControlFlow<()>,
    ) -> ControlFlow<()>;

    /// Goes over the words of a range. `_mutators` is what mutators hold.
    #[inline(always)]
    fn walk_range(
        words: &[AtomicPtr<()>],
        _mutators: &Mutex<DescCache>,
        mut walk: impl FnMut(*mut ()) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        words
            .iter()
            .try_for_each(|word| Self::visit(word, &mut walk))
    }
}

/// Nothing: head, SPTE; head, descriptor, SPTEs.
#[derive(Debug)]
pub enum Loads {}

impl Around for Loads {
    #[inline(always)]
    fn visit(
        word: &AtomicPtr<()>,
        walk: impl FnOnce(*mut ()) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        walk(word.load(Relaxed))
    }
}

/// One compare-exchange that nobody contends for, and one store with release.
#[derive(Debug)]
pub enum Cmpxchg {}

impl Around for Cmpxchg {
    #[inline(always)]
    fn visit(
        word: &AtomicPtr<()>,
        walk: impl FnOnce(*mut ()) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let seen = word.load(Relaxed);
        if seen.is_null() {
            return ControlFlow::Continue(());
        }
        let held = seen.map_addr(|addr| addr | HELD);
        let _always = word.compare_exchange(seen, held, Acquire, Relaxed);
        let over = walk(seen);
        word.store(seen, Release);
        over
    }
}

/// All words of a range read as fast as the machine reads memory, none followed:
/// whatever is mapped, no page is found young.
#[derive(Debug)]
pub enum Stream {}

impl Around for Stream {
    #[inline(always)]
    fn visit(word: &AtomicPtr<()>, _: impl FnOnce(*mut ()) -> ControlFlow<()>) -> ControlFlow<()> {
        std::hint::black_box(word.load(Relaxed));
        ControlFlow::Continue(())
    }

    fn walk_range(
        words: &[AtomicPtr<()>],
        mutators: &Mutex<DescCache>,
        _: impl FnMut(*mut ()) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let _held = mutators.lock();
        // SAFETY: an AtomicPtr is as large and aligned as a usize, and nobody stores
        // to the words without the mutex held here.
        let words = unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) };
        std::hint::black_box(read_all(words));
        ControlFlow::Continue(())
    }
}

/// Reads all words with the widest loads there are.
fn read_all(words: &[usize]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        /// [`read_in_order`] in loads of 32 bytes.
        #[target_feature(enable = "avx2")]
        fn read_wide(words: &[usize]) -> usize {
            read_in_order(words)
        }
        // SAFETY: the CPU has AVX2.
        return unsafe { read_wide(words) };
    }
    read_in_order(words)
}

/// A loop that compilers turn into vector loads.
#[inline(always)]
fn read_in_order(words: &[usize]) -> usize {
    words.iter().fold(0, |all, word| all | word)
}

/// Arrays of words, one per level, with shadow pages behind them.
#[derive(Debug)]
pub struct LimitMmu<A> {
    base: Gfn,
    /// Only 4K pages are mapped: the words of the others stay null, and are read.
    words: [Box<[AtomicPtr<()>]>; Level::COUNT],
    slots: Memslots,
    accessed: AccessedBits,
    cache: Mutex<DescCache>,
    around: PhantomData<A>,
}

impl<A: Around> LimitMmu<A> {
    /// Builds the limit, as the registry of subjects wants it.
    ///
    /// # Errors
    /// More than one memslot, or no memory for it.
    pub fn boxed(config: &MmuConfig) -> Result<Box<dyn Mmu>, RmapError> {
        let [slot] = config.memslots.as_slice() else {
            return Err(RmapError::NotSupported("hold more than one memslot"));
        };
        let slots = Memslots::without_heads(config)?;
        let words = Level::ALL.map(|level| {
            let end = slot.base_gfn.0 + slot.npages;
            let indices = slot.base_gfn.0 >> level.shift()..=(end - 1) >> level.shift();
            indices.map(|_| AtomicPtr::default()).collect()
        });
        Ok(Box::new(Self {
            base: slot.base_gfn,
            words,
            slots,
            accessed: config.accessed,
            cache: Mutex::new(DescCache::new()),
            around: PhantomData,
        }))
    }

    /// The words of all pages of `level` that hold a gfn of `range`, which must lie in
    /// the slot.
    #[inline(always)]
    fn words(&self, range: GfnRange, level: Level) -> &[AtomicPtr<()>] {
        let base = self.base.0 >> level.shift();
        let first = (range.start.0 >> level.shift()) - base;
        let last = ((range.end.0 - 1) >> level.shift()) - base;
        self.words[level.index()]
            .get(first as usize..=last as usize)
            .unwrap_or(&[])
    }

    /// The word of a 4K page.
    fn word(&self, gfn: Gfn) -> Result<&AtomicPtr<()>, RmapError> {
        self.slots.slot(gfn)?;
        let words = self.words(GfnRange::single(gfn), Level::Size4K);
        words.first().ok_or(RmapError::NoMemslot(gfn))
    }

    #[inline(always)]
    fn walk(&self, range: GfnRange, mut visit: impl FnMut(&Spte) -> ControlFlow<()>) {
        for (_, range) in self.slots.overlapping(range) {
            for level in Level::ALL {
                let walked = A::walk_range(self.words(range, level), &self.cache, |word| {
                    // SAFETY: I-life: descriptors and shadow pages live as long as the limit.
                    unsafe { pte_list::walk(decode(word), &mut visit) }
                });
                if walked.is_break() {
                    return;
                }
            }
        }
    }
}

/// The word as rmap's functions read it.
#[inline(always)]
fn decode(word: *mut ()) -> HeadWord {
    let many = word.addr() & MANY != 0;
    match NonNull::new(word.map_addr(|addr| addr & !(MANY | HELD))) {
        None => HeadWord::EMPTY,
        Some(desc) if many => HeadWord::many(desc.cast::<PteListDesc>()),
        Some(spte) => HeadWord::one(spte.cast::<Spte>()),
    }
}

fn encode(word: HeadWord) -> *mut () {
    match word.chain() {
        Chain::Empty => std::ptr::null_mut(),
        Chain::One(spte) => spte.as_ptr().cast(),
        Chain::Many(desc) => desc.as_ptr().cast::<()>().map_addr(|addr| addr | MANY),
    }
}

impl<A: Around> Mmu for LimitMmu<A> {
    fn fault(
        &self,
        _: &mut Vcpu,
        mapping: Mapping,
        access: Access,
    ) -> Result<FaultOutcome, RmapError> {
        if mapping.level != Level::Size4K {
            return Err(RmapError::NotSupported("map huge pages"));
        }
        let spte = self.slots.slot(mapping.gfn)?.spte(mapping)?;
        let word = self.word(mapping.gfn)?;
        let mut cache = self.cache.lock();
        // SAFETY: I-life: shadow pages live as long as the limit.
        let entry = unsafe { spte.as_ref() };
        if entry.update_present(SpteWord::touched).is_some() {
            return Ok(FaultOutcome::Spurious);
        }
        cache.top_up();
        // SAFETY: I-life: descriptors live as long as the limit, the SPTE was
        // zapped, and the cache's mutex makes this the only mutator.
        let added = unsafe { pte_list::add_absent(decode(word.load(Relaxed)), spte, &mut cache) };
        let (new, chain_len) = added.map_err(|source| RmapError::PteList { mapping, source })?;
        entry.install(SpteWord::young(mapping.gfn, access, self.accessed));
        word.store(encode(new), Release);
        Ok(FaultOutcome::Installed { chain_len })
    }

    fn zap(&self, _: &mut Vcpu, _: Mapping) -> Result<Zapped, RmapError> {
        Err(RmapError::NotSupported("zap"))
    }

    fn unmap_range(&self, _: &mut Vcpu, _: GfnRange) -> Result<u64, RmapError> {
        Err(RmapError::NotSupported("unmap a range"))
    }

    fn age(&self, range: GfnRange) -> Aging {
        let mut young = false;
        self.walk(range, |spte| {
            young |= spte.clear_young();
            ControlFlow::Continue(())
        });
        Aging { young, fast: true }
    }

    fn test_age(&self, range: GfnRange) -> Aging {
        let mut young = false;
        self.walk(range, |spte| {
            if !spte.load().is_young() {
                return ControlFlow::Continue(());
            }
            young = true;
            ControlFlow::Break(())
        });
        Aging { young, fast: true }
    }

    fn touch(&self, mapping: Mapping) -> bool {
        let Ok(spte) = self.slots.slot(mapping.gfn).and_then(|s| s.spte(mapping)) else {
            return false;
        };
        // SAFETY: I-life: shadow pages live as long as the limit.
        let spte = unsafe { spte.as_ref() };
        spte.update_present(SpteWord::touched).is_some()
    }

    fn write_protect(&self, range: GfnRange) -> u64 {
        let mut writable = 0;
        self.walk(range, |spte| {
            let old = spte.update_present(SpteWord::write_protected);
            writable += u64::from(old.is_some_and(SpteWord::is_writable));
            ControlFlow::Continue(())
        });
        writable
    }

    fn zap_collapsible(&self, _: &mut Vcpu, _: GfnRange) -> Result<u64, RmapError> {
        Err(RmapError::NotSupported("zap what a huge page could map"))
    }

    fn give_page_away(&self, _: &mut Vcpu, _: Mapping) -> Result<GivenPage, RmapError> {
        Err(RmapError::NotSupported("free a shadow page"))
    }

    fn take_page_back(&self, _: GivenPage) -> usize {
        0
    }

    fn chain_len(&self, gfn: Gfn, level: Level) -> Result<u32, RmapError> {
        let word = self.word(gfn)?;
        if level != Level::Size4K {
            return Ok(0);
        }
        // SAFETY: I-life: descriptors live as long as the limit.
        Ok(unsafe { pte_list::count(decode(word.load(Acquire))) })
    }

    fn set_young_share(&self, range: GfnRange, young_permille: u16, seed: u64) {
        self.slots.set_young_share(range, young_permille, seed);
    }

    fn deferred_descs(&self) -> usize {
        0
    }

    fn verify(&self) -> Result<(), Violation> {
        Ok(())
    }
}

impl<A> Drop for LimitMmu<A> {
    fn drop(&mut self) {
        for word in &mut self.words[Level::Size4K.index()] {
            if let Chain::Many(first) = decode(*word.get_mut()).chain() {
                // SAFETY: I-life: nobody else has the limit any more.
                unsafe { Garbage::Chain(first).take_apart(drop) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// What the word holds while it is walked, and afterwards.
    fn seen<A: Around>() -> [usize; 2] {
        let word = AtomicPtr::new(std::ptr::without_provenance_mut(16));
        let mut within = 0;
        let _over = A::visit(&word, |seen| {
            assert_eq!(seen.addr(), 16);
            within = word.load(Relaxed).addr();
            ControlFlow::Continue(())
        });
        [within, word.load(Relaxed).addr()]
    }

    #[test]
    fn the_word_is_held_by_the_limit_of_a_lock_and_left_alone_by_that_of_loads() {
        assert_eq!(seen::<Cmpxchg>(), [16 | HELD, 16]);
        assert_eq!(seen::<Loads>(), [16, 16]);
    }

    #[test]
    fn a_stream_reads_every_word() {
        for words in [1, 7, 64] {
            let words: Vec<usize> = (0..words).map(|bit| 1 << bit).collect();
            let all = words.iter().sum::<usize>();
            assert_eq!(read_all(&words), all);
        }
    }

    static VISITS: AtomicUsize = AtomicUsize::new(0);

    #[derive(Debug)]
    enum Counted {}

    impl Around for Counted {
        fn visit(
            word: &AtomicPtr<()>,
            walk: impl FnOnce(*mut ()) -> ControlFlow<()>,
        ) -> ControlFlow<()> {
            VISITS.fetch_add(1, Relaxed);
            Loads::visit(word, walk)
        }
    }

    #[test]
    fn a_callback_reads_one_word_of_each_level_as_kvm_does() {
        let limit = LimitMmu::<Counted>::boxed(&MmuConfig::new(Gfn(0), 1024, 1)).unwrap();
        limit.age(GfnRange::single(Gfn(600)));
        assert_eq!(VISITS.swap(0, Relaxed), Level::COUNT);
        limit.age(GfnRange::pages(Gfn(500), 100));
        assert_eq!(VISITS.swap(0, Relaxed), 100 + 2 + 1);
    }
}
