//! The tree of page tables: lock-free walks, and how tables leave.
//!
//! **I-frozen**: a frozen entry is changed by nobody but the one who froze it, and a
//! table that was cut off is frozen throughout, so that nothing can be installed in
//! it any more. **I-life**: a table that was cut off is freed when every read side
//! entered before that was left.
//!
//! Called by the [faults and zaps](super::fault) of the TDP MMU; agers come in by
//! [`Tdp::walk`].

use std::{marker::PhantomData, ops::ControlFlow, ptr::NonNull};

use super::table::{MAX_GFN, ROOT_HEIGHT, TdpTable};
use crate::{
    config::{AccessedBits, MmuConfig},
    error::RmapError,
    gfn::{Gfn, GfnRange, LEVEL_SHIFT, Level, Mapping},
    ranges::SlotRanges,
    reclaim::{Garbage, Retired},
    scheme::{AgerContext, FreePolicy},
    spte::{Entry, EntryKind, Spte, SpteWord},
    sync::spin_loop,
    vcpu::Vcpu,
};

/// The rules of the TDP MMU that a negative control may break.
///
/// # Safety
/// **I-life** holds with the defaults and no other way.
pub unsafe trait Rules: Send + Sync + 'static {
    /// When a table that was cut off is freed.
    const FREE: FreePolicy = FreePolicy::AfterReaders;
    /// Whether faults leave frozen entries alone.
    const HONOUR_FROZEN: bool = true;
}

/// The rules as they are.
#[derive(Debug)]
pub enum AsKvm {}

// SAFETY: the defaults.
unsafe impl Rules for AsKvm {}

/// One VM's TDP page tables.
#[derive(Debug)]
pub(crate) struct Tdp<R> {
    pub(super) ranges: SlotRanges,
    pub(super) accessed: AccessedBits,
    root: Box<TdpTable>,
    rules: PhantomData<R>,
}

/// An entry somebody looked for.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) spte: &'a Spte,
    pub(super) height: u32,
    pub(super) entry: Entry,
}

/// The level whose pages the entries of a table of this height can map.
pub(super) fn level_at(height: u32) -> Option<Level> {
    Level::ALL.get(height as usize).copied()
}

/// Height of the tables whose entries map pages of this level.
pub(super) fn height_of(level: Level) -> u32 {
    level.index() as u32
}

impl<R: Rules> Tdp<R> {
    /// Tables without mappings.
    ///
    /// # Errors
    /// The configuration is contradictory, or a slot ends beyond what four levels of
    /// tables can map.
    pub(crate) fn new(config: &MmuConfig) -> Result<Self, RmapError> {
        Ok(Self {
            ranges: SlotRanges::new(config, MAX_GFN)?,
            accessed: config.accessed,
            root: Box::default(),
            rules: PhantomData,
        })
    }

    /// Checks that `mapping` can exist here.
    #[inline]
    pub(super) fn check(&self, mapping: Mapping) -> Result<(), RmapError> {
        self.ranges.check(mapping.gfn)?;
        match mapping.alias {
            0 => Ok(()),
            alias => Err(RmapError::NoSuchAlias { alias, aliases: 1 }),
        }
    }

    /// The root.
    pub(super) fn root(&self) -> &TdpTable {
        &self.root
    }

    /// Goes down towards `gfn` as far as `height`, or to the first entry on the way
    /// that leads to no table.
    ///
    /// # Safety
    /// **I-life**: the caller is on the read side as long as it uses the result, or
    /// holds mmu_lock for write.
    #[inline]
    pub(super) unsafe fn find(&self, gfn: Gfn, height: u32) -> Place<'_> {
        let mut table = self.root();
        let mut at = ROOT_HEIGHT;
        loop {
            table.life.read();
            let spte = table.spte(gfn, at);
            let entry = spte.load_entry();
            match entry.kind() {
                EntryKind::Table(next) if at > height => {
                    // SAFETY: I-life, from the caller.
                    table = unsafe { next.cast().as_ref() };
                    at -= 1;
                }
                _ => {
                    return Place {
                        spte,
                        height: at,
                        entry,
                    };
                }
            }
        }
    }

    /// Calls `visit` for every entry that may map gfns of `range`, in gfn order, with
    /// the first gfn of its page and its height. Entries of the lowest tables come as
    /// they are, mapped or not, so that a walk reads each only once.
    ///
    /// # Safety
    /// As for [`find`](Self::find).
    #[inline]
    pub(crate) unsafe fn walk(
        &self,
        range: GfnRange,
        visit: &mut impl FnMut(Gfn, u32, &Spte) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // SAFETY: from the caller.
        self.ranges
            .overlapping(range)
            .try_for_each(|part| unsafe { walk_table(self.root(), ROOT_HEIGHT, part, visit) })
    }

    /// Hands what a mutation cut off over. The caller holds no lock.
    pub(super) fn hand_over(context: AgerContext<'_>, vcpu: &mut Vcpu) {
        for garbage in vcpu.retired.drain() {
            // SAFETY: I-life: the table cannot be reached from the root any more, and
            // the rules say that this policy then is enough.
            unsafe {
                match R::FREE {
                    FreePolicy::Now => context.reclaim.free_now(garbage, &mut vcpu.cache),
                    FreePolicy::AfterReaders => context.reclaim.defer(garbage),
                }
            }
        }
    }
}

