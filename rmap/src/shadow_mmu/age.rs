//! The aging callbacks, and what they do with an SPTE.

use std::ops::ControlFlow;

use super::ShadowMmu;
use crate::{
    gfn::{GfnRange, Level},
    mmu::Aging,
    scheme::{AgeOp, Scheme},
    schemes::rwlock_write::RwlockWrite,
    spte::Spte,
    tiered_mmu::Callback,
};

/// Looks for a young SPTE and stops at the first.
#[derive(Default)]
pub(crate) struct TestYoung {
    pub(crate) young: bool,
}

impl AgeOp for TestYoung {
    #[inline]
    fn visit(&mut self, spte: &Spte) -> ControlFlow<()> {
        if !spte.load().is_young() {
            return ControlFlow::Continue(());
        }
        self.young = true;
        ControlFlow::Break(())
    }

    /// A blind read: at worst a zapped page counts as young.
    #[inline]
    fn visit_rechecked(&mut self, spte: &Spte, _: impl FnOnce() -> bool) -> ControlFlow<()> {
        self.visit(spte)
    }
}

/// Makes every SPTE old and remembers whether one was young.
#[derive(Default)]
pub(crate) struct ClearYoung {
    pub(crate) young: bool,
}

impl AgeOp for ClearYoung {
    #[inline]
    fn visit(&mut self, spte: &Spte) -> ControlFlow<()> {
        self.young |= spte.clear_young();
        ControlFlow::Continue(())
    }

    #[inline]
    fn visit_rechecked(
        &mut self,
        spte: &Spte,
        still_mapped: impl FnOnce() -> bool,
    ) -> ControlFlow<()> {
        self.young |= spte.clear_young_rechecked(still_mapped);
        ControlFlow::Continue(())
    }
}

impl<S: Scheme> ShadowMmu<S> {
    /// Ages the range walking as scheme `W` does.
    #[inline]
    pub(super) fn age_as<W: Scheme>(&self, range: GfnRange) -> Aging {
        let mut op = ClearYoung::default();
        let fast = self.age_range::<W>(range, &mut op);
        Aging {
            young: op.young,
            fast,
        }
    }

    /// Looks at the range walking as scheme `W` does.
    #[inline]
    pub(super) fn test_age_as<W: Scheme>(&self, range: GfnRange) -> Aging {
        let mut op = TestYoung::default();
        let fast = self.age_range::<W>(range, &mut op);
        Aging {
            young: op.young,
            fast,
        }
    }

    /// Asks every rmap of the range with mmu_lock held for write, which keeps every
    /// scheme's mutators out.
    pub(crate) fn ask_locked(&self, range: GfnRange, callback: Callback) -> Aging {
        match callback {
            Callback::Age => self.age_as::<RwlockWrite>(range),
            Callback::TestAge => self.test_age_as::<RwlockWrite>(range),
        }
    }

    /// SPTEs present in shadow pages, counted one by one with mmu_lock held for write.
    pub(crate) fn present_sptes(&self) -> u64 {
        let _guard = self.mmu_lock.write();
        let levels = |slot| Level::ALL.map(|level| (slot, level));
        let sptes = self.slots.iter().flat_map(levels);
        let sptes = sptes.flat_map(|(slot, level)| slot.sptes(slot.range(), level));
        sptes.filter(|(_, spte)| spte.load().is_present()).count() as u64
    }
}
