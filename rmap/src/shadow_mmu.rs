//! The shadow MMU: faults, zaps, unmaps and aging over rmaps, under any scheme.
//!
//! Mutators hold mmu_lock for write, and inside it whatever their scheme adds per
//! rmap. They change the SPTE first and the rmap second when they install, as KVM
//! does, and the other way round nobody depends on: an SPTE in an rmap may be
//! zapped already (**I-zap**), and one that is present is in its rmap whenever
//! mmu_lock is free (**I-chain**).
//!
//! No mutator and no ager allocates or frees while mmu_lock is held: the vCPU's
//! cache is topped up before, and retired descriptors are handed over after.

pub(crate) mod age;
mod pages;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod under_lock;

use std::{marker::PhantomData, ptr::NonNull};

use crate::{
    config::{AccessedBits, MmuConfig},
    error::{PteListError, RmapError, Violation},
    gfn::{Gfn, GfnRange, Level, Mapping},
    head::{HeadWord, RmapHead},
    memslot::Memslots,
    mmu::{Access, Aging, FaultOutcome, GivenPage, Mmu, Zapped},
    mmu_lock::MmuLock,
    pte_list,
    reclaim::{Garbage, Reclaim, Retired},
    scheme::{AgeOp, AgerContext, Exclusion, FreePolicy, NeedsMmuLock, Scheme, WalkOrder},
    schemes::{single_fallback::SingleFallback, single_skip::SingleSkip},
    spte::{Spte, SpteWord},
    vcpu::Vcpu,
    verify,
};

/// A shadow MMU whose rmaps follow scheme `S`.
#[derive(Debug)]
pub struct ShadowMmu<S> {
    mmu_lock: MmuLock,
    slots: Memslots,
    reclaim: Reclaim,
    accessed: AccessedBits,
    recycle_threshold: u32,
    scheme: PhantomData<S>,
}

impl<S: Scheme> ShadowMmu<S> {
    /// An MMU without mappings.
    ///
    /// # Errors
    /// The configuration is contradictory or does not fit into memory.
    pub fn new(config: &MmuConfig) -> Result<Self, RmapError> {
        Self::with_aliases_from(config, 0)
    }

    /// [`new`](Self::new) without the aliases below `first_alias`, which another MMU
    /// of the VM has.
    pub(crate) fn with_aliases_from(
        config: &MmuConfig,
        first_alias: u32,
    ) -> Result<Self, RmapError> {
        Ok(Self {
            mmu_lock: MmuLock::new(config.lock),
            slots: Memslots::new(config, first_alias)?,
            reclaim: Reclaim::new(),
            accessed: config.accessed,
            recycle_threshold: config.recycle_threshold,
            scheme: PhantomData,
        })
    }

