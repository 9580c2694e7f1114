//! What the census iterators and user space tell each other.
//!
//! Finding VMs and reading heads are two iterators over open files. The first
//! fills [`Vm`] and [`Slot`] tables; the second reads the heads of one slot and
//! level, chunk by chunk, as a [`ScanRequest`] says, and adds to a
//! [`ScanResult`]. Neither takes a lock of KVM's, so both re-check the
//! memslots' generation and say so when it changed.

/// VMs one enumeration can hold.
pub const MAX_VMS: usize = 256;
/// Memslots one enumeration can hold, over all VMs.
pub const MAX_SLOTS: usize = 8192;
/// Address spaces per VM that are looked at.
pub const MAX_ADDRESS_SPACES: usize = 2;
/// Rmap levels on x86: 4K, 2M, 1G.
pub const LEVELS: usize = 3;
/// Entries of a full `pte_list_desc` on every kernel this was written for;
/// the real number comes from BTF.
pub const DESCRIPTOR_ENTRIES: usize = 14;
/// Heads read at once.
pub const BLOCK_HEADS: usize = 64;
/// A chunk ends once it has taken this long, nanoseconds: half of what a CPU may be held,
/// for the head that it is at and for what interrupts it.
pub const CHUNK_LIMIT_NS: u64 = 1_000_000;
/// Descriptors between two looks at the clock: with their SPTEs a few microseconds' work.
const CLOCK_EVERY: u64 = 16;

/// Whether the clock is due after the head that took the descriptors read from `before`
/// to `after`.
#[inline(always)]
pub const fn is_clock_due(before: u64, after: u64) -> bool {
    before / CLOCK_EVERY != after / CLOCK_EVERY
}

/// Exact chain lengths `0..LENGTH_CELLS - 1`; the last cell holds longer ones.
pub const LENGTH_CELLS: usize = 1026;

/// One VM found through its open files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Vm {
    /// Address of `struct kvm`; the VM's identity while it lives.
    pub kvm: u64,
    /// Address of its `mm_struct`.
    pub mm: u64,
    /// Address spaces read: `kvm->memslots[i]`, 0 where there is none.
    pub memslots: [u64; MAX_ADDRESS_SPACES],
    /// Generation of each.
    pub generation: [u64; MAX_ADDRESS_SPACES],
    /// Process that has the file open.
    pub tgid: u32,
    /// Process that created the VM, as KVM remembers it.
    pub userspace_pid: u32,
    /// Memslots found.
    pub slots: u32,
    /// vCPU files found.
    pub vcpus: u32,
}

/// One memslot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// First gfn.
    pub base_gfn: u64,
    /// Pages.
    pub pages: u64,
    /// Host virtual address of the first page.
    pub hva: u64,
    /// Head arrays by level; 0 where there is none.
    pub rmap: [u64; LEVELS],
    /// Position of the VM in the table.
    pub vm: u32,
    /// Address space.
    pub address_space: u32,
    /// `id` of the memslot.
    pub id: u32,
    /// `flags` of the memslot.
    pub flags: u32,
}

/// Totals of one enumeration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Enumeration {
    /// VMs found.
    pub vms: u32,
    /// Memslots found.
    pub slots: u32,
    /// Open files looked at.
    pub files: u64,
    /// VMs or memslots that did not fit.
    pub did_not_fit: u64,
    /// Reads of kernel memory that failed.
    pub faults: u64,
    /// VMs whose memslots changed while they were read; their slots are wrong.
    pub changed: u64,
}

/// Which heads to read next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ScanRequest {
    /// The VM.
    pub kvm: u64,
    /// Generation its memslots must have.
    pub generation: u64,
    /// First head.
    pub start: u64,
    /// Number of heads.
    pub heads: u64,
    /// `id` of the memslot.
    pub slot_id: u32,
    /// Address space of the memslot.
    pub address_space: u32,
    /// 0 for 4K, 1 for 2M, 2 for 1G.
    pub level: u32,
    /// 1 to look at the SPTEs too, for the Accessed share.
    pub read_sptes: u32,
}

/// What was found, summed over the chunks of one slot and level.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ScanResult {
    /// Chunks done.
    pub chunks: u64,
    /// Chunks refused: the generation was another one before or after, or the slot was gone.
    pub changed: u64,
    /// Time in the program.
    pub time_ns: u64,
    /// Longest chunk.
    pub longest_ns: u64,
    /// Heads done with, read or not: fewer than asked for where the chunk took too long.
    pub passed: u64,
    /// Heads read.
    pub heads: u64,
    /// Heads with the LOCKED bit.
    pub locked: u64,
    /// Heads whose descriptor made no sense (a torn read under churn).
    pub bad: u64,
    /// Reads of kernel memory that failed.
    pub faults: u64,
    /// SPTEs, as the heads count them.
    pub sptes: u64,
    /// Descriptors.
    pub descriptors: u64,
    /// SPTEs found present (with `read_sptes`).
    pub present: u64,
    /// SPTEs found with the Accessed bit (with `read_sptes`).
    pub accessed: u64,
    /// Longest chain.
    pub longest: u64,
    /// Heads by chain length.
    pub by_length: [u64; LENGTH_CELLS],
    /// Working space: heads of one block.
    pub block: [u64; BLOCK_HEADS],
    /// Working space: one descriptor.
    pub descriptor: [u64; 2 + DESCRIPTOR_ENTRIES],
}

impl ScanResult {
    /// A result with nothing in it.
    pub const EMPTY: Self = Self {
        chunks: 0,
        changed: 0,
        time_ns: 0,
        longest_ns: 0,
        passed: 0,
        heads: 0,
        locked: 0,
        bad: 0,
        faults: 0,
        sptes: 0,
        descriptors: 0,
        present: 0,
        accessed: 0,
        longest: 0,
        by_length: [0; LENGTH_CELLS],
        block: [0; BLOCK_HEADS],
        descriptor: [0; 2 + DESCRIPTOR_ENTRIES],
    };
}

const _: () = assert!(size_of::<Vm>() == 64);
const _: () = assert!(size_of::<Slot>() == 64);
const _: () = assert!(size_of::<Enumeration>() == 40);
const _: () = assert!(size_of::<ScanRequest>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_looked_at_within_as_many_descriptors_whatever_the_chains() {
        for descriptors_each in 1..100 {
            let (mut seen, mut looked) = (0, 0);
            for _ in 0..BLOCK_HEADS {
                let before = seen;
                seen += descriptors_each;
                if is_clock_due(before, seen) {
                    looked = seen;
                }
                assert!(
                    seen - looked < CLOCK_EVERY,
                    "{descriptors_each} a head: {} without a look",
                    seen - looked
                );
            }
        }
    }
}
