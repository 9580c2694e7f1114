//! The check of I-chain and I-bit over a memslot at rest.
//!
//! Two independent accounts of what is mapped are held against each other: the
//! chains, and the present SPTEs of the shadow pages.

use crate::{
    error::Violation,
    gfn::{GfnRange, Level, Mapping},
    head::RmapHead,
    memslot::Memslot,
    pte_list,
};

/// Checks every rmap of the slot. The caller holds mmu_lock for write.
pub(crate) fn memslot(slot: &Memslot) -> Result<(), Violation> {
    for level in Level::ALL {
        let mut gfn = level.align(slot.range().start);
        for head in slot.heads(&slot.range(), level) {
            let first = gfn.max(slot.range().start);
            rmap(slot, head, Mapping::new(first, level, 0))?;
            gfn.0 += level.npages();
        }
    }
    Ok(())
}

/// Checks the rmap of `place`'s gfn and level.
fn rmap(slot: &Memslot, head: &RmapHead, place: Mapping) -> Result<(), Violation> {
    let Mapping { gfn, level, .. } = place;
    let word = head.load();
    if word.is_locked() {
        return Err(Violation::LockedLeaked { gfn, level });
    }
    let mut entries = Vec::new();
    // SAFETY: I-life: the caller keeps every mutator out.
    let checked = unsafe { pte_list::check(word, |spte| entries.push(std::ptr::from_ref(spte))) };
    let in_rmap = checked.map_err(|source| Violation::Corrupt { gfn, level, source })?;
    entries.sort_unstable();
    entries.dedup();
    let mut present = 0;
    for (mapping, spte) in slot.sptes(GfnRange::single(gfn), level) {
        if !spte.load().is_present() {
            continue;
        }
        present += 1;
        if entries.binary_search(&std::ptr::from_ref(spte)).is_err() {
            return Err(Violation::Missing(mapping));
        }
    }
    if present != in_rmap || entries.len() != in_rmap as usize {
        return Err(Violation::Miscounted {
            gfn,
            level,
            in_rmap,
            present,
        });
    }
    Ok(())
}
