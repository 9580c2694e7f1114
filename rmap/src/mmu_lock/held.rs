//! Whether this thread holds an mmu_lock, as lockdep would know it.
//!
//! Kept with debug assertions only, for the test that nothing is allocated under the
//! lock; a release build counts nothing. Under the model checkers threads are not the
//! system's, and there is none of this.

#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod counted {
    use std::cell::Cell;

    thread_local! {
        static LOCKS: Cell<u32> = const { Cell::new(0) };
    }

    /// This thread holds an mmu_lock, for read or for write.
    #[must_use]
    pub fn is_held_here() -> bool {
        LOCKS.with(|locks| locks.get() > 0)
    }

    /// Part of each guard.
    #[derive(Debug)]
    pub(crate) struct Held(());

    impl Held {
        pub(crate) fn new() -> Self {
            LOCKS.with(|locks| locks.set(locks.get() + 1));
            Self(())
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            LOCKS.with(|locks| locks.set(locks.get() - 1));
        }
    }
}

#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
mod nothing {
    /// Part of each guard.
    #[derive(Debug)]
    pub(crate) struct Held;

    impl Held {
        #[inline(always)]
        pub(crate) fn new() -> Self {
            Self
        }
    }
}

#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
pub(super) use counted::Held;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
pub use counted::is_held_here;
#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
pub(super) use nothing::Held;
