//! The check of I-frozen and of the tree's shape, at rest.

use super::{
    table::{ROOT_HEIGHT, TdpTable},
    tree::{Rules, Tdp, level_at},
};
use crate::{
    error::Violation,
    gfn::{Gfn, LEVEL_SHIFT, Mapping},
    scheme::AgerContext,
    spte::EntryKind,
};

impl<R: Rules> Tdp<R> {
    /// See [`Mmu::verify`](crate::Mmu::verify).
    pub(crate) fn verify(&self, context: AgerContext<'_>) -> Result<(), Violation> {
        let _lock = context.mmu_lock.write();
        check(self.root(), ROOT_HEIGHT, Gfn(0))
    }
}

/// Checks a table and all below. The caller holds mmu_lock for write.
fn check(table: &TdpTable, height: u32, first: Gfn) -> Result<(), Violation> {
    table.life.read();
    for (spte, index) in table.sptes().iter().zip(0..) {
        let gfn = Gfn(first.0 + (index << (height * LEVEL_SHIFT)));
        match spte.load_entry().kind() {
            EntryKind::Empty | EntryKind::Away => {}
            EntryKind::Frozen => return Err(Violation::FrozenLeft { gfn, height }),
            EntryKind::Leaf(word) => match level_at(height) {
                Some(_) if word.gfn() == gfn => {}
                Some(level) => return Err(Violation::WrongPage(Mapping::new(gfn, level, 0))),
                None => return Err(Violation::BadEntry { gfn, height }),
            },
            EntryKind::Table(_) if height == 0 => return Err(Violation::BadEntry { gfn, height }),
            EntryKind::Table(below) => {
                // SAFETY: I-life: mmu_lock is held for write, so what the tree leads to
                // stays.
                check(unsafe { below.cast().as_ref() }, height - 1, gfn)?;
            }
        }
    }
    Ok(())
}