/// The part of [`Tdp::walk`] below one table.
///
/// # Safety
/// As for [`Tdp::find`].
#[inline]
unsafe fn walk_table(
    table: &TdpTable,
    height: u32,
    range: GfnRange,
    visit: &mut impl FnMut(Gfn, u32, &Spte) -> ControlFlow<()>,
) -> ControlFlow<()> {
    table.life.read();
    let mut entries = table.overlapping(range, height);
    if height == 0 {
        return entries.try_for_each(|(gfn, spte)| visit(gfn, 0, spte));
    }
    entries.try_for_each(|(gfn, spte)| {
        let mut kind = spte.load_entry().kind();
        if matches!(kind, EntryKind::Leaf(_)) {
            visit(gfn, height, spte)?;
            // It may have been split before the visit: then its parts are below.
            kind = spte.load_entry().kind();
        }
        let EntryKind::Table(next) = kind else {
            return ControlFlow::Continue(());
        };
        let below = GfnRange::pages(gfn, 1 << (height * LEVEL_SHIFT));
        let Some(part) = range.intersection(&below) else {
            return ControlFlow::Continue(());
        };
        // SAFETY: I-life, from the caller.
        unsafe { walk_lower(next.cast(), height - 1, part, visit) }
    })
}

/// [`walk_table`] out of line, so that it can call itself.
///
/// # Safety
/// As for [`Tdp::find`], and the table is one of the tree's.
unsafe fn walk_lower(
    table: NonNull<TdpTable>,
    height: u32,
    range: GfnRange,
    visit: &mut impl FnMut(Gfn, u32, &Spte) -> ControlFlow<()>,
) -> ControlFlow<()> {
    // SAFETY: from the caller.
    unsafe { walk_table(table.as_ref(), height, range, visit) }
}

/// Freezes every entry of a table that was just cut off, tells `each` what they were,
/// and retires all tables below.
///
/// Somebody who came in before may be halfway through a zap; his frozen entry is
/// waited for, or his emptying it would thaw it here.
///
/// # Safety
/// **I-life**: as for [`Tdp::find`], and the caller has cut the table off himself.
pub(super) unsafe fn freeze_all(
    table: &TdpTable,
    retired: &mut Retired,
    each: &mut impl FnMut(EntryKind),
) {
    table.life.read();
    for spte in table.sptes() {
        let old = freeze(spte);
        if let EntryKind::Table(below) = old {
            // SAFETY: I-life: the frozen entry was the one way to it.
            unsafe { retire_below(below.cast(), retired) };
        }
        each(old);
    }
}

/// [`retire`] for the tables below one that was cut off.
///
/// # Safety
/// As for [`retire`].
unsafe fn retire_below(table: NonNull<TdpTable>, retired: &mut Retired) {
    // SAFETY: from the caller.
    unsafe { retire(table, retired, &mut |_| ()) };
}

/// [`freeze_all`], and retires the table too.
///
/// # Safety
/// As for [`freeze_all`], and nobody else retires the table.
pub(super) unsafe fn retire(
    table: NonNull<TdpTable>,
    retired: &mut Retired,
    each: &mut impl FnMut(EntryKind),
) {
    // SAFETY: from the caller.
    unsafe { freeze_all(table.as_ref(), retired, each) };
    retired.push(Garbage::Table(table));
}

/// Freezes one entry and returns what it was.
fn freeze(spte: &Spte) -> EntryKind {
    let frozen = Entry::new(SpteWord::FROZEN);
    loop {
        let old = spte.swap_entry(frozen);
        if old != frozen {
            return old.kind();
        }
        spin_loop();
    }
}

impl<R> Drop for Tdp<R> {
    fn drop(&mut self) {
        // A model that failed is being unwound: its cells can no longer be used.
        if !std::thread::panicking() {
            free_below(&self.root);
        }
    }
}

/// Frees all tables below one that nobody else has any more.
fn free_below(table: &TdpTable) {
    for spte in table.sptes() {
        if let EntryKind::Table(below) = spte.load_entry().kind() {
            // SAFETY: I-life: nobody else has the MMU any more; tables come from
            // leaked boxes.
            let below = unsafe { Box::from_raw(below.cast::<TdpTable>().as_ptr()) };
            free_below(&below);
        }
    }
}
