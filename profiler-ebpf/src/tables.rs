//! The census of the TDP MMU: an iterator over open files that stops at one VM
//! and walks a part of the tables below one root.
//!
//! The TDP MMU links and cuts off tables while this reads them, and frees what
//! it cut off only after an RCU grace period. The iterator is inside an RCU
//! section, so whatever is reached from a root within one run is a table, if
//! perhaps one that was cut off a moment ago. From one run to the next nothing
//! is remembered but the gfn to go on at.

use aya_ebpf::{Global, helpers::bpf_ktime_get_ns, macros::map, maps::Array};
use profiler_common::{
    census::LEVELS,
    tables::{ENTRIES, MAX_ROOTS, WalkRequest, WalkResult},
};

use crate::{
    heads::{AGAIN, SPTE_ACCESSED, SPTE_PRESENT},
    kernel::{
        KVM_TDP_ROOTS, MMU_PAGE_LINK, MMU_PAGE_ROLE, MMU_PAGE_SPT, offset, read, read_into,
        read_member, repeat,
    },
    vms::TaskFile,
};

/// Address of the kernel's variable with the start of its direct map.
#[unsafe(no_mangle)]
static DIRECT_MAP_AT: Global<u64> = Global::new(0);
/// Bit of a page's role that says it is being taken down.
#[unsafe(no_mangle)]
static ROLE_INVALID: Global<u32> = Global::new(0);

#[map]
static WALK_REQUEST: Array<WalkRequest> = Array::with_max_entries(1, 0);
#[map]
static WALK_RESULT: Array<WalkResult> = Array::with_max_entries(1, 0);

/// Bits of a page's role with its level.
const ROLE_LEVEL: u32 = 0xf;
/// More roots than a VM has in any state.
const ROOT_LIMIT: u32 = 64;
/// Levels of the deepest tree.
const MAX_LEVEL: u64 = 5;
/// gfn bits that a level resolves.
const LEVEL_BITS: u64 = 9;
/// An entry above the lowest level that maps memory itself.
const HUGE: u64 = 1 << 7;
/// The physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const TABLE_BYTES: u32 = (ENTRIES * 8) as u32;

/// One tree of tables.
struct Root {
    table: u64,
    level: u64,
}

/// Lists the roots in use; returns the one at `wanted` if it is among them.
#[inline(always)]
unsafe fn list_roots(result: *mut WalkResult, kvm: u64, wanted: u64) -> Option<Root> {
    let head = kvm + offset(&KVM_TDP_ROOTS);
    let mut node = read::<u64>(head)?;
    let (mut table, mut level) = (0, 0);
    repeat(ROOT_LIMIT, |_| {
        // Zero where the TDP MMU was never used.
        if node == head || node == 0 {
            return true;
        }
        let page = node - offset(&MMU_PAGE_LINK);
        let role = read_member::<u32>(page, &MMU_PAGE_ROLE).unwrap_or(u32::MAX);
        // SAFETY: `result` is a live map value.
        unsafe {
            if role & ROLE_INVALID.load() == 0 {
                let number = (*result).root_count;
                if number < MAX_ROOTS as u64 {
                    let roots = (&raw mut (*result).roots).cast::<u64>();
                    roots.add(number as usize).write(page);
                }
                (*result).root_count = number + 1;
                if page == wanted {
                    table = read_member(page, &MMU_PAGE_SPT).unwrap_or(0);
                    level = u64::from(role & ROLE_LEVEL);
                }
            }
        }
        node = read(node).unwrap_or(0);
        false
    });
    (table != 0 && level != 0 && level <= MAX_LEVEL).then_some(Root { table, level })
}

/// Counts one SPTE.
#[inline(always)]
unsafe fn count(result: *mut WalkResult, spte: u64, level: u64) {
    let index = level - 1;
    if spte & SPTE_PRESENT.load() == 0 || index >= LEVELS as u64 {
        return;
    }
    // SAFETY: `result` is a live map value, and the index was checked.
    unsafe {
        let accessed = u64::from(spte & SPTE_ACCESSED.load() != 0);
        *(&raw mut (*result).sptes).cast::<u64>().add(index as usize) += 1;
        *(&raw mut (*result).accessed)
            .cast::<u64>()
            .add(index as usize) += accessed;
    }
}

#[inline(always)]
unsafe fn count_table(result: *mut WalkResult, address: u64) {
    // SAFETY: `result` is a live map value with room for a table.
    unsafe {
        let table = (&raw mut (*result).table).cast::<u64>();
        if !read_into(table, TABLE_BYTES, address) {
            (*result).faults += 1;
            return;
        }
        (*result).tables += 1;
        repeat(ENTRIES as u32, |entry| {
            if entry >= ENTRIES as u64 {
                return true;
            }
            count(result, table.add(entry as usize).read(), 1);
            false
        });
    }
}

/// Goes down from the root to what holds `gfn`, counts what is there, and
/// returns the gfn after it.
#[inline(always)]
unsafe fn step(result: *mut WalkResult, root: &Root, direct_map: u64, gfn: u64) -> u64 {
    let (mut table, mut level, mut next) = (root.table, root.level, 0);
    repeat(MAX_LEVEL as u32, |_| {
        if level <= 1 {
            // SAFETY: `result` is a live map value.
            unsafe { count_table(result, table) };
            next = (gfn | (ENTRIES as u64 - 1)) + 1;
            return true;
        }
        let shift = (level - 1) * LEVEL_BITS;
        let behind = (gfn | ((1 << shift) - 1)) + 1;
        let index = (gfn >> shift) & (ENTRIES as u64 - 1);
        let Some(entry) = read::<u64>(table + index * 8) else {
            // SAFETY: `result` is a live map value.
            unsafe { (*result).faults += 1 };
            next = behind;
            return true;
        };
        if entry & SPTE_PRESENT.load() == 0 || entry & HUGE != 0 {
            // SAFETY: `result` is a live map value.
            unsafe { count(result, entry, level) };
            next = behind;
            return true;
        }
        table = direct_map + (entry & ADDRESS);
        level -= 1;
        false
    });
    next
}

#[inline(always)]
unsafe fn walk(context: *const TaskFile) -> Option<i32> {
    // SAFETY: the kernel passes a valid context; map values are live.
    unsafe {
        let request = &*WALK_REQUEST.get_ptr(0)?;
        let result = WALK_RESULT.get_ptr_mut(0)?;
        let file = TaskFile::vm(context)?;
        if file.kvm != request.kvm {
            return None;
        }
        let began = bpf_ktime_get_ns();
        (*result).chunks += 1;
        let Some(root) = list_roots(result, request.kvm, request.root) else {
            return Some(AGAIN);
        };
        let gfns = 1u64 << (root.level * LEVEL_BITS);
        (*result).gfns = gfns;
        let direct_map = read::<u64>(DIRECT_MAP_AT.load())?;
        let mut gfn = request.start;
        repeat(request.steps, |_| {
            if gfn >= gfns {
                return true;
            }
            let next = step(result, &root, direct_map, gfn);
            let stuck = next <= gfn;
            gfn = next;
            stuck
        });
        (*result).next = gfn;
        (*result).time_ns += bpf_ktime_get_ns() - began;
        Some(AGAIN)
    }
}

/// Walks what the request asks for.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn rs_tables(context: *mut TaskFile) -> i32 {
    // SAFETY: called by the kernel with its own context.
    unsafe { walk(context) }.unwrap_or(0)
}
