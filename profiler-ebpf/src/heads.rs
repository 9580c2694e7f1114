//! The census: an iterator over open files that stops at one VM and reads the
//! rmap heads of one memslot, level and chunk.
//!
//! The program returns 1 after a chunk, which ends the read without moving the
//! iterator, so user space asks for the next chunk on the same file. A chunk is
//! trusted only if the memslots' generation was the requested one before and
//! after.

use aya_ebpf::{Global, macros::map, maps::Array};
use profiler_common::census::{
    BLOCK_HEADS, CHUNK_LIMIT_NS, DESCRIPTOR_ENTRIES, LENGTH_CELLS, LEVELS, ScanRequest, ScanResult,
    is_clock_due,
};
use profiler_common::head;

use crate::{
    chain::{self, Chain},
    kernel::{
        KVM_MEMSLOTS, MEMSLOTS_GENERATION, SLOT_ID, SLOT_RMAP, now_ns, offset, read, read_into,
        read_member, repeat,
    },
    vms::{TaskFile, for_each_slot},
};

/// Bits of an SPTE: Accessed, and "present for MMU code".
#[unsafe(no_mangle)]
pub(crate) static SPTE_ACCESSED: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SPTE_PRESENT: Global<u64> = Global::new(0);

#[map]
static SCAN_REQUEST: Array<ScanRequest> = Array::with_max_entries(1, 0);
#[map]
static SCAN_RESULT: Array<ScanResult> = Array::with_max_entries(1, 0);

/// Ends the read and stays at this file.
pub(crate) const AGAIN: i32 = 1;
/// Bytes of a `pte_list_desc`.
const DESCRIPTOR_BYTES: u32 = ((2 + DESCRIPTOR_ENTRIES) * 8) as u32;

#[inline(always)]
unsafe fn read_spte(result: *mut ScanResult, address: u64) {
    // SAFETY: `result` is a live map value.
    unsafe {
        let Some(spte) = read::<u64>(address) else {
            (*result).faults += 1;
            return;
        };
        (*result).present += u64::from(spte & SPTE_PRESENT.load() != 0);
        (*result).accessed += u64::from(spte & SPTE_ACCESSED.load() != 0);
    }
}

#[inline(always)]
unsafe fn read_chain(result: *mut ScanResult, address: u64, descriptors: u32) {
    let mut next = address;
    repeat(descriptors, |_| {
        // SAFETY: `result` is a live map value with room for a descriptor.
        unsafe {
            let descriptor = (&raw mut (*result).descriptor).cast::<u64>();
            if !read_into(descriptor, DESCRIPTOR_BYTES, next) {
                (*result).faults += 1;
                return true;
            }
            let entries = descriptor.add(1).read() as u32;
            repeat(DESCRIPTOR_ENTRIES as u32, |entry| {
                if entry >= u64::from(entries) || entry >= DESCRIPTOR_ENTRIES as u64 {
                    return true;
                }
                read_spte(result, descriptor.add(2 + entry as usize).read());
                false
            });
            next = descriptor.read();
        }
        next == 0
    });
}

#[inline(always)]
unsafe fn count_head(result: *mut ScanResult, head: u64, read_sptes: bool) {
    // SAFETY: `result` is a live map value.
    unsafe {
        (*result).locked += u64::from(head::is_locked(head));
        let length = match chain::decode(head, chain::Reader::Census, head::MAX_DESCRIPTORS) {
            Chain::Empty => 0,
            Chain::One(spte) => {
                if read_sptes {
                    read_spte(result, spte);
                }
                1
            }
            Chain::Many {
                address,
                length,
                descriptors,
            } => {
                (*result).descriptors += u64::from(descriptors);
                if read_sptes {
                    read_chain(result, address, descriptors);
                }
                u64::from(length)
            }
            Chain::Fault => {
                (*result).faults += 1;
                return;
            }
            Chain::Torn => {
                (*result).bad += 1;
                return;
            }
        };
        if length > (*result).longest {
            (*result).longest = length;
        }
        (*result).sptes += length;
        let last = LENGTH_CELLS as u64 - 1;
        let cell = if length > last { last } else { length };
        *(&raw mut (*result).by_length)
            .cast::<u64>()
            .add(cell as usize) += 1;
    }
}

