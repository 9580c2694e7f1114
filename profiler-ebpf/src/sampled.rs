//! The sampled rung: KVM's aging tracepoints and a cpu-clock sampler.
//!
//! The tracepoints run at the start of each callback, before its walk. They
//! look the range up in the interval table, read the heads it is about to walk,
//! count the callback under the chain length seen, and leave that cell's key as
//! the CPU's current one. A cpu-clock sample whose stack passes through a
//! notifier is filed under the current cell if the same task is still running;
//! samples inside the tracepoint itself have a place of their own.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id},
    macros::{map, perf_event, raw_tracepoint},
    maps::{Array, PerCpuArray},
    programs::{PerfEventContext, RawTracePointContext, tracing::StackIdContext},
};
use aya_log_ebpf::debug;
use profiler_common::{
    aging::{CellKey, Kind, NO_VM, Totals, length, length_code, place},
    census::LEVELS,
    event::{Event, YOUNG_UNKNOWN},
    exact::descriptors_left,
    head,
    intervals::{
        AMBIGUOUS, Heads, Interval, MAX_INTERVALS, SEARCH_STEPS, SLOTS_PER_INTERVAL, Table,
    },
    symbols::tag,
};

use crate::{
    callback::{self, TOTALS},
    caller::{self, Reader},
    chain::{self, Chain},
    interference,
    kernel::{MEMSLOTS_GENERATION, now_ns, read, read_member},
};

/// The callback that last began on this CPU.
#[repr(C)]
struct Current {
    task: u64,
    key: CellKey,
    /// Callbacks of this task on this VM for which the memslots are still taken
    /// to be those last checked.
    unchecked: u64,
    /// Not 0 while the tracepoint program runs.
    in_tracepoint: u64,
}

#[map]
static CURRENT: PerCpuArray<Current> = PerCpuArray::with_max_entries(1, 0);
#[map]
static TABLE: Array<Table> = Array::with_max_entries(1, 0);
#[map]
static INTERVALS: Array<Interval> = Array::with_max_entries(2 * MAX_INTERVALS as u32, 0);

/// Families of callbacks as the tracepoints tell them apart.
const CLEARING: u32 = 0;
const TESTING: u32 = 1;

const PAGE_SHIFT: u64 = 12;

/// Callbacks of one task on one VM between two checks that the memslots did not change.
/// A check costs two reads, a fifth of the whole program.
const CHECK_EVERY: u64 = 8;

/// The interval that holds `hva`.
#[inline(always)]
fn find(hva: u64) -> Option<&'static Interval> {
    let word = TABLE.get(0)?.word;
    let base = Table::half(word) * MAX_INTERVALS as u32;
    let (mut low, mut high) = (0u32, Table::count(word));
    let mut step = 0;
    while step < SEARCH_STEPS {
        step += 1;
        if low >= high {
            return None;
        }
        let middle = (low + high) / 2;
        let interval = INTERVALS.get(base + middle)?;
        if hva < interval.start {
            high = middle;
        } else if hva >= interval.end {
            low = middle + 1;
        } else {
            return Some(interval);
        }
    }
    None
}

/// What the heads of a page say together.
struct Seen {
    sptes: u32,
    locked: bool,
    has_rmap: bool,
}

/// Whether the memslots that `heads` was made from are still in use.
#[inline(always)]
fn is_current(heads: &Heads) -> bool {
    read::<u64>(heads.memslots_at) == Some(heads.memslots)
        && read_member::<u64>(heads.memslots, &MEMSLOTS_GENERATION) == Some(heads.generation)
}

/// Adds the head of one gfn to `seen`, at the lowest level that maps it. The
/// error is a length code.
#[inline(always)]
fn add_head(
    heads: &Heads,
    offset_pages: u64,
    seen: &mut Seen,
    reader: chain::Reader,
) -> Result<(), u16> {
    let gfn = heads.first_gfn + offset_pages;
    let mut level = 0;
    while level < LEVELS {
        let shift = 9 * level as u64;
        let array = heads.rmap[level];
        level += 1;
        if array == 0 {
            continue;
        }
        seen.has_rmap = true;
        let index = (gfn >> shift) - (heads.base_gfn >> shift);
        let head = read::<u64>(array + index * 8).ok_or(length::UNREADABLE)?;
        seen.locked |= head::is_locked(head);
        match chain::decode(head, reader, descriptors_left(0)) {
            Chain::Empty => continue,
            Chain::One(_) => seen.sptes += 1,
            Chain::Many { length, .. } => seen.sptes += length,
            Chain::Fault | Chain::Torn => return Err(length::UNREADABLE),
        }
        break;
    }
    Ok(())
}

/// Who decodes chains for a family.
#[inline(always)]
fn reader_of(family: u32) -> chain::Reader {
    if family == TESTING {
        chain::Reader::Testing
    } else {
        chain::Reader::Clearing
    }
}

/// The length code of the chain at `hva`, and whether a head was locked.
#[inline(always)]
fn chain_at(interval: &Interval, hva: u64, check: bool, reader: chain::Reader) -> (u16, bool) {
    let offset_pages = (hva - interval.start) >> PAGE_SHIFT;
    let mut seen = Seen {
        sptes: 0,
        locked: false,
        has_rmap: false,
    };
    let mut slot = 0;
    while slot < SLOTS_PER_INTERVAL {
        if slot as u64 >= interval.slots {
            break;
        }
        let heads = &interval.heads[slot];
        slot += 1;
        if check && !is_current(heads) {
            return (length::STALE, false);
        }
        if let Err(code) = add_head(heads, offset_pages, &mut seen, reader) {
            return (code, false);
        }
    }
    if !seen.has_rmap {
        return (length::NO_RMAP, false);
    }
    (length_code(u64::from(seen.sptes)), seen.locked)
}

