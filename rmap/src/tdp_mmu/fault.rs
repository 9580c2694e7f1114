//! Faults and zaps of the TDP MMU.
//!
//! Faults, single zaps, write protection and collapsing hold mmu_lock for READ and
//! are on the read side, and so meet each other; every change they make is one
//! compare-exchange. Range unmaps and the set-up of workloads hold it for write. KVM
//! divides them the same way (`kvm_tdp_mmu_map`, `tdp_mmu_zap_spte_atomic`,
//! `kvm_tdp_mmu_wrprot_slot` and `kvm_tdp_mmu_zap_collapsible_sptes` under the read
//! lock, `kvm_tdp_mmu_unmap_gfn_range` under the write lock; Linux 6.9).

use std::{ops::ControlFlow, ptr::NonNull};

use super::{
    table::{TdpTable, entry_of},
    tree::{Place, Rules, Tdp, height_of, retire},
};
use crate::{
    error::RmapError,
    gfn::{Gfn, GfnRange, Level, Mapping},
    memslot::SPTES_PER_PAGE,
    mmu::{Access, FaultOutcome, Zapped},
    scheme::AgerContext,
    spte::{Entry, EntryKind, SpteWord},
    sync::spin_loop,
    vcpu::Vcpu,
};

/// One fault, as far as it is the same at every attempt.
struct Fault {
    mapping: Mapping,
    access: Access,
}

/// Somebody changed an entry on the way; start again from the root.
struct Retry;

/// The most tables a change at this level can cut off.
fn tables_below(level: Level) -> usize {
    match level {
        Level::Size4K => 0,
        Level::Size2M => 1,
        Level::Size1G => 1 + SPTES_PER_PAGE,
    }
}

impl<R: Rules> Tdp<R> {
    /// See [`Mmu::fault`](crate::Mmu::fault).
    pub(crate) fn fault(
        &self,
        context: AgerContext<'_>,
        vcpu: &mut Vcpu,
        mapping: Mapping,
        access: Access,
    ) -> Result<FaultOutcome, RmapError> {
        self.check(mapping)?;
        let fault = Fault { mapping, access };
        loop {
            vcpu.tables.top_up();
            let result = self.shared(context, vcpu, tables_below(mapping.level), |vcpu| {
                self.try_fault(vcpu, &fault)
            });
            match result {
                Ok(outcome) => return outcome,
                Err(Retry) => spin_loop(),
            }
        }
    }

    /// Runs `edit` with mmu_lock held for read and on the read side, and hands what
    /// it cut off over when both are left.
    fn shared<T>(
        &self,
        context: AgerContext<'_>,
        vcpu: &mut Vcpu,
        tables: usize,
        edit: impl FnOnce(&mut Vcpu) -> T,
    ) -> T {
        vcpu.retired.reserve(tables);
        context.reclaim.prepare();
        let lock = context.mmu_lock.read();
        let side = context.reclaim.enter();
        let result = edit(vcpu);
        drop(side);
        drop(lock);
        if !vcpu.retired.is_empty() {
            Self::hand_over(context, vcpu);
        }
        result
    }

    /// One attempt: goes down, links and splits on the way, installs at the end.
    fn try_fault(
        &self,
        vcpu: &mut Vcpu,
        fault: &Fault,
    ) -> Result<Result<FaultOutcome, RmapError>, Retry> {
        let target = height_of(fault.mapping.level);
        loop {
            // SAFETY: I-life: `shared` is on the read side.
            let place = unsafe { self.find(fault.mapping.gfn, target) };
            let word = match place.entry.kind() {
                EntryKind::Away => return Ok(Err(RmapError::PageGivenAway(fault.mapping))),
                EntryKind::Frozen if R::HONOUR_FROZEN => return Err(Retry),
                _ if place.height == target => return self.install(vcpu, place, fault).map(Ok),
                EntryKind::Leaf(word) => Some(word),
                EntryKind::Empty | EntryKind::Frozen => None,
                EntryKind::Table(_) => return Err(Retry),
            };
            link(vcpu, place, word)?;
        }
    }

    /// Puts the fault's SPTE into the entry found for it.
    fn install(
        &self,
        vcpu: &mut Vcpu,
        place: Place<'_>,
        fault: &Fault,
    ) -> Result<FaultOutcome, Retry> {
        let change = match fault.access {
            Access::Read => SpteWord::touched,
            Access::Write => SpteWord::written,
        };
        if let EntryKind::Leaf(_) = place.entry.kind() {
            let updated = place.spte.update_present(change);
            return updated.map(|_| FaultOutcome::Spurious).ok_or(Retry);
        }
        let gfn = fault.mapping.level.align(fault.mapping.gfn);
        let word = SpteWord::young(gfn, fault.access, self.accessed);
        if !place.spte.replace(place.entry, Entry::new(word)) {
            return Err(Retry);
        }
        if let EntryKind::Table(table) = place.entry.kind() {
            // SAFETY: I-life: on the read side, and this thread cut the table off.
            unsafe { retire(table.cast(), &mut vcpu.retired, &mut |_| ()) };
        }
        Ok(FaultOutcome::Installed { chain_len: 1 })
    }