#[inline(always)]
unsafe fn count_heads(
    result: *mut ScanResult,
    first: u64,
    heads: u64,
    read_sptes: bool,
    until_ns: u64,
) {
    let blocks = heads.div_ceil(BLOCK_HEADS as u64);
    repeat(blocks as u32, |block| {
        let before = block * BLOCK_HEADS as u64;
        let left = heads - before;
        let now = if left > BLOCK_HEADS as u64 {
            BLOCK_HEADS as u64
        } else {
            left
        };
        // SAFETY: `result` is a live map value with room for a block.
        unsafe {
            let words = (&raw mut (*result).block).cast::<u64>();
            if !read_into(words, (now * 8) as u32, first + before * 8) {
                (*result).passed += now;
                (*result).faults += now;
                return now_ns() > until_ns;
            }
            let mut done = 0;
            repeat(BLOCK_HEADS as u32, |head| {
                if head >= now || head >= BLOCK_HEADS as u64 {
                    return true;
                }
                let descriptors = (*result).descriptors;
                count_head(result, words.add(head as usize).read(), read_sptes);
                done = head + 1;
                // Chains may be longer than those that the chunk's size was chosen by.
                is_clock_due(descriptors, (*result).descriptors) && now_ns() > until_ns
            });
            (*result).passed += done;
            (*result).heads += done;
            done < now || now_ns() > until_ns
        }
    });
}

/// The head array asked for, if the memslots still have the generation asked for.
#[inline(always)]
fn find_heads(request: &ScanRequest, memslots: u64) -> Option<u64> {
    if read_member::<u64>(memslots, &MEMSLOTS_GENERATION)? != request.generation {
        return None;
    }
    let (wanted, mut found) = (request.slot_id, 0);
    for_each_slot(memslots, |slot| {
        let id = read_member::<u16>(slot, &SLOT_ID);
        if id.map(u32::from) == Some(wanted) {
            found = slot;
        }
        found != 0
    });
    if found == 0 || request.level >= LEVELS as u32 {
        return None;
    }
    let heads = read::<u64>(found + offset(&SLOT_RMAP) + u64::from(request.level) * 8)?;
    (heads != 0).then_some(heads)
}

#[inline(always)]
unsafe fn scan(context: *const TaskFile) -> Option<i32> {
    // SAFETY: the kernel passes a valid context; map values are live.
    unsafe {
        let request = &*SCAN_REQUEST.get_ptr(0)?;
        let result = SCAN_RESULT.get_ptr_mut(0)?;
        let file = TaskFile::vm(context)?;
        if file.kvm != request.kvm {
            return None;
        }
        let began = now_ns();
        (*result).chunks += 1;
        let entry = file.kvm + offset(&KVM_MEMSLOTS) + u64::from(request.address_space) * 8;
        let memslots = read::<u64>(entry)?;
        let Some(heads) = find_heads(request, memslots) else {
            (*result).changed += 1;
            return Some(AGAIN);
        };
        count_heads(
            result,
            heads + request.start * 8,
            request.heads,
            request.read_sptes != 0,
            began + CHUNK_LIMIT_NS,
        );
        let still = read::<u64>(entry)? == memslots
            && read_member::<u64>(memslots, &MEMSLOTS_GENERATION)? == request.generation;
        (*result).changed += u64::from(!still);
        let spent = now_ns() - began;
        (*result).time_ns += spent;
        if spent > (*result).longest_ns {
            (*result).longest_ns = spent;
        }
        Some(AGAIN)
    }
}

/// Reads the heads that the request asks for. User space zeroes the result
/// before the first chunk and closes the file after the last.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn rs_heads(context: *mut TaskFile) -> i32 {
    // SAFETY: called by the kernel with its own context.
    unsafe { scan(context) }.unwrap_or(0)
}
