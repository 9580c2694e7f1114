//! Keys of the exact rung's latency histograms.

use crate::aging::CellKey;

/// Which time a histogram holds.
pub mod span {
    /// From the notifier's entry to its exit.
    pub const TOTAL: u8 = 0;
    /// From the notifier's entry to the first `kvm_age_gfn` / `kvm_test_age_gfn`.
    pub const WAIT: u8 = 1;
    /// In the TDP MMU, of callbacks that reached it.
    pub const TDP: u8 = 2;
}

/// What one latency histogram is about: one cell, one span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct HistogramKey {
    /// The cell whose callbacks these are.
    pub cell: CellKey,
    /// One of [`span`].
    pub span: u8,
    /// Always 0.
    pub zero: [u8; 7],
}

const _: () = assert!(size_of::<HistogramKey>() == 16);
