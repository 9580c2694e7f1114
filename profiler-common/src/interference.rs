//! What aging and vCPU faults do to each other.
//!
//! A vCPU fault, or a wait for a VM's `mmu_lock`, is filed by whether the VM's
//! pages were aged around its end: a callback on that VM began at most
//! [`AGING_TICKS`] timer ticks before.

/// Timer ticks (1 to 10 ms each, as the kernel is configured) after its last
/// callback for which a VM counts as being aged.
pub const AGING_TICKS: u64 = 1;

/// What a histogram of [`InterferenceKey`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum What {
    /// vCPU faults, from entry to exit of `kvm_mmu_page_fault`.
    Fault = 0,
    /// Waits for `mmu_lock` inside a vCPU fault.
    FaultWait = 1,
    /// Waits for `mmu_lock` inside an aging callback.
    AgingWait = 2,
    /// Waits of anybody else for `mmu_lock`.
    OtherWait = 3,
}

impl What {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::Fault,
        Self::FaultWait,
        Self::AgingWait,
        Self::OtherWait,
    ];

    /// The name it has in series.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::FaultWait => "fault_wait",
            Self::AgingWait => "aging_wait",
            Self::OtherWait => "other_wait",
        }
    }
}

/// What one histogram is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct InterferenceKey {
    /// Number of the VM in this recording.
    pub vm: u16,
    /// A [`What`].
    pub what: u8,
    /// 1 if the VM was being aged.
    pub aging: u8,
    /// Always 0.
    pub zero: u32,
}

const _: () = assert!(size_of::<InterferenceKey>() == 8);
