//! Which lock mmu_lock is in every MMU of this process.
//!
//! A run compares schemes under one lock; it is chosen once, before the first MMU is
//! built, and written into the result's context. Cells do not carry it along.

use std::sync::OnceLock;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use rmap::{LockKind, MmuConfig};

static CHOSEN: OnceLock<LockKind> = OnceLock::new();

/// Reads a lock's name on a command line, whose help lists them all.
#[must_use]
pub fn named() -> impl TypedValueParser<Value = LockKind> {
    PossibleValuesParser::new(LockKind::ALL.map(LockKind::name)).try_map(|name| name.parse())
}

/// Chooses the lock. Only the first choice counts: call it before MMUs are built.
pub fn choose(kind: LockKind) {
    CHOSEN.get_or_init(|| kind);
}

/// The lock chosen; the default one if none was.
#[must_use]
pub fn chosen() -> LockKind {
    CHOSEN.get().copied().unwrap_or_default()
}

/// One memslot of `npages` pages from gfn 0 on, with the lock chosen.
#[must_use]
pub fn config(npages: u64, aliases: u32) -> MmuConfig {
    MmuConfig::new(rmap::Gfn(0), npages, aliases).with_lock(chosen())
}
