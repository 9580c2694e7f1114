//! From an rmap head to the length of its chain.
//!
//! A head is one word: zero, the address of the only SPTE, or, with MANY set,
//! the address of the first descriptor. Where descriptors have a `tail_count`
//! (6.4 and later) the first one's two counters give the length of the whole
//! chain; before that every descriptor's count has to be added up.
//!
//! A chain can change while it is read. What contradicts itself is reported as
//! [`Chain::Torn`], never as a length.

use aya_ebpf::{Global, macros::map, maps::PerCpuArray};
use profiler_common::census::DESCRIPTOR_ENTRIES;

use crate::kernel::{read, repeat};

/// Bit 0 of a head: it points to a descriptor.
const MANY: u64 = 1;
/// Bit 1 of a head: the per-rmap lock, from 6.15 on. Never part of an address.
const LOCKED: u64 = 2;

/// 1 if descriptors have a `tail_count`.
#[unsafe(no_mangle)]
static HAS_TAIL_COUNT: Global<u32> = Global::new(0);

const CAPACITY: u32 = DESCRIPTOR_ENTRIES as u32;
/// Longest chain that is believed.
const MAX_LENGTH: u32 = 1 << 24;
/// Most descriptors that are added up where there is no `tail_count`.
const MAX_DESCRIPTORS: u32 = 4096;

/// What a head says.
#[derive(Clone, Copy)]
pub(crate) enum Chain {
    /// No SPTE.
    Empty,
    /// One SPTE, at this address.
    One(u64),
    /// `length` SPTEs in `descriptors`, the first of which is at `address`.
    Many {
        address: u64,
        length: u32,
        descriptors: u32,
    },
    /// A descriptor could not be read.
    Fault,
    /// A descriptor contradicts itself: it was freed or rewritten meanwhile.
    Torn,
}

/// Whether `head` is locked.
#[inline(always)]
pub(crate) fn is_locked(head: u64) -> bool {
    head & LOCKED != 0
}

/// Who decodes: a callback can come in while a census runs, and one of the other family
/// where the kernel preempts, so each has sums of its own.
#[derive(Clone, Copy)]
pub(crate) enum Reader {
    Clearing = 0,
    Testing = 1,
    Census = 2,
}

/// Sums over the descriptors of one chain. On the stack they would keep the
/// verifier from ever finding two rounds of the loop alike.
#[repr(C)]
struct Sums {
    length: u64,
    descriptors: u64,
}

/// One entry per [`Reader`].
#[map]
static SUMS: PerCpuArray<Sums> = PerCpuArray::with_max_entries(3, 0);

/// Decodes a head and, if there is one, its first descriptor.
#[inline(always)]
pub(crate) fn decode(head: u64, reader: Reader) -> Chain {
    let address = head & !(MANY | LOCKED);
    if head & MANY == 0 {
        return if address == 0 {
            Chain::Empty
        } else {
            Chain::One(address)
        };
    }
    if HAS_TAIL_COUNT.load() == 0 {
        return add_up(address, reader);
    }
    // `more`, then `spte_count` and `tail_count`: user space checked this layout against BTF.
    let Some([_, counts]) = read::<[u64; 2]>(address) else {
        return Chain::Fault;
    };
    let (first, rest) = (counts as u32, (counts >> 32) as u32);
    if first == 0 || first > CAPACITY || rest > MAX_LENGTH || rest % CAPACITY != 0 {
        return Chain::Torn;
    }
    Chain::Many {
        address,
        length: first + rest,
        descriptors: 1 + rest / CAPACITY,
    }
}

/// The length of a chain without `tail_count`, descriptor by descriptor.
#[inline(always)]
fn add_up(address: u64, reader: Reader) -> Chain {
    let Some(sums) = SUMS.get_ptr_mut(reader as u32) else {
        return Chain::Fault;
    };
    // SAFETY: a live per-CPU map value of this reader's.
    let sums = unsafe { &mut *sums };
    sums.length = 0;
    sums.descriptors = 0;
    let (mut next, mut fault, mut torn) = (address, 0u64, 0u64);
    repeat(MAX_DESCRIPTORS, |_| {
        let Some([more, count]) = read::<[u64; 2]>(next) else {
            fault = 1;
            return true;
        };
        if count == 0 || count > u64::from(CAPACITY) {
            torn = 1;
            return true;
        }
        sums.length += count;
        sums.descriptors += 1;
        next = more;
        next == 0
    });
    if fault != 0 {
        return Chain::Fault;
    }
    if torn != 0 || next != 0 {
        return Chain::Torn;
    }
    Chain::Many {
        address,
        length: sums.length as u32,
        descriptors: sums.descriptors as u32,
    }
}
