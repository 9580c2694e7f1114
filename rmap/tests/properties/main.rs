//! Every scheme against a plain map, over random sequences of all operations.
//!
//! One thread: what is checked here is that the answers are right. What may happen
//! at the same time is the model checker's business.
#![cfg(not(any(loom, shuttle)))]

mod aging;
mod fixed;
mod lookaround;
mod ops;
mod oracle;
mod pair;

use pair::Pair;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rmap::{AccessedBits, LockKind};

/// Sequences for each scheme and kind of Accessed bit, unless `PROPTEST_CASES` says
/// otherwise.
const CASES: u32 = if cfg!(debug_assertions) { 20 } else { 128 };

/// The longest sequence; the interpreter is a thousand times slower.
const OPS: usize = if cfg!(miri) { 16 } else { 80 };

/// The share of MMUs with a slot large enough for a huge page, which take ten times as
/// long to verify after each operation.
const WIDE: f64 = 0.25;

fn config() -> Config {
    let given = Config::default();
    let is_given = std::env::var_os("PROPTEST_CASES").is_some();
    Config {
        cases: if is_given { given.cases } else { CASES },
        failure_persistence: None,
        ..given
    }
}

fn every_scheme(accessed: AccessedBits, lock: LockKind) {
    for scheme in rmap::schemes().iter().chain(rmap::ablations()) {
        let wide = prop::bool::weighted(WIDE);
        let ops = prop::collection::vec(ops::op(), 0..OPS);
        let result = TestRunner::new(config()).run(&(wide, ops), |(wide, ops)| {
            let mut pair = Pair::new(scheme, accessed, lock, wide);
            ops.iter().try_for_each(|op| pair.apply(op))
        });
        if let Err(error) = result {
            panic!("{}: {error}", scheme.name);
        }
    }
}

#[test]
fn i_chain_i_bit_and_i_young_with_ad_bits() {
    every_scheme(AccessedBits::AD, LockKind::ParkingLot);
}

#[test]
fn i_chain_i_bit_and_i_young_with_access_tracking() {
    every_scheme(AccessedBits::AccessTracking, LockKind::Std);
}
