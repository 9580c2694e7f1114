//! One sampled callback, as it travels through the ring buffer.

/// A single callback in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// CLOCK_MONOTONIC when the callback began.
    pub time_ns: u64,
    /// First host virtual address of the range.
    pub start: u64,
    /// End of the range, exclusive.
    pub end: u64,
    /// Entry to exit, in ns; 0 in the sampled rung, which cannot see it.
    pub total_ns: u64,
    /// Thread that runs the callback.
    pub pid: u32,
    /// CPU it runs on.
    pub cpu: u32,
    /// Number of the VM in this recording.
    pub vm: u16,
    /// Chain length or a code of [`crate::aging::length`].
    pub length: u16,
    /// A [`crate::aging::Kind`].
    pub kind: u8,
    /// A [`crate::aging::Caller`].
    pub caller: u8,
    /// 0 old, 1 young, [`YOUNG_UNKNOWN`].
    pub young: u8,
    /// 1 if a head was seen locked.
    pub locked: u8,
}

/// [`Event::young`] where the result cannot be observed.
pub const YOUNG_UNKNOWN: u8 = 2;

const _: () = assert!(size_of::<Event>() == 48);
