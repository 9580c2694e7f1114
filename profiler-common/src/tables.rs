//! What the census of the TDP MMU's tables and user space tell each other.
//!
//! A VM has a tree of tables for each root. A program run by an iterator over
//! open files walks a part of one, as a [`WalkRequest`] says, from the root
//! down every time, and adds to a [`WalkResult`]. It takes no lock of KVM's:
//! tables are not freed while the iterator's RCU section lasts.

use crate::census::LEVELS;

/// Entries of a table.
pub const ENTRIES: usize = 512;
/// Roots of a VM that are looked at.
pub const MAX_ROOTS: usize = 8;

/// Which part to walk next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WalkRequest {
    /// The VM.
    pub kvm: u64,
    /// The root: the address of its `kvm_mmu_page`; 0 to list the roots only.
    pub root: u64,
    /// First gfn.
    pub start: u64,
    /// Steps to do: each is one table of the lowest level, or one entry of a
    /// higher one with nothing below it.
    pub steps: u32,
    /// Always 0.
    pub zero: u32,
}

/// What was found. User space zeroes it before each run.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WalkResult {
    /// Runs of the program at the VM.
    pub chunks: u64,
    /// Time in the program.
    pub time_ns: u64,
    /// The gfn after the last one looked at.
    pub next: u64,
    /// gfns below the root asked for; 0 if it is no root any more.
    pub gfns: u64,
    /// Present SPTEs that map memory, by level.
    pub sptes: [u64; LEVELS],
    /// Of these, with the Accessed bit.
    pub accessed: [u64; LEVELS],
    /// Tables of the lowest level.
    pub tables: u64,
    /// Reads of kernel memory that failed.
    pub faults: u64,
    /// Roots in use; those beyond [`MAX_ROOTS`] are counted only.
    pub root_count: u64,
    /// Their `kvm_mmu_page`s.
    pub roots: [u64; MAX_ROOTS],
    /// Working space: one table.
    pub table: [u64; ENTRIES],
}

impl WalkResult {
    /// A result with nothing in it.
    pub const EMPTY: Self = Self {
        chunks: 0,
        time_ns: 0,
        next: 0,
        gfns: 0,
        sptes: [0; LEVELS],
        accessed: [0; LEVELS],
        tables: 0,
        faults: 0,
        root_count: 0,
        roots: [0; MAX_ROOTS],
        table: [0; ENTRIES],
    };
}

const _: () = assert!(size_of::<WalkRequest>() == 32);
const _: () = assert!(size_of::<WalkResult>() == (4 + 2 * LEVELS + 3 + MAX_ROOTS + ENTRIES) * 8);
