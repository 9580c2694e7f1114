//! Types shared by rmapscope's eBPF programs and its user space.
//!
//! Everything here crosses the boundary between the two as plain memory: maps
//! values, ring buffer entries and read-only globals. Invariants:
//!
//! - every shared struct is `repr(C)`, holds only integers, and has no padding
//!   that either side could see uninitialised;
//! - user space never interprets a value whose meaning is not defined here.
//!
//! The crate is `no_std` and free of dependencies on the kernel side; the
//! feature `user` adds the `aya::Pod` markers for user space.
#![no_std]

pub mod aging;
pub mod census;
pub mod event;
pub mod exact;
pub mod head;
pub mod histogram;
pub mod interference;
pub mod intervals;
pub mod members;
pub mod symbols;
pub mod tables;

#[cfg(feature = "user")]
mod pod {
    use crate::{aging, census, event, exact, histogram, interference, intervals, symbols, tables};

    macro_rules! pod {
        ($($name:ty),* $(,)?) => {
            $(
                // SAFETY: `repr(C)`, integers only, no padding (asserted beside
                // each type), valid for every bit pattern.
                unsafe impl aya::Pod for $name {}
            )*
        };
    }

    pod!(
        aging::CellKey,
        aging::Cell,
        aging::Totals,
        census::Vm,
        census::Slot,
        census::Enumeration,
        census::ScanRequest,
        census::ScanResult,
        event::Event,
        exact::HistogramKey,
        exact::VmAt,
        histogram::Histogram,
        interference::InterferenceKey,
        intervals::Interval,
        intervals::Table,
        symbols::TextRange,
        tables::WalkRequest,
        tables::WalkResult,
    );
}