#[inline(always)]
fn began<C: StackIdContext>(context: &C, start: u64, end: u64, family: u32) -> Option<()> {
    let task = bpf_get_current_pid_tgid();
    let current = CURRENT.get_ptr_mut(0)?;
    // SAFETY: live per-CPU map values; the sampler may read `current` at any point, which
    // `in_tracepoint` guards.
    let (current, totals) = unsafe { (&mut *current, &mut *TOTALS.get_ptr_mut(0)?) };
    // SAFETY: a live map value; volatile so that the sampler sees it set for the whole time.
    unsafe { (&raw mut current.in_tracepoint).write_volatile(1) };
    totals.callbacks += 1;

    let meaning = caller::meaning(context, totals, family, task);
    let (vm, length, locked) = match find(start) {
        Some(interval) if interval.flags & AMBIGUOUS != 0 => (NO_VM, length::AMBIGUOUS, false),
        Some(interval) => {
            let vm = interval.vm as u16;
            let is_next = current.task == task && current.key.vm == vm && current.unchecked > 0;
            current.unchecked = if is_next {
                current.unchecked - 1
            } else {
                CHECK_EVERY - 1
            };
            let (length, locked) = chain_at(interval, start, !is_next, reader_of(family));
            if length == length::STALE {
                current.unchecked = 0;
            }
            interference::note_aging(vm);
            (vm, length, locked)
        }
        None => (NO_VM, length::OUTSIDE, false),
    };
    let pages = (end - start) >> PAGE_SHIFT;
    let key = CellKey {
        vm,
        length,
        kind: Kind::of_family(family == TESTING, meaning) as u8,
        caller: caller::caller(meaning) as u8,
        several_pages: u8::from(pages > 1),
        zero: 0,
    };
    if let Some(cell) = callback::cell(totals, key) {
        cell.callbacks += 1;
        cell.pages += pages;
        cell.locked += u64::from(locked);
    }
    if callback::is_event_due(totals) {
        send(totals, task, start, end, key, locked);
        debug!(
            context,
            "aging {:x}..{:x} vm {} length {}", start, end, vm, length
        );
    }
    current.task = task;
    current.key = key;
    // SAFETY: as above.
    unsafe { (&raw mut current.in_tracepoint).write_volatile(0) };
    Some(())
}

#[inline(always)]
fn send(totals: &mut Totals, task: u64, start: u64, end: u64, key: CellKey, locked: bool) {
    let event = Event {
        time_ns: now_ns(),
        start,
        end,
        total_ns: 0,
        pid: task as u32,
        // SAFETY: the helper takes no argument.
        cpu: unsafe { bpf_get_smp_processor_id() },
        vm: key.vm,
        length: key.length,
        kind: key.kind,
        caller: key.caller,
        young: YOUNG_UNKNOWN,
        locked: u8::from(locked),
    };
    callback::send(totals, event);
}

/// `kvm:kvm_age_hva`: both clearing kinds.
#[raw_tracepoint(tracepoint = "kvm_age_hva")]
fn rs_age_hva(context: RawTracePointContext) -> i32 {
    began(&context, context.arg(0), context.arg(1), CLEARING);
    0
}

/// `kvm:kvm_test_age_hva`: one page.
#[raw_tracepoint(tracepoint = "kvm_test_age_hva")]
fn rs_test_age_hva(context: RawTracePointContext) -> i32 {
    let hva: u64 = context.arg(0);
    began(&context, hva, hva + (1 << PAGE_SHIFT), TESTING);
    0
}

#[inline(always)]
fn file_sample(context: &PerfEventContext, totals: &mut Totals) -> Option<()> {
    totals.samples += 1;
    // SAFETY: the kernel passes the interrupted registers.
    let address = unsafe { (*context.ctx).regs.rip };
    if address as i64 >= 0 {
        totals.samples_user += 1;
        return None;
    }
    let current = CURRENT.get_ptr_mut(0)?;
    // SAFETY: a live per-CPU map value; the interrupted program is not running now.
    let current = unsafe { &*current };
    let Some(tags) = caller::stack_tags(context, Reader::SAMPLER, tag::NOTIFIERS) else {
        totals.samples_failed += 1;
        return None;
    };
    if tags.all & tag::NOTIFIERS == 0 {
        return None;
    }
    if current.in_tracepoint == 0 && current.task != bpf_get_current_pid_tgid() {
        totals.samples_unfiled += 1;
        return None;
    }
    let place = if current.in_tracepoint != 0 || tags.all & tag::TRACEPOINT != 0 {
        place::OWN
    } else if tags.innermost & tag::RMAP != 0 {
        place::RMAP
    } else if tags.innermost & tag::AGE_GFN != 0 {
        place::AGE_GFN
    } else {
        place::NOTIFIER
    };
    let Some(cell) = callback::existing_cell(current.key) else {
        totals.samples_unfiled += 1;
        return None;
    };
    totals.samples_filed += 1;
    cell.samples[place] += 1;
    Some(())
}

/// One cpu-clock sample.
#[perf_event]
fn rs_sample(context: PerfEventContext) -> u32 {
    if let Some(totals) = TOTALS.get_ptr_mut(0) {
        // SAFETY: a live per-CPU map value; the fields that the tracepoint and this program
        // both touch are disjoint.
        file_sample(&context, unsafe { &mut *totals });
    }
    0
}
