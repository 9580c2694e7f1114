//! shuttle's types: every access is a point at which another thread may go on.
//!
//! All orderings are sequentially consistent here, so what this finds are wrong
//! protocols and not missing barriers. A thread is at one place at a time and no
//! two accesses are ever simultaneous: reading and writing a canary say nothing.
//! Reading it after it was retired does.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub use shuttle::{
    hint::spin_loop,
    sync::{
        RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
    },
    thread::yield_now,
};

/// Detects accesses to what was freed.
#[derive(Debug, Default)]
pub struct Canary {
    /// Of the standard library: noting it is not a step of the history.
    retired: AtomicBool,
}

impl Canary {
    /// A canary nobody has touched.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares that the guarded thing is read here.
    ///
    /// # Panics
    /// It was freed: I-life is broken.
    #[track_caller]
    pub fn read(&self) {
        assert!(
            !self.retired.load(Relaxed),
            "I-life: something freed was used"
        );
    }

    /// Declares that the guarded thing is changed here.
    ///
    /// # Panics
    /// It was freed: I-life is broken.
    #[track_caller]
    pub fn write(&self) {
        self.read();
    }

    /// Declares that the guarded thing is freed here.
    ///
    /// # Panics
    /// It was freed already: I-life is broken.
    #[track_caller]
    pub fn retire(&self) {
        self.read();
        self.retired.store(true, Relaxed);
    }
}
