//! What a Rust programmer would reach for instead of rmaps: a map from page to a
//! vector of SPTEs.
//!
//! A peer is an MMU whose SPTEs lie in the same shadow pages as a scheme's; only
//! the way from a gfn to them differs. There is one map per level, as there is one
//! head array per level, and a level without mappings is skipped, which a map can
//! tell at no cost and which favours the peers. Mutators hold mmu_lock for write,
//! as under every scheme, and whatever the map takes by itself; agers take only
//! what the map takes. Keys are hashed by foldhash, much faster for integers than
//! the standard library's default.
//!
//! Invariant: an entry of a map points into a shadow page of the same MMU, which
//! lives as long as the map (I-life).

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rmap::memslot::{Memslot, Memslots};
use rmap::mmu_lock::MmuLock;
use rmap::spte::SpteWord;
use rmap::{
    Access, AccessedBits, Aging, FaultOutcome, Gfn, GfnRange, GivenPage, Level, Mapping, Mmu,
    MmuConfig, PteListError, RmapError, Vcpu, Violation, Zapped,
};

mod index;

pub use index::{DashIndex, Index, PapayaIndex, RwLockIndex, SccIndex};

use index::SptePtr;

/// An MMU that finds its SPTEs through maps of kind `I`.
#[derive(Debug)]
pub struct PeerMmu<I> {
    /// Before `slots`: entries point into its pages.
    levels: [LevelIndex<I>; Level::COUNT],
    mmu_lock: MmuLock,
    slots: Memslots,
    accessed: AccessedBits,
    recycle_threshold: u32,
}

/// One level's map.
#[derive(Debug, Default)]
struct LevelIndex<I> {
    map: I,
    /// SPTEs in the map.
    entries: AtomicUsize,
}

impl<I: Index> LevelIndex<I> {
    fn add(&self, page: u64, spte: SptePtr) -> usize {
        self.entries.fetch_add(1, Relaxed);
        self.map.add(page, spte)
    }

    fn remove(&self, page: u64, spte: SptePtr) -> bool {
        let removed = self.map.remove(page, spte);
        self.entries.fetch_sub(usize::from(removed), Relaxed);
        removed
    }

    /// Zaps everything that maps the page.
    fn zap_all(&self, page: u64) -> usize {
        let sptes = self.map.take(page);
        for spte in &sptes {
            spte.get().zap();
        }
        self.entries.fetch_sub(sptes.len(), Relaxed);
        sptes.len()
    }

    fn is_empty(&self) -> bool {
        self.entries.load(Relaxed) == 0
    }
}

/// Indices of the pages of a level that hold a gfn of `range`, which is not empty.
fn pages(range: &GfnRange, level: Level) -> Range<u64> {
    let last = (range.end.0 - 1) >> level.shift();
    range.start.0 >> level.shift()..last + 1
}

impl<I: Index> PeerMmu<I> {
    /// Builds the MMU, as the registry of subjects wants it.
    ///
    /// # Errors
    /// The configuration is contradictory or does not fit into memory.
    pub fn boxed(config: &MmuConfig) -> Result<Box<dyn Mmu>, RmapError> {
        Ok(Box::new(Self {
            levels: Default::default(),
            mmu_lock: MmuLock::new(config.lock),
            slots: Memslots::without_heads(config)?,
            accessed: config.accessed,
            recycle_threshold: config.recycle_threshold,
        }))
    }

    fn level(&self, level: Level) -> &LevelIndex<I> {
        &self.levels[level.index()]
    }

    /// The SPTE of a mapping, its map, and its key there.
    fn resolve(&self, mapping: Mapping) -> Result<(SptePtr, &LevelIndex<I>, u64), RmapError> {
        let slot: &Memslot = self.slots.slot(mapping.gfn)?;
        let page = mapping.gfn.0 >> mapping.level.shift();
        let spte = SptePtr::new(slot.spte(mapping)?);
        Ok((spte, self.level(mapping.level), page))
    }

    /// Calls `visit` for the SPTEs of a range, level by level.
    #[inline]
    fn walk(&self, range: GfnRange, mut visit: impl FnMut(SptePtr) -> ControlFlow<()>) {
        for (_, part) in self.slots.overlapping(range) {
            let over = Level::ALL.into_iter().try_for_each(|level| {
                let index = self.level(level);
                if index.is_empty() {
                    return ControlFlow::Continue(());
                }
                index.map.walk(pages(&part, level), &mut visit)
            });
            if over.is_break() {
                return;
            }
        }
    }
}

