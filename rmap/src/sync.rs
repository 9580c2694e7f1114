//! The synchronisation primitives the crate is written against.
//!
//! Everything that threads share goes through this module, so that the same
//! source runs on the real types and under the loom model checker
//! (`RUSTFLAGS="--cfg loom"`). Another checker is another block here.
//!
//! [`Canary`] is the one addition: a zero-sized nothing in a real build, and in
//! the model an unsynchronised cell whose every access the checker compares with
//! all others. Code that claims exclusion writes or reads the canary where it
//! relies on the claim, and a scheme that breaks the claim is caught at once,
//! not only when the race happens to produce a wrong value.

#[cfg(loom)]
mod model;

#[cfg(loom)]
pub use loom::{hint::spin_loop, sync::atomic::Ordering};
#[cfg(loom)]
pub use model::{AtomicPtr, AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub use std::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

/// Detects, under the model checker only, accesses that nothing keeps apart.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub struct Canary;

#[cfg(not(loom))]
impl Canary {
    /// A canary nobody has touched.
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    /// Declares that the guarded thing is read here.
    #[inline(always)]
    pub fn read(&self) {}

    /// Declares that the guarded thing is changed here.
    #[inline(always)]
    pub fn write(&self) {}
}

/// Detects, under the model checker only, accesses that nothing keeps apart.
#[cfg(loom)]
#[derive(Debug)]
pub struct Canary(loom::cell::UnsafeCell<()>);

#[cfg(loom)]
impl Canary {
    /// A canary nobody has touched.
    #[must_use]
    pub fn new() -> Self {
        Self(loom::cell::UnsafeCell::new(()))
    }

    /// Declares that the guarded thing is read here.
    #[track_caller]
    pub fn read(&self) {
        self.0.with(|_| ());
    }

    /// Declares that the guarded thing is changed here.
    #[track_caller]
    pub fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

#[cfg(loom)]
impl Default for Canary {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the cell holds nothing; sharing it is how the checker sees the accesses.
#[cfg(loom)]
unsafe impl Sync for Canary {}
