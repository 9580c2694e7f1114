//! Walks of rmaps under mmu_lock, without any rmap lock.
//!
//! mmu_lock held for write keeps every mutator out, so the chains stand still; an
//! ager may be inside at the same time, and neither minds the other. Not taking
//! the bit is what keeps **I-progress**: such a walk may go on to remove what it
//! found, and the removal takes the bit itself.

use std::{ops::ControlFlow, ptr::NonNull};

use super::ShadowMmu;
use crate::{
    desc::PTE_LIST_EXT,
    error::{PteListError, RmapError},
    gfn::{Gfn, GfnRange, Level, Mapping},
    head::RmapHead,
    pte_list,
    reclaim::Retired,
    scheme::Scheme,
    spte::{Spte, SpteWord},
    vcpu::Vcpu,
};

/// Walks a chain with mmu_lock held for write.
fn walk(head: &RmapHead, visit: &mut impl FnMut(&Spte) -> ControlFlow<()>) {
    head.assert_no_mutator();
    // SAFETY: I-life: mmu_lock keeps every mutator out.
    let _over = unsafe { pte_list::walk(head.load().unlocked(), visit) };
}

impl<S: Scheme> ShadowMmu<S> {
    /// See [`Mmu::write_protect`](crate::Mmu::write_protect).
    pub(super) fn write_protect_range(&self, range: GfnRange) -> u64 {
        let mut writable = 0;
        let _guard = self.mmu_lock.write();
        for (slot, range) in self.slots.overlapping(range) {
            for head in Level::ALL
                .iter()
                .flat_map(|&level| slot.heads(&range, level))
            {
                walk(head, &mut |spte| {
                    let old = spte.update_present(SpteWord::write_protected);
                    writable += u64::from(old.is_some_and(SpteWord::is_writable));
                    ControlFlow::Continue(())
                });
            }
        }
        writable
    }

    /// See [`Mmu::zap_collapsible`](crate::Mmu::zap_collapsible).
    pub(super) fn zap_collapsible_range(
        &self,
        vcpu: &mut Vcpu,
        range: GfnRange,
    ) -> Result<u64, RmapError> {
        let parts = || {
            let slots = self.slots.overlapping(range);
            slots.filter_map(|(slot, range)| Some((slot, range.whole_pages(Level::Size2M)?)))
        };
        let descs = parts()
            .map(|(slot, part)| {
                part.npages() as usize * (slot.aliases() as usize / PTE_LIST_EXT + 1)
            })
            .sum();
        self.mutate(vcpu, descs, |vcpu| {
            let mut zapped = 0;
            for (slot, part) in parts() {
                let heads = slot.heads(&part, Level::Size4K).iter();
                for (head, gfn) in heads.zip(part.start.0..) {
                    zapped += Self::zap_one_by_one(head, &mut vcpu.retired).map_err(|source| {
                        let mapping = Mapping::new(Gfn(gfn), Level::Size4K, 0);
                        RmapError::PteList { mapping, source }
                    })?;
                }
            }
            Ok(zapped)
        })
    }

    /// Empties an rmap by removing what a walk finds first, until it finds nothing.
    fn zap_one_by_one(head: &RmapHead, retired: &mut Retired) -> Result<u64, PteListError> {
        let mut zapped = 0;
        loop {
            let mut found = None;
            walk(head, &mut |spte| {
                found = Some(NonNull::from(spte));
                ControlFlow::Break(())
            });
            let Some(spte) = found else {
                return Ok(zapped);
            };
            // SAFETY: I-life: shadow pages live as long as the MMU.
            let old = Self::zap_one(unsafe { spte.as_ref() }, head, retired)?;
            if !old.is_present() {
                return Err(PteListError::CorruptChain("a zapped SPTE is in the chain"));
            }
            zapped += 1;
        }
    }
}
