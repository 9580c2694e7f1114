//! Page tables that are freed and used by somebody else.
//!
//! The TDP MMU's side of [`Mmu::give_page_away`](crate::Mmu::give_page_away): the
//! table is cut off with everything below it, the readers are waited for with no lock
//! held, and a stranger writes the words it held. The entry that led to it stays
//! frozen, as *away*, until it comes back, so that no fault puts another in its
//! place.

use super::{
    table::{OwnedTable, TdpTable},
    tree::{Rules, Tdp, freeze_all, height_of},
};
use crate::{
    error::RmapError,
    gfn::{Gfn, GfnRange, LEVEL_SHIFT, Mapping},
    memslot::SPTES_PER_PAGE,
    mmu::GivenPage,
    scheme::{AgerContext, FreePolicy},
    spte::{Entry, EntryKind, SpteWord},
    vcpu::Vcpu,
};

impl<R: Rules> Tdp<R> {
    /// See [`Mmu::give_page_away`](crate::Mmu::give_page_away).
    pub(crate) fn give_away(
        &self,
        context: AgerContext<'_>,
        vcpu: &mut Vcpu,
        place: Mapping,
    ) -> Result<GivenPage, RmapError> {
        self.check(place)?;
        vcpu.tables.top_up();
        vcpu.retired.reserve(self.tables_below(place));
        let mut words = Vec::with_capacity(SPTES_PER_PAGE);
        let lock = context.mmu_lock.write();
        let cut_off = self.cut_off(vcpu, place, &mut words);
        drop(lock);
        Self::hand_over(context, vcpu);
        let table = cut_off?;
        if R::FREE == FreePolicy::AfterReaders {
            context.reclaim.synchronize();
        }
        table.table().life.retire();
        for (spte, &word) in table.table().sptes().iter().zip(&words) {
            spte.install(SpteWord::from_raw(word));
        }
        let table = Some(table);
        Ok(GivenPage {
            place,
            words,
            table,
        })
    }

    /// The most tables below the one that holds `place`: the memslots have use for no more.
    fn tables_below(&self, place: Mapping) -> usize {
        let height = height_of(place.level);
        let bits = (height + 1) * LEVEL_SHIFT;
        let first = Gfn(place.gfn.0 >> bits << bits);
        let parts = self.ranges.overlapping(GfnRange::pages(first, 1 << bits));
        let tables = |part: GfnRange| {
            let of_size = |bits| ((part.end.0 - 1) >> bits) - (part.start.0 >> bits) + 1;
            (1..=height)
                .map(|below| of_size(below * LEVEL_SHIFT))
                .sum::<u64>()
        };
        parts.map(tables).sum::<u64>() as usize
    }

    /// Cuts the table off that holds `place`, or a new one where there is none, and
    /// notes what its entries mapped. The caller holds mmu_lock for write.
    fn cut_off(
        &self,
        vcpu: &mut Vcpu,
        place: Mapping,
        words: &mut Vec<u64>,
    ) -> Result<OwnedTable, RmapError> {
        let away = Entry::new(SpteWord::AWAY);
        let refused = Err(RmapError::PageGivenAway(place));
        let Ok(parent) = self.parent_entry(vcpu, place.gfn, height_of(place.level)) else {
            return refused;
        };
        let table = match parent.spte.swap_entry(away).kind() {
            EntryKind::Away => return refused,
            EntryKind::Table(table) => table.cast::<TdpTable>(),
            _ => vcpu.tables.take().ok_or(RmapError::PageGivenAway(place))?,
        };
        // SAFETY: I-life: the entry just taken was the one way to it.
        let table = unsafe { OwnedTable::new(table) };
        let mut note = |entry| {
            words.push(match entry {
                EntryKind::Leaf(word) => word.raw(),
                _ => SpteWord::ZAPPED.raw(),
            });
        };
        // SAFETY: I-life: mmu_lock is held for write, and the table was just cut off.
        unsafe { freeze_all(table.table(), &mut vcpu.retired, &mut note) };
        Ok(table)
    }

    /// See [`Mmu::take_page_back`](crate::Mmu::take_page_back).
    pub(crate) fn take_back(&self, context: AgerContext<'_>, given: &GivenPage) -> usize {
        let Some(table) = &given.table else {
            return 0;
        };
        let _lock = context.mmu_lock.write();
        // SAFETY: I-life: mmu_lock is held for write.
        let parent = unsafe { self.find(given.place.gfn, height_of(given.place.level) + 1) };
        if parent.entry.kind() == EntryKind::Away {
            parent.spte.unfreeze();
        }
        let words = table.table().sptes().iter().zip(&given.words);
        words
            .filter(|(spte, word)| spte.load().raw() != **word)
            .count()
    }
}