    /// See [`Mmu::zap`](crate::Mmu::zap).
    pub(crate) fn zap(
        &self,
        context: AgerContext<'_>,
        vcpu: &mut Vcpu,
        mapping: Mapping,
    ) -> Result<Zapped, RmapError> {
        self.check(mapping)?;
        self.shared(context, vcpu, 0, |_| {
            let target = height_of(mapping.level);
            loop {
                // SAFETY: I-life: `shared` is on the read side.
                let Place {
                    spte,
                    height,
                    entry,
                } = unsafe { self.find(mapping.gfn, target) };
                let word = match entry.kind() {
                    EntryKind::Away => return Err(RmapError::PageGivenAway(mapping)),
                    EntryKind::Leaf(word) if height == target => word,
                    _ => return Ok(Zapped::NotPresent),
                };
                if !spte.replace(entry, Entry::new(SpteWord::FROZEN)) {
                    continue;
                }
                // Here the kernel flushes TLBs.
                spte.unfreeze();
                return Ok(match word.is_young() {
                    true => Zapped::Young,
                    false => Zapped::Old,
                });
            }
        })
    }

    /// See [`Mmu::zap_collapsible`](crate::Mmu::zap_collapsible). The tables go whole.
    pub(crate) fn zap_collapsible(
        &self,
        context: AgerContext<'_>,
        vcpu: &mut Vcpu,
        range: GfnRange,
    ) -> u64 {
        let parts = || {
            let slots = self.ranges.overlapping(range);
            slots.filter_map(|part| part.whole_pages(Level::Size2M))
        };
        let pages = parts().map(|part| part.npages() / Level::Size2M.npages());
        let tables = pages.sum::<u64>() as usize;
        self.shared(context, vcpu, tables, |vcpu| {
            let huge = Level::Size2M.npages() as usize;
            let gfns = parts().flat_map(|part| (part.start.0..part.end.0).step_by(huge));
            gfns.map(|gfn| self.zap_table(vcpu, Gfn(gfn))).sum()
        })
    }

    /// Cuts the table of 4 KiB pages at `gfn` off, if there is one. On the read side.
    fn zap_table(&self, vcpu: &mut Vcpu, gfn: Gfn) -> u64 {
        let target = height_of(Level::Size2M);
        loop {
            // SAFETY: I-life: the caller is on the read side.
            let place = unsafe { self.find(gfn, target) };
            let EntryKind::Table(table) = place.entry.kind() else {
                return 0;
            };
            let frozen = Entry::new(SpteWord::FROZEN);
            if !place.spte.replace(place.entry, frozen) {
                continue;
            }
            // Here the kernel flushes TLBs.
            place.spte.unfreeze();
            let mut zapped = 0;
            let mut count = |old| zapped += u64::from(matches!(old, EntryKind::Leaf(_)));
            // SAFETY: I-life: on the read side, and this thread cut the table off.
            unsafe { retire(table.cast(), &mut vcpu.retired, &mut count) };
            return zapped;
        }
    }

    /// See [`Mmu::unmap_range`](crate::Mmu::unmap_range). Under mmu_lock held for
    /// write nobody installs, so nothing has to be frozen; the tables stay.
    pub(crate) fn unmap_range(&self, context: AgerContext<'_>, range: GfnRange) -> u64 {
        let mut zapped = 0;
        let _lock = context.mmu_lock.write();
        // SAFETY: I-life: mmu_lock is held for write.
        let _over = unsafe {
            self.walk(range, &mut |_, _, spte| {
                if spte.load().is_present() {
                    zapped += u64::from(spte.zap().is_present());
                }
                ControlFlow::Continue(())
            })
        };
        zapped
    }

    /// See [`Mmu::write_protect`](crate::Mmu::write_protect).
    pub(crate) fn write_protect(&self, context: AgerContext<'_>, range: GfnRange) -> u64 {
        let mut writable = 0;
        context.reclaim.prepare();
        let _lock = context.mmu_lock.read();
        let _side = context.reclaim.enter();
        // SAFETY: I-life: on the read side.
        let _over = unsafe {
            self.walk(range, &mut |_, _, spte| {
                let old = spte.update_present(SpteWord::write_protected);
                writable += u64::from(old.is_some_and(SpteWord::is_writable));
                ControlFlow::Continue(())
            })
        };
        writable
    }

    /// Goes down to the table that holds SPTEs of this height, making the way where
    /// there is none, and calls `edit` with the entry that leads to it. The caller
    /// holds mmu_lock for write.
    pub(super) fn parent_entry(
        &self,
        vcpu: &mut Vcpu,
        gfn: Gfn,
        height: u32,
    ) -> Result<Place<'_>, EntryKind> {
        loop {
            // SAFETY: I-life: mmu_lock is held for write.
            let place = unsafe { self.find(gfn, height + 1) };
            if place.height == height + 1 {
                return Ok(place);
            }
            let word = match place.entry.kind() {
                EntryKind::Leaf(word) => Some(word),
                EntryKind::Empty => None,
                other => return Err(other),
            };
            let _somebody_touched_it = link(vcpu, place, word);
        }
    }
}

/// Puts a new table into an entry that led to none: empty, or with the page that
/// was mapped there split over all its entries.
fn link(vcpu: &mut Vcpu, place: Place<'_>, split: Option<SpteWord>) -> Result<(), Retry> {
    let table: NonNull<TdpTable> = vcpu.tables.take().ok_or(Retry)?;
    if let Some(word) = split {
        // SAFETY: nobody else knows the table.
        unsafe { table.as_ref() }.fill_split(word, place.height - 1);
    }
    if place.spte.replace(place.entry, entry_of(table)) {
        return Ok(());
    }
    // SAFETY: it was published to nobody.
    unsafe { vcpu.tables.put_back(table) };
    Err(Retry)
}
