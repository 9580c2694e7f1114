//! From an rmap head to the length of its chain.
//!
//! Where descriptors have a `tail_count` (6.4 and later) the first one's two
//! counters give the length of the whole chain; before that every descriptor's
//! count has to be added up.
//!
//! A chain can change while it is read. What contradicts itself is reported as
//! [`Chain::Torn`], never as a length.

use aya_ebpf::{Global, macros::map, maps::PerCpuArray};
use profiler_common::{
    census::DESCRIPTOR_ENTRIES,
    head::{self, Word},
};

use crate::kernel::{read, repeat};

/// 1 if descriptors have a `tail_count`.
#[unsafe(no_mangle)]
static HAS_TAIL_COUNT: Global<u32> = Global::new(0);

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
    /// A descriptor contradicts itself: it was freed or rewritten meanwhile. Or the chain has
    /// more descriptors than may be read.
    Torn,
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

/// Decodes a head and, if there is one, its first descriptor; where that does not tell the
/// chain's length, at most `most` descriptors.
#[inline(always)]
pub(crate) fn decode(head: u64, reader: Reader, most: u32) -> Chain {
    let address = match head::word(head) {
        Word::Empty => return Chain::Empty,
        Word::One(spte) => return Chain::One(spte),
        Word::Chain(first) => first,
    };
    if HAS_TAIL_COUNT.load() == 0 {
        return add_up(address, reader, most);
    }
    // `more`, then `spte_count` and `tail_count`: user space checked this layout against BTF.
    let Some([_, counts]) = read::<[u64; 2]>(address) else {
        return Chain::Fault;
    };
    match head::chain_of(counts) {
        Some((length, descriptors)) => Chain::Many {
            address,
            length,
            descriptors,
        },
        None => Chain::Torn,
    }
}

/// How many of a chain's descriptors [`decode`] reads.
#[inline(always)]
pub(crate) fn read_for(descriptors: u32) -> u64 {
    if HAS_TAIL_COUNT.load() == 0 {
        u64::from(descriptors)
    } else {
        1
    }
}

/// The length of a chain without `tail_count`, descriptor by descriptor.
#[inline(always)]
fn add_up(address: u64, reader: Reader, most: u32) -> Chain {
    let Some(sums) = SUMS.get_ptr_mut(reader as u32) else {
        return Chain::Fault;
    };
    // SAFETY: a live per-CPU map value of this reader's.
    let sums = unsafe { &mut *sums };
    sums.length = 0;
    sums.descriptors = 0;
    let (mut next, mut fault, mut torn) = (address, 0u64, 0u64);
    repeat(most, |_| {
        let Some([more, count]) = read::<[u64; 2]>(next) else {
            fault = 1;
            return true;
        };
        if count == 0 || count > DESCRIPTOR_ENTRIES as u64 {
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
