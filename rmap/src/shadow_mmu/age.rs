//! What the two aging callbacks do with an SPTE.

use std::ops::ControlFlow;

use crate::{scheme::AgeOp, spte::Spte};

/// Looks for a young SPTE and stops at the first.
#[derive(Default)]
pub(super) struct TestYoung {
    pub(super) young: bool,
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
pub(super) struct ClearYoung {
    pub(super) young: bool,
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
