//! Both of KVM's MMUs behind one notifier, as a host of nested guests has them.
//!
//! L1's own mappings are in the TDP MMU (alias 0), those KVM makes for L1's guests in
//! the shadow MMU with rmaps (every other alias). They share one mmu_lock and one
//! read side. An aging callback asks the TDP MMU first, which needs no lock, and
//! the rmaps only if shadow SPTEs may exist; how it asks them is the
//! [`Tiers`]' business.
//!
//! **I-life** is each MMU's own. **I-young** needs the count of shadow SPTEs to be
//! raised before the first of them is installed.

use std::marker::PhantomData;

use crate::{
    config::MmuConfig,
    error::{RmapError, Violation},
    gfn::{Gfn, GfnRange, Level, Mapping},
    mmu::{Access, Aging, FaultOutcome, GivenPage, Mmu, Zapped},
    scheme::Scheme,
    shadow_mmu::ShadowMmu,
    spte::SpteWord,
    sync::{AtomicU64, Ordering::Relaxed},
    tdp_mmu::{AsKvm, Tdp},
    vcpu::Vcpu,
};

/// Which callback is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callback {
    /// Look and make old.
    Age,
    /// Look only.
    TestAge,
}

/// How the shadow MMU is asked once the TDP MMU has answered.
pub trait Tiers: Send + Sync + 'static {
    /// The rmaps' scheme.
    type Shadow: Scheme;

    /// Asks the rmaps; `young` is the TDP MMU's answer.
    fn ask(
        shadow: &ShadowMmu<Self::Shadow>,
        range: GfnRange,
        callback: Callback,
        young: bool,
    ) -> Aging;

    /// The same without ever waiting for mmu_lock.
    fn ask_fast_only(shadow: &ShadowMmu<Self::Shadow>, range: GfnRange, young: bool) -> Aging;
}

/// A VM with both MMUs.
#[derive(Debug)]
pub struct TieredMmu<T: Tiers> {
    shadow: ShadowMmu<T::Shadow>,
    tdp: Tdp<AsKvm>,
    /// Shadow SPTEs there are, or one more for each fault under way.
    shadow_sptes: AtomicU64,
    tiers: PhantomData<T>,
}

impl<T: Tiers> TieredMmu<T> {
    /// An MMU without mappings.
    ///
    /// # Errors
    /// The configuration is contradictory or does not fit into memory.
    pub fn new(config: &MmuConfig) -> Result<Self, RmapError> {
        Ok(Self {
            tdp: Tdp::new(config)?,
            shadow: ShadowMmu::with_aliases_from(config, 1)?,
            shadow_sptes: AtomicU64::new(0),
            tiers: PhantomData,
        })
    }

    /// [`new`](Self::new), as the registry wants it.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn boxed(config: &MmuConfig) -> Result<Box<dyn Mmu>, RmapError> {
        Ok(Box::new(Self::new(config)?))
    }

    /// Whether an aging callback has to look into the rmaps at all. Relaxed: a shadow
    /// SPTE whose fault happened before the callback is counted.
    fn may_have_shadow_sptes(&self) -> bool {
        self.shadow_sptes.load(Relaxed) > 0
    }

    /// Notes that shadow SPTEs have gone.
    fn discount(&self, sptes: u64) {
        if sptes > 0 {
            self.shadow_sptes.fetch_add(sptes.wrapping_neg(), Relaxed);
        }
    }

    fn answer(&self, range: GfnRange, callback: Callback) -> Aging {
        let context = self.shadow.context();
        let young = match callback {
            Callback::Age => self.tdp.age(context, range),
            Callback::TestAge => self.tdp.test_age(context, range),
        };
        let is_over = young && callback == Callback::TestAge;
        if is_over || !self.may_have_shadow_sptes() {
            return Aging { young, fast: true };
        }
        T::ask(&self.shadow, range, callback, young)
    }
}

impl<T: Tiers> Mmu for TieredMmu<T> {
    fn fault(
        &self,
        vcpu: &mut Vcpu,
        mapping: Mapping,
        access: Access,
    ) -> Result<FaultOutcome, RmapError> {
        if mapping.alias == 0 {
            let context = self.shadow.context();
            return self.tdp.fault(context, vcpu, mapping, access);
        }
        self.shadow_sptes.fetch_add(1, Relaxed);
        let outcome = self.shadow.fault(vcpu, mapping, access);
        self.discount(match outcome {
            Ok(FaultOutcome::Installed { .. }) => 0,
            Ok(FaultOutcome::Recycled { zapped }) => u64::from(zapped),
            Ok(FaultOutcome::Spurious) | Err(_) => 1,
        });
        outcome
    }