impl<I: Index> Mmu for PeerMmu<I> {
    fn fault(
        &self,
        _: &mut Vcpu,
        mapping: Mapping,
        access: Access,
    ) -> Result<FaultOutcome, RmapError> {
        let (spte, index, page) = self.resolve(mapping)?;
        let change = match access {
            Access::Read => SpteWord::touched,
            Access::Write => SpteWord::written,
        };
        let _guard = self.mmu_lock.write();
        if spte.get().update_present(change).is_some() {
            return Ok(FaultOutcome::Spurious);
        }
        let gfn = mapping.level.align(mapping.gfn);
        spte.get()
            .install(SpteWord::young(gfn, access, self.accessed));
        let chain_len = index.add(page, spte) as u32;
        if chain_len <= self.recycle_threshold {
            return Ok(FaultOutcome::Installed { chain_len });
        }
        let zapped = index.zap_all(page) as u32;
        Ok(FaultOutcome::Recycled { zapped })
    }

    fn zap(&self, _: &mut Vcpu, mapping: Mapping) -> Result<Zapped, RmapError> {
        let (spte, index, page) = self.resolve(mapping)?;
        let _guard = self.mmu_lock.write();
        let old = spte.get().zap();
        if !old.is_present() {
            return Ok(Zapped::NotPresent);
        }
        if !index.remove(page, spte) {
            let source = PteListError::NotMapped;
            return Err(RmapError::PteList { mapping, source });
        }
        Ok(if old.is_young() {
            Zapped::Young
        } else {
            Zapped::Old
        })
    }

    fn unmap_range(&self, _: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError> {
        let _guard = self.mmu_lock.write();
        let mut zapped = 0;
        for (_, part) in self.slots.overlapping(range) {
            for level in Level::ALL {
                let index = self.level(level);
                if !index.is_empty() {
                    zapped += pages(&part, level)
                        .map(|page| index.zap_all(page) as u64)
                        .sum::<u64>();
                }
            }
        }
        Ok(zapped)
    }

    fn age(&self, range: GfnRange) -> Aging {
        let mut young = false;
        self.walk(range, |spte| {
            young |= spte.get().clear_young();
            ControlFlow::Continue(())
        });
        Aging { young, fast: true }
    }

    fn test_age(&self, range: GfnRange) -> Aging {
        let mut young = false;
        self.walk(range, |spte| {
            if !spte.get().load().is_young() {
                return ControlFlow::Continue(());
            }
            young = true;
            ControlFlow::Break(())
        });
        Aging { young, fast: true }
    }

    fn touch(&self, mapping: Mapping) -> bool {
        let Ok((spte, ..)) = self.resolve(mapping) else {
            return false;
        };
        spte.get().update_present(SpteWord::touched).is_some()
    }

    fn write_protect(&self, range: GfnRange) -> u64 {
        let _guard = self.mmu_lock.write();
        let mut writable = 0;
        self.walk(range, |spte| {
            let old = spte.get().update_present(SpteWord::write_protected);
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
        self.slots.slot(gfn)?;
        let _guard = self.mmu_lock.read();
        Ok(self.level(level).map.len(gfn.0 >> level.shift()) as u32)
    }

    fn set_young_share(&self, range: GfnRange, young_permille: u16, seed: u64) {
        let _guard = self.mmu_lock.write();
        self.slots.set_young_share(range, young_permille, seed);
    }

    fn deferred_descs(&self) -> usize {
        0
    }

    fn verify(&self) -> Result<(), Violation> {
        let _guard = self.mmu_lock.write();
        for slot in &self.slots {
            for level in Level::ALL {
                for (mapping, spte) in slot.sptes(slot.range(), level) {
                    let page = mapping.gfn.0 >> level.shift();
                    let mut found = false;
                    let _over = self.level(level).map.walk(page..page + 1, &mut |entry| {
                        found |= std::ptr::eq(entry.get(), spte);
                        ControlFlow::Continue(())
                    });
                    if found != spte.load().is_present() {
                        return Err(Violation::Missing(mapping));
                    }
                }
            }
        }
        Ok(())
    }
}
