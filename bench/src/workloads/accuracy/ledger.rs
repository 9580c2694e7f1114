//! The truth about every page: what made it young, and when.
//!
//! A fault makes a page young, and it takes effect somewhere inside the call. So
//! each is noted twice, before it begins and after it has ended. A page that was
//! made old while every fault begun on it had ended, and on which none has begun
//! since, is old for certain; if that cannot be said, nothing is claimed.
//!
//! Orderings: the note before a fault must be seen by whoever saw the fault's
//! effect, which went through mmu_lock or the SPTE's own atomic; sequential
//! consistency is the simplest that is enough, and nothing here is timed.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Notes on one VM's pages.
#[derive(Debug)]
pub(super) struct Ledger(Vec<Notes>);

#[derive(Debug, Default)]
struct Notes {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// What had happened on a page when it was made old.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    ended: u64,
}

impl Ledger {
    /// Nothing has happened yet.
    pub(super) fn new(pages: u64) -> Self {
        Self((0..pages).map(|_| Notes::default()).collect())
    }

    fn notes(&self, gfn: u64) -> &Notes {
        &self.0[gfn as usize]
    }

    /// Carries out a fault on a page, with a note before and after.
    pub(super) fn making_young<T>(&self, gfn: u64, fault: impl FnOnce() -> T) -> T {
        self.notes(gfn).begun.fetch_add(1, SeqCst);
        let result = fault();
        self.notes(gfn).ended.fetch_add(1, SeqCst);
        result
    }

    /// To be asked just before the page is made old.
    pub(super) fn before(&self, gfn: u64) -> Before {
        let ended = self.notes(gfn).ended.load(SeqCst);
        Before { ended }
    }

    /// Whether no fault can have made the page young between the moment it was
    /// made old and now.
    pub(super) fn nothing_since(&self, gfn: u64, before: Before) -> bool {
        self.notes(gfn).begun.load(SeqCst) == before.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_has_begun_leaves_nothing_certain() {
        let ledger = Ledger::new(2);
        let before = ledger.before(1);
        assert!(ledger.nothing_since(1, before));
        ledger.making_young(1, || {
            assert!(!ledger.nothing_since(1, before));
            // Made old while it was under way: it may take effect afterwards.
            assert!(!ledger.nothing_since(1, ledger.before(1)));
        });
        assert!(!ledger.nothing_since(1, before));
        assert!(ledger.nothing_since(1, ledger.before(1)));
        assert!(ledger.nothing_since(0, ledger.before(0)));
    }
}
