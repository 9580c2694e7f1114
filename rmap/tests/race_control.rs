//! The negative control of ThreadSanitizer: a data race that it must report.
//!
//! `cargo xtask test --only tsan` runs it and fails if nothing is reported; all
//! other runs leave it out.
#![cfg(not(any(loom, shuttle)))]

use std::{cell::UnsafeCell, sync::Barrier, thread};

struct Unguarded(UnsafeCell<u64>);

// SAFETY: none: this is the mistake.
unsafe impl Sync for Unguarded {}

#[test]
#[ignore = "a data race, for ThreadSanitizer alone"]
fn control_a_data_race() {
    let shared = Unguarded(UnsafeCell::new(0));
    let together = Barrier::new(2);
    let count = || {
        let shared = &shared;
        together.wait();
        for _ in 0..1000 {
            // SAFETY: none: nothing keeps the two threads apart.
            unsafe { *shared.0.get() += 1 };
        }
    };
    thread::scope(|scope| {
        scope.spawn(count);
        scope.spawn(count);
    });
}
