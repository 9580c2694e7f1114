//! One 8-byte word that holds a number or a pointer with tags.
//!
//! A page-table entry is both: a leaf is a number, an entry that leads to another
//! table is that table's address. In a real build the word is a pointer all the
//! time, so that an address read from it may be followed (strict provenance).
//! Checkers have no atomic AND on pointers; there the word is a number, and
//! provenance is exposed, which changes nothing of what they check.

use super::Ordering;

#[cfg(not(any(loom, shuttle)))]
type Inner = std::sync::atomic::AtomicPtr<()>;
#[cfg(any(loom, shuttle))]
type Inner = super::AtomicU64;

/// The word.
#[derive(Debug)]
#[repr(transparent)]
pub struct AtomicWord(Inner);

#[cfg(not(any(loom, shuttle)))]
#[inline(always)]
fn encode(value: *mut ()) -> *mut () {
    value
}

#[cfg(not(any(loom, shuttle)))]
#[inline(always)]
fn decode(value: *mut ()) -> *mut () {
    value
}

#[cfg(any(loom, shuttle))]
fn encode(value: *mut ()) -> u64 {
    value.expose_provenance() as u64
}

#[cfg(any(loom, shuttle))]
fn decode(value: u64) -> *mut () {
    std::ptr::with_exposed_provenance_mut(value as usize)
}

impl AtomicWord {
    /// A word that holds `value`.
    #[must_use]
    pub fn new(value: *mut ()) -> Self {
        Self(Inner::new(encode(value)))
    }

    /// Reads the word.
    #[inline]
    pub fn load(&self, order: Ordering) -> *mut () {
        decode(self.0.load(order))
    }

    /// Overwrites the word.
    #[inline]
    pub fn store(&self, value: *mut (), order: Ordering) {
        self.0.store(encode(value), order);
    }

    /// Overwrites the word and returns the old one.
    #[inline]
    pub fn swap(&self, value: *mut (), order: Ordering) -> *mut () {
        decode(self.0.swap(encode(value), order))
    }

    /// Overwrites the word if it is `current`; otherwise returns what it is.
    ///
    /// # Errors
    /// The word was not `current`.
    #[inline]
    pub fn compare_exchange(
        &self,
        current: *mut (),
        new: *mut (),
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut (), *mut ()> {
        let result = self
            .0
            .compare_exchange(encode(current), encode(new), success, failure);
        result.map(decode).map_err(decode)
    }

    /// The same, and it may fail although the word was `current`.
    ///
    /// # Errors
    /// The word was not `current`, or the machine gave up.
    #[inline]
    pub fn compare_exchange_weak(
        &self,
        current: *mut (),
        new: *mut (),
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut (), *mut ()> {
        let result = self
            .0
            .compare_exchange_weak(encode(current), encode(new), success, failure);
        result.map(decode).map_err(decode)
    }

    /// Clears the bits that are clear in `mask`.
    #[inline]
    pub fn and(&self, mask: usize, order: Ordering) {
        #[cfg(not(any(loom, shuttle)))]
        self.0.fetch_and(mask, order);
        #[cfg(any(loom, shuttle))]
        self.0.fetch_and(mask as u64, order);
    }
}
