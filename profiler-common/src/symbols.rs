//! Text ranges of kernel functions, and what a stack that passes through one means.
//!
//! User space fills a table of [`MAX_RANGES`] ranges, sorted by address and
//! without overlap; the kernel side looks each frame of a stack up in it.

/// Capacity of the table; a power of two, so that the binary search is unrolled.
pub const MAX_RANGES: usize = 128;
/// Steps of a binary search over [`MAX_RANGES`].
pub const SEARCH_STEPS: u32 = MAX_RANGES.trailing_zeros() + 1;

/// One kernel function and its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TextRange {
    /// Address of the first byte.
    pub low: u64,
    /// Address after the last byte.
    pub high: u64,
    /// One bit of [`tag`].
    pub tag: u64,
}

/// Meanings of a frame. A stack's meaning is the union of its frames' bits.
pub mod tag {
    /// Inside the `clear_flush_young` notifier.
    pub const CLEAR_FLUSH_YOUNG: u64 = 1 << 0;
    /// Inside the `clear_young` notifier.
    pub const CLEAR_YOUNG: u64 = 1 << 1;
    /// Inside the `test_young` notifier.
    pub const TEST_YOUNG: u64 = 1 << 2;
    /// Inside any of them, in the code common to all.
    pub const NOTIFIERS: u64 = CLEAR_FLUSH_YOUNG | CLEAR_YOUNG | TEST_YOUNG;
    /// Inside `kvm_age_gfn` or `kvm_test_age_gfn`.
    pub const AGE_GFN: u64 = 1 << 3;
    /// Inside the rmap walk.
    pub const RMAP: u64 = 1 << 4;
    /// Inside a KVM aging tracepoint.
    pub const TRACEPOINT: u64 = 1 << 5;
    /// Inside the handling of a vCPU's fault.
    pub const FAULT: u64 = 1 << 6;
    /// Memory cgroup reclaim.
    pub const MEMCG: u64 = 1 << 8;
    /// kswapd.
    pub const KSWAPD: u64 = 1 << 9;
    /// Direct reclaim.
    pub const DIRECT: u64 = 1 << 10;
    /// Any reclaim.
    pub const RECLAIM: u64 = 1 << 11;
    /// MGLRU aging.
    pub const MGLRU: u64 = 1 << 12;
    /// MGLRU lookaround.
    pub const LOOKAROUND: u64 = 1 << 13;
    /// DAMON.
    pub const DAMON: u64 = 1 << 14;
    /// khugepaged and collapse.
    pub const KHUGEPAGED: u64 = 1 << 15;
    /// Idle page tracking.
    pub const PAGE_IDLE: u64 = 1 << 16;
}

/// Deepest stack that is read, in frames.
pub const STACK_DEPTH: usize = 48;

const _: () = assert!(MAX_RANGES.is_power_of_two());