    fn zap(&self, vcpu: &mut Vcpu, mapping: Mapping) -> Result<Zapped, RmapError> {
        if mapping.alias == 0 {
            return self.tdp.zap(self.shadow.context(), vcpu, mapping);
        }
        let zapped = self.shadow.zap(vcpu, mapping)?;
        self.discount(u64::from(zapped.was_present()));
        Ok(zapped)
    }

    fn unmap_range(&self, vcpu: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError> {
        let shadow = self.shadow.unmap_range(vcpu, range)?;
        self.discount(shadow);
        Ok(shadow + self.tdp.unmap_range(self.shadow.context(), range))
    }

    fn age(&self, range: GfnRange) -> Aging {
        self.answer(range, Callback::Age)
    }

    fn test_age(&self, range: GfnRange) -> Aging {
        self.answer(range, Callback::TestAge)
    }

    fn age_fast_only(&self, range: GfnRange) -> Aging {
        let young = self.tdp.age(self.shadow.context(), range);
        if !self.may_have_shadow_sptes() {
            return Aging { young, fast: true };
        }
        T::ask_fast_only(&self.shadow, range, young)
    }

    fn touch(&self, mapping: Mapping) -> bool {
        match mapping.alias {
            0 => self.tdp.touch(self.shadow.context(), mapping),
            _ => self.shadow.touch(mapping),
        }
    }

    fn write_protect(&self, range: GfnRange) -> u64 {
        let shadow = self.shadow.write_protect(range);
        shadow + self.tdp.write_protect(self.shadow.context(), range)
    }

    fn zap_collapsible(&self, vcpu: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError> {
        let shadow = self.shadow.zap_collapsible(vcpu, range)?;
        self.discount(shadow);
        let context = self.shadow.context();
        Ok(shadow + self.tdp.zap_collapsible(context, vcpu, range))
    }

    fn give_page_away(&self, vcpu: &mut Vcpu, mapping: Mapping) -> Result<GivenPage, RmapError> {
        if mapping.alias == 0 {
            return self.tdp.give_away(self.shadow.context(), vcpu, mapping);
        }
        let given = self.shadow.give_page_away(vcpu, mapping)?;
        let words = given.words.iter().map(|&word| SpteWord::from_raw(word));
        self.discount(words.filter(|word| word.is_present()).count() as u64);
        Ok(given)
    }

    fn take_page_back(&self, page: GivenPage) -> usize {
        match page.place.alias {
            0 => self.tdp.take_back(self.shadow.context(), &page),
            _ => self.shadow.take_page_back(page),
        }
    }

    fn chain_len(&self, gfn: Gfn, level: Level) -> Result<u32, RmapError> {
        let shadow = self.shadow.chain_len(gfn, level)?;
        Ok(shadow + self.tdp.mapped(self.shadow.context(), gfn, level)?)
    }

    fn set_young_share(&self, range: GfnRange, young_permille: u16, seed: u64) {
        self.shadow.set_young_share(range, young_permille, seed);
        let context = self.shadow.context();
        self.tdp
            .set_young_share(context, range, young_permille, seed);
    }

    fn deferred_descs(&self) -> usize {
        self.shadow.deferred_descs()
    }

    fn deferred_tables(&self) -> usize {
        self.shadow.deferred_tables()
    }

    fn verify(&self) -> Result<(), Violation> {
        let counted = self.shadow_sptes.load(Relaxed);
        let present = self.shadow.present_sptes();
        if counted != present {
            return Err(Violation::MiscountedShadow { counted, present });
        }
        self.shadow.verify()?;
        self.tdp.verify(self.shadow.context())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::schemes::tiered::Tiered;

    #[test]
    fn i_young_verify_finds_a_wrong_count_of_shadow_sptes() {
        let config = MmuConfig::new(Gfn(0), 4, 4);
        let mmu = TieredMmu::<Tiered>::new(&config).expect("the configuration is valid");
        let mapping = Mapping::new(Gfn(1), Level::Size4K, 2);
        let fault = mmu.fault(&mut Vcpu::new(), mapping, Access::Read);
        assert!(fault.is_ok(), "{fault:?}");
        assert_eq!(mmu.verify(), Ok(()));
        mmu.discount(1);
        assert_eq!(
            mmu.verify(),
            Err(Violation::MiscountedShadow {
                counted: 0,
                present: 1,
            })
        );
    }
}
