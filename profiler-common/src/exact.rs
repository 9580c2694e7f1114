//! Keys of the exact rung's latency histograms.

/// Which time a histogram holds.
pub mod span {
    /// From the notifier's entry to its exit.
    pub const TOTAL: u8 = 0;
    /// From the notifier's entry to the first `kvm_age_gfn` / `kvm_test_age_gfn`.
    pub const WAIT: u8 = 1;
    /// From there to the notifier's exit.
    pub const WALK: u8 = 2;
}

/// What one latency histogram is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct HistogramKey {
    /// Number of the VM in this recording, or [`crate::aging::NO_VM`].
    pub vm: u16,
    /// A [`crate::aging::Kind`].
    pub kind: u8,
    /// A [`crate::aging::Caller`].
    pub caller: u8,
    /// One of [`span`].
    pub span: u8,
    /// Always 0.
    pub zero: [u8; 3],
}

const _: () = assert!(size_of::<HistogramKey>() == 8);
