//! Shadow pages that are freed and used by somebody else.
//!
//! KVM frees a shadow page once its SPTEs have left their rmaps, and the next owner
//! may be anybody. An ager that still knows one of its SPTEs then writes into a
//! stranger's data (**I-life**). Memory here is never really freed, so a page that
//! was given away can be checked word by word when it comes back.

use super::ShadowMmu;
use crate::{
    error::RmapError,
    gfn::Mapping,
    memslot::SPTES_PER_PAGE,
    mmu::GivenPage,
    scheme::{FreePolicy, Scheme},
    spte::SpteWord,
    vcpu::Vcpu,
};

impl<S: Scheme> ShadowMmu<S> {
    /// Refuses work on a page that is away. The caller holds mmu_lock for write.
    pub(super) fn refuse_given_away(&self, mapping: Mapping) -> Result<(), RmapError> {
        if self.slots.slot(mapping.gfn)?.page(mapping)?.is_given_away() {
            return Err(RmapError::PageGivenAway(mapping));
        }
        Ok(())
    }

    /// See [`Mmu::give_page_away`](crate::Mmu::give_page_away).
    pub(super) fn give_away(
        &self,
        vcpu: &mut Vcpu,
        place: Mapping,
    ) -> Result<GivenPage, RmapError> {
        let slot = self.slots.slot(place.gfn)?;
        let page = slot.page(place)?;
        let mut words = Vec::with_capacity(SPTES_PER_PAGE);
        self.mutate(vcpu, SPTES_PER_PAGE, |vcpu| {
            self.refuse_given_away(place)?;
            for (mapping, spte) in slot.page_sptes(place, page) {
                let old = match slot.head(mapping.gfn, mapping.level) {
                    Some(head) => Self::zap_one(spte, head, &mut vcpu.retired)
                        .map_err(|source| RmapError::PteList { mapping, source })?,
                    None => SpteWord::ZAPPED,
                };
                words.push(old.raw());
            }
            page.set_given_away(true);
            Ok(())
        })?;
        if S::PAGE_FREE == FreePolicy::AfterReaders {
            self.reclaim.synchronize();
        }
        for (spte, &word) in page.sptes().iter().zip(&words) {
            spte.install(SpteWord::from_raw(word));
        }
        Ok(GivenPage {
            place,
            words,
            table: None,
        })
    }

    /// See [`Mmu::take_page_back`](crate::Mmu::take_page_back).
    pub(super) fn take_back(&self, given: &GivenPage) -> usize {
        let slot = self.slots.slot(given.place.gfn);
        let Ok(page) = slot.and_then(|slot| slot.page(given.place)) else {
            return 0;
        };
        let _guard = self.mmu_lock.write();
        let words = page.sptes().iter().zip(&given.words);
        let changed = words
            .filter(|(spte, word)| spte.zap().raw() != **word)
            .count();
        page.set_given_away(false);
        changed
    }
}