    /// [`new`](Self::new), as the registry wants it.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn boxed(config: &MmuConfig) -> Result<Box<dyn Mmu>, RmapError> {
        Ok(Box::new(Self::new(config)?))
    }

    /// The VM's mmu_lock and read side, for its other MMU.
    pub(crate) fn context(&self) -> AgerContext<'_> {
        AgerContext {
            mmu_lock: &self.mmu_lock,
            reclaim: &self.reclaim,
        }
    }

    /// The SPTE and the head of a mapping.
    #[inline]
    fn resolve(&self, mapping: Mapping) -> Result<(&Spte, &RmapHead), RmapError> {
        let slot = self.slots.slot(mapping.gfn)?;
        let head = slot.head(mapping.gfn, mapping.level);
        let head = head.ok_or(RmapError::NoMemslot(mapping.gfn))?;
        // SAFETY: I-life: shadow pages live as long as the MMU.
        Ok((unsafe { slot.spte(mapping)?.as_ref() }, head))
    }

    /// Runs `edit` with mmu_lock held for write, and hands what it retired over
    /// when the lock is free again.
    fn mutate<R>(&self, vcpu: &mut Vcpu, rmaps: usize, edit: impl FnOnce(&mut Vcpu) -> R) -> R {
        vcpu.cache.top_up();
        vcpu.retired.reserve(rmaps);
        let guard = self.mmu_lock.write();
        let result = edit(vcpu);
        drop(guard);
        if !vcpu.retired.is_empty() {
            self.hand_over(vcpu);
        }
        result
    }

    #[cold]
    fn hand_over(&self, vcpu: &mut Vcpu) {
        for garbage in vcpu.retired.drain() {
            // SAFETY: I-life: the garbage left its chain, the new word is published,
            // and the scheme promises that this policy then is enough.
            unsafe {
                match S::FREE {
                    FreePolicy::Now => self.reclaim.free_now(garbage, &mut vcpu.cache),
                    FreePolicy::AfterReaders => self.reclaim.defer(garbage),
                }
            }
        }
    }

    /// Changes one chain: lets the mutator in, applies `change`, publishes its word
    /// (the old one if it failed).
    fn edit<R>(
        head: &RmapHead,
        change: impl FnOnce(HeadWord) -> Result<(HeadWord, R), PteListError>,
    ) -> Result<R, PteListError> {
        let old = S::lock_for_edit(head);
        if S::EXCLUSION == Exclusion::Exclusive {
            head.assert_no_walker();
        }
        match change(old) {
            Ok((new, result)) => {
                S::publish(head, new);
                Ok(result)
            }
            Err(error) => {
                S::publish(head, old);
                Err(error)
            }
        }
    }

    /// Installs a zapped SPTE and adds it to its rmap, with mmu_lock held for write.
    fn install(
        &self,
        vcpu: &mut Vcpu,
        (spte, head): (&Spte, &RmapHead),
        word: SpteWord,
    ) -> Result<FaultOutcome, PteListError> {
        spte.install(word);
        let added = Self::add(vcpu, NonNull::from(spte), head);
        let chain_len = match added {
            Ok(chain_len) => chain_len,
            Err(error) => {
                spte.zap();
                return Err(error);
            }
        };
        if chain_len <= self.recycle_threshold {
            return Ok(FaultOutcome::Installed { chain_len });
        }
        let zapped = Self::zap_rmap(head, &mut vcpu.retired)?;
        Ok(FaultOutcome::Recycled { zapped })
    }

    /// Adds an SPTE to its rmap, with mmu_lock held for write; the new length.
    fn add(vcpu: &mut Vcpu, spte: NonNull<Spte>, head: &RmapHead) -> Result<u32, PteListError> {
        // SAFETY: I-life: mmu_lock is held for write, so we are the only mutator.
        unsafe {
            if cfg!(debug_assertions) && pte_list::contains(head.load(), spte)? {
                return Err(PteListError::AlreadyMapped);
            }
            if S::APPENDS_UNLOCKED
                && let Some(chain_len) = pte_list::append(head.load(), spte)
            {
                return Ok(chain_len);
            }
            Self::edit(head, |old| pte_list::add_absent(old, spte, &mut vcpu.cache))
        }
    }

    /// Zaps one SPTE and takes it out of its rmap if it was present, with mmu_lock
    /// held for write. Returns what it was.
    fn zap_one(
        spte: &Spte,
        head: &RmapHead,
        retired: &mut Retired,
    ) -> Result<SpteWord, PteListError> {
        let old = spte.zap();
        if !old.is_present() {
            return Ok(old);
        }
        Self::edit(head, |word| {
            // SAFETY: I-life: mmu_lock is held for write, so we are the only mutator.
            let word = unsafe { pte_list::remove(word, NonNull::from(spte), retired)? };
            Ok((word, ()))
        })?;
        Ok(old)
    }

    /// Zaps one whole rmap, with mmu_lock held for write.
    fn zap_rmap(head: &RmapHead, retired: &mut Retired) -> Result<u32, PteListError> {
        if head.load().is_empty() {
            return Ok(0);
        }
        let zap = |spte: &Spte| {
            spte.zap();
        };
        Self::edit(head, |old| {
            // SAFETY: I-life: mmu_lock is held for write, so we are the only mutator.
            let zapped = unsafe { pte_list::zap_all(old, zap, retired)? };
            Ok((HeadWord::EMPTY, zapped))
        })
    }

    /// One aging callback, walking as scheme `W` does: `S` itself or one that is sound
    /// beside its mutators.
    #[inline]
    fn age_range<W: Scheme>(&self, range: GfnRange, op: &mut impl AgeOp) -> bool {
        let mut guard = W::enter(self.context());
        for (slot, range) in self.slots.overlapping(range) {
            let over = match W::ORDER {
                WalkOrder::LevelOuter => Level::ALL.iter().try_for_each(|&level| {
                    W::walk_range(&mut guard, slot.heads(&range, level), op)
                }),
                WalkOrder::GfnOuter => (range.start.0..range.end.0).try_for_each(|gfn| {
                    let mut heads = Level::ALL
                        .iter()
                        .filter_map(|&level| slot.head(Gfn(gfn), level));
                    heads.try_for_each(|head| W::walk(&mut guard, head, op))
                }),
            };
            if over.is_break() {
                break;
            }
        }
        W::was_fast(&guard)
    }
}

impl<S: Scheme> Mmu for ShadowMmu<S> {
    fn fault(
        &self,
        vcpu: &mut Vcpu,
        mapping: Mapping,
        access: Access,
    ) -> Result<FaultOutcome, RmapError> {
        let place = self.resolve(mapping)?;
        let change = match access {
            Access::Read => SpteWord::touched,
            Access::Write => SpteWord::written,
        };
        self.mutate(vcpu, 1, |vcpu| {
            self.refuse_given_away(mapping)?;
            if place.0.update_present(change).is_some() {
                return Ok(FaultOutcome::Spurious);
            }
            let gfn = mapping.level.align(mapping.gfn);
            let word = SpteWord::young(gfn, access, self.accessed);
            let outcome = self.install(vcpu, place, word);
            outcome.map_err(|source| RmapError::PteList { mapping, source })
        })
    }

