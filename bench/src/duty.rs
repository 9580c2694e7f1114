//! Who is still at work, told by those who go however they go.
//!
//! Threads of which some have to go on until the others are done share a [`Roster`].
//! Whoever is waited for is [on duty](OnDuty) until that is dropped, by an error or a
//! panic as well, so nobody goes on for ever. Invariant: what one did on duty happened
//! before [`Roster::is_empty`] says so.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts those who are on duty.
#[derive(Debug, Default)]
pub struct Roster(AtomicUsize);

/// Being on duty; dropping it ends that.
#[must_use]
#[derive(Debug)]
pub struct OnDuty<'a>(&'a Roster);

impl Roster {
    /// One more on duty. Join before those who look at the roster begin to.
    pub fn join(&self) -> OnDuty<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        OnDuty(self)
    }

    /// Whether nobody is on duty.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

impl Drop for OnDuty<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_is_empty_when_the_last_has_gone_however_it_went() {
        let roster = Roster::default();
        assert!(roster.is_empty());
        let (one, other) = (roster.join(), roster.join());
        assert!(!roster.is_empty());
        drop(one);
        assert!(!roster.is_empty());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _on_duty = other;
            panic!("on purpose");
        }));
        assert!(outcome.is_err() && roster.is_empty());
    }
}
