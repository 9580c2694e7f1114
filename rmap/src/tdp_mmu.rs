//! The TDP MMU: no rmaps, but one tree of page tables that is walked without a lock.
//!
//! With two-dimensional paging the tables map guest physical addresses, so a gfn has
//! one place in them and at most one SPTE, and aging simply walks the tables down to
//! it. Walkers hold nothing but a read side; what keeps them safe:
//!
//! * **I-life**: a table is cut off first, and freed when every read side entered
//!   before that was left. Nobody waits for that with mmu_lock held.
//! * **I-frozen**: an entry that is being zapped holds a *frozen* value, which nobody
//!   else overwrites, and every entry of a table that was cut off stays frozen, so
//!   that a fault which is still inside it installs nothing there.
//! * **I-zap**: all changes are atomic and none of those agers make touches a frozen
//!   entry, an empty one or one that leads to a table.
//!
//! A fault of a larger page over a table replaces the table; a fault of a smaller
//! page under a large one splits the large one over a new table, as KVM does.

mod fault;
mod pages;
mod table;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod tree;
mod verify;

use std::ops::ControlFlow;

pub(crate) use table::OwnedTable;
pub use table::{MAX_GFN, TableCache, TdpTable};
pub(crate) use tree::Tdp;
pub use tree::{AsKvm, Rules};

use crate::{
    config::MmuConfig,
    error::{RmapError, Violation},
    gfn::{Gfn, GfnRange, Level, Mapping},
    memslot::draw_permille,
    mmu::{Access, Aging, FaultOutcome, GivenPage, Mmu, Zapped},
    mmu_lock::MmuLock,
    reclaim::Reclaim,
    scheme::{AgeOp, AgerContext},
    shadow_mmu::age::{ClearYoung, TestYoung},
    spte::{EntryKind, SpteWord},
    vcpu::Vcpu,
};

/// A VM whose one MMU is the TDP MMU.
#[derive(Debug)]
pub struct TdpMmu<R = AsKvm> {
    mmu_lock: MmuLock,
    reclaim: Reclaim,
    tdp: Tdp<R>,
}

impl<R: Rules> TdpMmu<R> {
    /// An MMU without mappings.
    ///
    /// # Errors
    /// The configuration is contradictory, or a memslot ends beyond [`MAX_GFN`].
    pub fn new(config: &MmuConfig) -> Result<Self, RmapError> {
        Ok(Self {
            mmu_lock: MmuLock::new(config.lock),
            reclaim: Reclaim::new(),
            tdp: Tdp::new(config)?,
        })
    }

    /// [`new`](Self::new), as the registry wants it.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn boxed(config: &MmuConfig) -> Result<Box<dyn Mmu>, RmapError> {
        Ok(Box::new(Self::new(config)?))
    }

    fn context(&self) -> AgerContext<'_> {
        AgerContext {
            mmu_lock: &self.mmu_lock,
            reclaim: &self.reclaim,
        }
    }
}

impl<R: Rules> Tdp<R> {
    /// Runs `op` on every SPTE of the range, without a lock, on the read side.
    #[inline]
    fn age_with(&self, context: AgerContext<'_>, range: GfnRange, op: &mut impl AgeOp) {
        let _side = context.reclaim.enter();
        // SAFETY: I-life: on the read side.
        let _over = unsafe { self.walk(range, &mut |_, _, spte| op.visit(spte)) };
    }

    /// Makes the range's SPTEs old and says whether one was young.
    #[inline]
    pub(crate) fn age(&self, context: AgerContext<'_>, range: GfnRange) -> bool {
        let mut op = ClearYoung::default();
        self.age_with(context, range, &mut op);
        op.young
    }

    /// Says whether one of the range's SPTEs is young.
    #[inline]
    pub(crate) fn test_age(&self, context: AgerContext<'_>, range: GfnRange) -> bool {
        let mut op = TestYoung::default();
        self.age_with(context, range, &mut op);
        op.young
    }