    fn zap(&self, vcpu: &mut Vcpu, mapping: Mapping) -> Result<Zapped, RmapError> {
        let (spte, head) = self.resolve(mapping)?;
        self.mutate(vcpu, 1, |vcpu| {
            self.refuse_given_away(mapping)?;
            let old = Self::zap_one(spte, head, &mut vcpu.retired)
                .map_err(|source| RmapError::PteList { mapping, source })?;
            Ok(match old {
                old if !old.is_present() => Zapped::NotPresent,
                old if old.is_young() => Zapped::Young,
                _ => Zapped::Old,
            })
        })
    }

    fn give_page_away(&self, vcpu: &mut Vcpu, mapping: Mapping) -> Result<GivenPage, RmapError> {
        self.give_away(vcpu, mapping)
    }

    fn take_page_back(&self, page: GivenPage) -> usize {
        self.take_back(&page)
    }

    fn unmap_range(&self, vcpu: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError> {
        let parts = || self.slots.overlapping(range);
        let rmaps = parts()
            .flat_map(|(slot, range)| Level::ALL.map(|level| slot.heads(&range, level).len()))
            .sum();
        self.mutate(vcpu, rmaps, |vcpu| {
            let mut zapped = 0;
            for (slot, range) in parts() {
                for level in Level::ALL {
                    for (index, head) in slot.heads(&range, level).iter().enumerate() {
                        let result = Self::zap_rmap(head, &mut vcpu.retired);
                        zapped += u64::from(result.map_err(|source| {
                            let first = level.align(range.start).0;
                            let gfn = Gfn(first + index as u64 * level.npages());
                            let mapping = Mapping::new(gfn, level, 0);
                            RmapError::PteList { mapping, source }
                        })?);
                    }
                }
            }
            Ok(zapped)
        })
    }

    fn age(&self, range: GfnRange) -> Aging {
        self.age_as::<S>(range)
    }

    fn test_age(&self, range: GfnRange) -> Aging {
        self.test_age_as::<S>(range)
    }

    fn age_fast_only(&self, range: GfnRange) -> Aging {
        match S::NEEDS_MMU_LOCK {
            NeedsMmuLock::Never | NeedsMmuLock::SkipsChains => self.age(range),
            NeedsMmuLock::Chains => self.age_as::<SingleSkip>(range),
            NeedsMmuLock::Always => Aging {
                young: false,
                fast: false,
            },
        }
    }

    fn age_before_eviction(&self, range: GfnRange) -> Aging {
        match S::NEEDS_MMU_LOCK {
            NeedsMmuLock::SkipsChains => self.age_as::<SingleFallback>(range),
            _ => self.age(range),
        }
    }

    fn touch(&self, mapping: Mapping) -> bool {
        let Ok((spte, _)) = self.resolve(mapping) else {
            return false;
        };
        spte.update_present(SpteWord::touched).is_some()
    }

    fn write_protect(&self, range: GfnRange) -> u64 {
        self.write_protect_range(range)
    }

    fn zap_collapsible(&self, vcpu: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError> {
        self.zap_collapsible_range(vcpu, range)
    }

    fn chain_len(&self, gfn: Gfn, level: Level) -> Result<u32, RmapError> {
        let head = self.slots.slot(gfn)?.head(gfn, level);
        let head = head.ok_or(RmapError::NoMemslot(gfn))?;
        let _guard = self.mmu_lock.read();
        // SAFETY: I-life: mmu_lock keeps every mutator out.
        Ok(unsafe { pte_list::count(head.load()) })
    }

    fn set_young_share(&self, range: GfnRange, young_permille: u16, seed: u64) {
        let _guard = self.mmu_lock.write();
        self.slots.set_young_share(range, young_permille, seed);
    }

    fn deferred_descs(&self) -> usize {
        self.reclaim.deferred_descs()
    }

    fn deferred_tables(&self) -> usize {
        self.reclaim.deferred_tables()
    }

    fn verify(&self) -> Result<(), Violation> {
        let _guard = self.mmu_lock.write();
        self.slots.iter().try_for_each(verify::memslot)
    }
}

impl<S> Drop for ShadowMmu<S> {
    fn drop(&mut self) {
        // A model that failed is being unwound: its cells can no longer be used.
        if std::thread::panicking() {
            return;
        }
        for slot in &self.slots {
            for head in Level::ALL
                .iter()
                .flat_map(|&level| slot.heads(&slot.range(), level))
            {
                if let crate::head::Chain::Many(first) = head.load().chain() {
                    // SAFETY: I-life: nobody else has the MMU any more.
                    unsafe { Garbage::Chain(first).take_apart(drop) };
                }
            }
        }
    }
}
