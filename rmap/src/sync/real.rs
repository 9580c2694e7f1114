//! The real types, and a canary that costs nothing.

pub use std::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
    thread::yield_now,
};

/// Detects, under the model checkers only, accesses that nothing keeps apart.
#[derive(Debug, Default)]
pub struct Canary;

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

    /// Declares that the guarded thing is freed here: nobody may read or change it
    /// from now on.
    #[inline(always)]
    pub fn retire(&self) {}
}