    /// See [`Mmu::touch`].
    pub(crate) fn touch(&self, context: AgerContext<'_>, mapping: Mapping) -> bool {
        if self.check(mapping).is_err() {
            return false;
        }
        let target = tree::height_of(mapping.level);
        let _side = context.reclaim.enter();
        // SAFETY: I-life: on the read side.
        let place = unsafe { self.find(mapping.gfn, target) };
        place.height == target && place.spte.update_present(SpteWord::touched).is_some()
    }

    /// 1 if an SPTE maps `gfn` at `level`, 0 if not.
    ///
    /// # Errors
    /// The gfn is in no memslot.
    pub(crate) fn mapped(
        &self,
        context: AgerContext<'_>,
        gfn: Gfn,
        level: Level,
    ) -> Result<u32, RmapError> {
        self.ranges.check(gfn)?;
        let target = tree::height_of(level);
        let _side = context.reclaim.enter();
        // SAFETY: I-life: on the read side.
        let place = unsafe { self.find(gfn, target) };
        let leaf = matches!(place.entry.kind(), EntryKind::Leaf(_));
        Ok(u32::from(leaf && place.height == target))
    }

    /// See [`Mmu::set_young_share`].
    pub(crate) fn set_young_share(
        &self,
        context: AgerContext<'_>,
        range: GfnRange,
        young_permille: u16,
        seed: u64,
    ) {
        let _lock = context.mmu_lock.write();
        // SAFETY: I-life: mmu_lock is held for write.
        let _over = unsafe {
            self.walk(range, &mut |gfn, height, spte| {
                if let Some(level) = tree::level_at(height) {
                    let mapping = Mapping::new(gfn, level, 0);
                    let young = draw_permille(mapping, seed) < young_permille;
                    let change = if young {
                        SpteWord::touched
                    } else {
                        SpteWord::aged
                    };
                    spte.update_present(change);
                }
                ControlFlow::Continue(())
            })
        };
    }
}

impl<R: Rules> Mmu for TdpMmu<R> {
    fn fault(
        &self,
        vcpu: &mut Vcpu,
        mapping: Mapping,
        access: Access,
    ) -> Result<FaultOutcome, RmapError> {
        self.tdp.fault(self.context(), vcpu, mapping, access)
    }

    fn zap(&self, vcpu: &mut Vcpu, mapping: Mapping) -> Result<Zapped, RmapError> {
        self.tdp.zap(self.context(), vcpu, mapping)
    }

    fn unmap_range(&self, _: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError> {
        Ok(self.tdp.unmap_range(self.context(), range))
    }

    fn age(&self, range: GfnRange) -> Aging {
        Aging {
            young: self.tdp.age(self.context(), range),
            fast: true,
        }
    }

    fn test_age(&self, range: GfnRange) -> Aging {
        Aging {
            young: self.tdp.test_age(self.context(), range),
            fast: true,
        }
    }

    fn touch(&self, mapping: Mapping) -> bool {
        self.tdp.touch(self.context(), mapping)
    }

    fn write_protect(&self, range: GfnRange) -> u64 {
        self.tdp.write_protect(self.context(), range)
    }

    fn zap_collapsible(&self, vcpu: &mut Vcpu, range: GfnRange) -> Result<u64, RmapError> {
        Ok(self.tdp.zap_collapsible(self.context(), vcpu, range))
    }

    fn give_page_away(&self, vcpu: &mut Vcpu, mapping: Mapping) -> Result<GivenPage, RmapError> {
        self.tdp.give_away(self.context(), vcpu, mapping)
    }

    fn take_page_back(&self, page: GivenPage) -> usize {
        self.tdp.take_back(self.context(), &page)
    }

    fn chain_len(&self, gfn: Gfn, level: Level) -> Result<u32, RmapError> {
        self.tdp.mapped(self.context(), gfn, level)
    }

    fn set_young_share(&self, range: GfnRange, young_permille: u16, seed: u64) {
        self.tdp
            .set_young_share(self.context(), range, young_permille, seed);
    }

    fn deferred_descs(&self) -> usize {
        self.reclaim.deferred_descs()
    }

    fn deferred_tables(&self) -> usize {
        self.reclaim.deferred_tables()
    }

    fn verify(&self) -> Result<(), Violation> {
        self.tdp.verify(self.context())
    }
}
