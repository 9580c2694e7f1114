//! loom's atomics, with every load made visible to its search.
//!
//! loom looks for histories worth exploring by remembering, for each atomic, the
//! last access only. Where one thread loads, a second loads, and the second then
//! stores, the store is compared with the second thread's own load, and the
//! history in which it comes before the first thread's load is never tried; "load,
//! then store or compare-exchange" is what every mutator here does. So each atomic
//! has a turnstile beside it, on which every load does a relaxed read-modify-write
//! first: no two loads commute any more and all orders are tried. Relaxed, and on
//! a variable of its own, it orders nothing: stale values are still read.

use loom::sync::atomic;
pub use loom::{
    hint::spin_loop,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::Ordering},
    thread::yield_now,
};

/// Wraps one of loom's atomics.
macro_rules! model_atomic {
    ($(#[$doc:meta])* $name:ident $(<$param:ident>)?, $inner:ty, $value:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name $(<$param>)? {
            value: $inner,
            turnstile: atomic::AtomicUsize,
        }

        impl $(<$param>)? $name $(<$param>)? {
            /// An atomic that holds `value`.
            #[must_use]
            #[track_caller]
            pub fn new(value: $value) -> Self {
                Self {
                    value: <$inner>::new(value),
                    turnstile: atomic::AtomicUsize::new(0),
                }
            }

            /// Reads the value.
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                self.turnstile.fetch_add(1, Ordering::Relaxed);
                self.value.load(order)
            }

            /// Overwrites the value.
            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                self.value.store(value, order);
            }

            /// Overwrites the value and returns the old one.
            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.value.swap(value, order)
            }

            /// Overwrites the value if it is `current`; otherwise returns what it is.
            ///
            /// # Errors
            /// The value was not `current`.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.value.compare_exchange(current, new, success, failure)
            }

            /// The same; in the model it does not fail spuriously.
            ///
            /// # Errors
            /// The value was not `current`.
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    };
}

model_atomic!(
    /// A pointer.
    AtomicPtr<T>, atomic::AtomicPtr<T>, *mut T
);
model_atomic!(
    /// A 32-bit number.
    AtomicU32, atomic::AtomicU32, u32
);
model_atomic!(
    /// A 64-bit number.
    AtomicU64, atomic::AtomicU64, u64
);

impl AtomicU64 {
    /// Clears the bits that are clear in `mask` and returns the old value.
    #[track_caller]
    pub fn fetch_and(&self, mask: u64, order: Ordering) -> u64 {
        self.value.fetch_and(mask, order)
    }

    /// Adds and returns the old value.
    #[track_caller]
    pub fn fetch_add(&self, n: u64, order: Ordering) -> u64 {
        self.value.fetch_add(n, order)
    }
}

/// Detects accesses that nothing keeps apart.
#[derive(Debug)]
pub struct Canary(loom::cell::UnsafeCell<()>);

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

    /// Declares that the guarded thing is freed here: nobody may read or change it
    /// from now on.
    #[track_caller]
    pub fn retire(&self) {
        self.write();
    }
}

impl Default for Canary {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the cell holds nothing; sharing it is how the checker sees the accesses.
unsafe impl Sync for Canary {}
