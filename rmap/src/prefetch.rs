//! Asking the cache for what will be read soon.
//!
//! A hint without meaning to the program: it reads nothing, faults on nothing, and
//! may be given for any address, also one that has become free. Used by walks
//! that know several addresses ahead.

/// Asks for the cache line at `place`. Does nothing where there is no such
/// instruction, and under the checkers, which have no caches.
#[inline(always)]
pub(crate) fn prefetch<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    // SAFETY: PREFETCHT0 is part of x86-64 and never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    let _ = place;
}
