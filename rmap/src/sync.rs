//! The synchronisation primitives the crate is written against.
//!
//! Everything that threads share goes through this module, so that the same
//! source runs on the real types, under the loom model checker
//! (`RUSTFLAGS="--cfg loom"`: all short histories, weak memory) and under the
//! shuttle scheduler (`RUSTFLAGS="--cfg shuttle"`: long random histories,
//! sequentially consistent). Another checker is another block here.
//!
//! [`Canary`] is the one addition: a zero-sized nothing in a real build. Code that
//! claims exclusion writes or reads the canary where it relies on the claim, and
//! retires it where something is freed. loom compares every access with all
//! others, so a scheme that breaks the claim is caught at once, not only when the
//! race happens to produce a wrong value; shuttle catches reads of what was freed.

#[cfg(loom)]
mod model;
#[cfg(not(any(loom, shuttle)))]
mod real;
#[cfg(shuttle)]
mod schedule;
mod word;

#[cfg(loom)]
pub use model::{
    AtomicPtr, AtomicU32, AtomicU64, Canary, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard,
    spin_loop, yield_now,
};
#[cfg(not(any(loom, shuttle)))]
pub use real::{AtomicPtr, AtomicU32, AtomicU64, Canary, Ordering, spin_loop, yield_now};
#[cfg(shuttle)]
pub use schedule::{
    AtomicPtr, AtomicU32, AtomicU64, Canary, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard,
    spin_loop, yield_now,
};
pub use word::AtomicWord;
