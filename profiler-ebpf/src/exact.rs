//! The exact rung: every callback timed from entry to exit.
//!
//! `__mmu_notifier_*` are probed at entry and exit; `kvm_age_gfn` and
//! `kvm_test_age_gfn`, one call per memslot in the range, at entry. The state
//! of a callback in flight is keyed by task, so that it survives preemption and
//! migration. An exit without an entry, and an entry that found no room, are
//! counted.
//!
//! The entries of the two MMUs' functions divide the walk between them. Up to 6.14 KVM
//! ages a memslot's rmaps first and the TDP MMU last; from 6.15 on it asks the TDP MMU
//! first. So the TDP MMU's part begins with its function and ends with that of the
//! rmaps, with the next memslot, or with the callback.
//!
//! Up to 6.14 the time to the first inner entry contains the wait for
//! `mmu_lock`; from 6.15 on it is SRCU and the memslot lookup only.

use core::mem::MaybeUninit;

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC},
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id},
    macros::{fentry, fexit, kprobe, map},
    maps::{HashMap, PerCpuHashMap},
    programs::{FEntryContext, FExitContext, ProbeContext},
};
use profiler_common::{
    aging::{CellKey, Kind, NO_VM, Totals},
    census::LEVELS,
    event::Event,
    exact::{HistogramKey, VmAt, Walk, descriptors_left, heads, span},
    head,
    histogram::Histogram,
};

use crate::{
    callback::{self, TOTALS},
    caller,
    chain::{self, Chain},
    interference,
    kernel::{
        KVM_USERSPACE_PID, RANGE_END, RANGE_SLOT, RANGE_START, SLOT_BASE_GFN, SLOT_RMAP, now_ns,
        offset, read, read_member, repeat,
    },
    latency,
};

/// Bits of the notifiers' return value that are meaningful: from `bool` or `int` in BTF.
#[unsafe(no_mangle)]
static RETURN_MASK: Global<u64> = Global::new(0xffff_ffff);

/// 1 if the inner functions are probed.
#[unsafe(no_mangle)]
static INNER_PROBED: Global<u32> = Global::new(0);

/// A callback in flight.
#[repr(C)]
#[derive(Clone, Copy)]
struct Start {
    entered_ns: u64,
    /// 0 until the first inner entry.
    inner_ns: u64,
    /// Number of the VM of the first inner entry.
    vm: u64,
    /// SPTEs of the heads about to be walked.
    sptes: u64,
    /// Descriptors that were read for it.
    descriptors: u64,
    /// 1 if a head was locked.
    locked: u64,
    /// Bits of [`heads`].
    heads: u64,
    /// When the TDP MMU was entered, if nothing came after it; else 0.
    tdp_since_ns: u64,
    /// Time in it before.
    tdp_ns: u64,
}

impl Start {
    /// The TDP MMU is done.
    #[inline(always)]
    fn leave_tdp(&mut self, now: u64) {
        if self.tdp_since_ns != 0 {
            self.tdp_ns += now.saturating_sub(self.tdp_since_ns);
            self.tdp_since_ns = 0;
        }
    }
}

/// Most heads per level that are read for one range: 2 MiB of 4K pages.
const MAX_HEADS: u64 = 512;

#[map]
static STARTS: HashMap<u64, Start> = HashMap::with_max_entries(16_384, 0);
/// The profiled VMs by the addresses of their `struct kvm`.
#[map]
static VM_NUMBERS: HashMap<u64, VmAt> = HashMap::with_max_entries(1024, 0);
/// Numbers of the profiled VMs by the addresses of their `mm_struct`.
#[map]
static MM_NUMBERS: HashMap<u64, u32> = HashMap::with_max_entries(1024, 0);
/// Allocated as keys turn up: most hosts see a handful, and every one takes
/// 4 KB per CPU.
#[map]
static HISTOGRAMS: PerCpuHashMap<HistogramKey, Histogram> =
    PerCpuHashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// For histograms that could not be made when they were needed.
#[map]
static SPARE_HISTOGRAMS: PerCpuHashMap<HistogramKey, Histogram> =
    PerCpuHashMap::with_max_entries(128, 0);

#[inline(always)]
fn enter() -> Option<()> {
    // SAFETY: a live per-CPU map value.
    let totals = unsafe { &mut *TOTALS.get_ptr_mut(0)? };
    let task = bpf_get_current_pid_tgid();
    if STARTS.get_ptr(task).is_some() {
        totals.starts_replaced += 1;
    }
    let mut start = MaybeUninit::<Start>::uninit();
    let fields = start.as_mut_ptr();
    // Volatile: several zeroes in a row would become a loop over bytes.
    // SAFETY: `fields` points to `start`, and every field is written before it is used.
    unsafe {
        (&raw mut (*fields).inner_ns).write_volatile(0);
        (&raw mut (*fields).vm).write_volatile(u64::from(NO_VM));
        (&raw mut (*fields).sptes).write_volatile(0);
        (&raw mut (*fields).descriptors).write_volatile(0);
        (&raw mut (*fields).locked).write_volatile(0);
        (&raw mut (*fields).heads).write_volatile(0);
        (&raw mut (*fields).tdp_since_ns).write_volatile(0);
        (&raw mut (*fields).tdp_ns).write_volatile(0);
        (&raw mut (*fields).entered_ns).write_volatile(now_ns());
        if STARTS
            .insert(task, start.assume_init_ref(), u64::from(BPF_ANY))
            .is_err()
        {
            totals.starts_full += 1;
        }
    }
    Some(())
}

/// Adds the heads of one gfn range at one level, as far as descriptors may be read for it.
#[inline(always)]
fn add_level(
    start: &mut Start,
    array: u64,
    (base, first, end): (u64, u64, u64),
    shift: u64,
    reader: chain::Reader,
) {
    let from = (first >> shift) - (base >> shift);
    let until = ((end - 1) >> shift) - (base >> shift);
    let wanted = until - from + 1;
    let most = if wanted > MAX_HEADS {
        MAX_HEADS
    } else {
        wanted
    };
    repeat(most as u32, |index| {
        let Some(head) = read::<u64>(array + (from + index) * 8) else {
            start.heads |= heads::UNREADABLE;
            return true;
        };
        start.heads |= heads::READ;
        start.locked |= u64::from(head::is_locked(head));
        let left = descriptors_left(start.descriptors);
        match chain::decode(head, reader, left) {
            Chain::Empty => {}
            Chain::One(_) => start.sptes += 1,
            Chain::Many {
                length,
                descriptors,
                ..
            } if left > 0 => {
                start.sptes += u64::from(length);
                start.descriptors += chain::read_for(descriptors);
            }
            // What is not whole has no length: the rest need not be read.
            Chain::Many { .. } | Chain::Fault | Chain::Torn => {
                start.heads |= heads::UNREADABLE;
                return true;
            }
        }
        false
    });
}

/// `kvm_age_gfn(kvm, range)` or `kvm_test_age_gfn(kvm, range)` begins.
#[inline(always)]
fn inner(kvm: u64, range: u64, reader: chain::Reader) -> Option<()> {
    let now = now_ns();
    let start = STARTS.get_ptr_mut(bpf_get_current_pid_tgid())?;
    // SAFETY: a live map value that only this task uses.
    let start = unsafe { &mut *start };
    if start.inner_ns == 0 {
        let vm = number_of(kvm);
        start.inner_ns = now;
        start.vm = u64::from(vm);
        interference::note_aging(vm);
    }
    start.leave_tdp(now);
    if start.heads & heads::UNREADABLE != 0 {
        return Some(());
    }
    if add_range(start, range, reader).is_none() {
        start.heads |= heads::UNREADABLE;
    }
    Some(())
}

/// Adds the heads of a range of gfns; `None` if something on the way cannot be read.
#[inline(always)]
fn add_range(start: &mut Start, range: u64, reader: chain::Reader) -> Option<()> {
    let slot = read_member::<u64>(range, &RANGE_SLOT)?;
    let first = read_member::<u64>(range, &RANGE_START)?;
    let end = read_member::<u64>(range, &RANGE_END)?;
    let base = read_member::<u64>(slot, &SLOT_BASE_GFN)?;
    if end <= first || first < base {
        return None;
    }
    let arrays = slot + offset(&SLOT_RMAP);
    let mut level = 0;
    while level < LEVELS as u64 {
        let array = read::<u64>(arrays + level * 8)?;
        if array != 0 && start.heads & heads::UNREADABLE == 0 {
            add_level(start, array, (base, first, end), 9 * level, reader);
        }
        level += 1;
    }
    Some(())
}

/// `kvm_rmap_age_gfn_range` begins.
#[inline(always)]
fn rmaps() -> Option<()> {
    let start = STARTS.get_ptr_mut(bpf_get_current_pid_tgid())?;
    // SAFETY: a live map value that only this task uses.
    unsafe { (*start).leave_tdp(now_ns()) };
    Some(())
}

/// `kvm_tdp_mmu_age_gfn_range` or `kvm_tdp_mmu_test_age_gfn` begins.
#[inline(always)]
fn tdp() -> Option<()> {
    let start = STARTS.get_ptr_mut(bpf_get_current_pid_tgid())?;
    // SAFETY: a live map value that only this task uses.
    unsafe { (*start).tdp_since_ns = now_ns() };
    Some(())
}

/// The number of the VM with this `struct kvm`, or [`NO_VM`].
#[inline(always)]
pub(crate) fn number_of(kvm: u64) -> u16 {
    match VM_NUMBERS.get_ptr(kvm) {
        // SAFETY: a live map value.
        Some(known) => unsafe { (*known).number_if(read_member(kvm, &KVM_USERSPACE_PID)) },
        None => NO_VM,
    }
}

/// The number of the VM with this `mm_struct`, or [`NO_VM`].
#[inline(always)]
fn number_of_mm(mm: u64) -> u16 {
    match MM_NUMBERS.get_ptr(mm) {
        // SAFETY: a live map value.
        Some(number) => unsafe { *number as u16 },
        None => NO_VM,
    }
}

#[inline(always)]
fn length_of(start: &Start, vm: u16) -> u16 {
    let walk = Walk {
        is_probed: INNER_PROBED.load() != 0,
        has_entered: start.inner_ns != 0,
        heads: start.heads,
        sptes: start.sptes,
    };
    walk.length(vm)
}

#[inline(always)]
fn add_latency(totals: &mut Totals, cell: CellKey, of: u8, ns: u64) {
    let key = HistogramKey {
        cell,
        span: of,
        zero: [0; 7],
    };
    if latency::add(&HISTOGRAMS, &SPARE_HISTOGRAMS, key, ns).is_none() {
        totals.histograms_full += 1;
    }
}

#[inline(always)]
fn leave(context: &FExitContext, kind: Kind, first: u64, end: u64) -> Option<()> {
    let now = now_ns();
    // SAFETY: a live per-CPU map value.
    let totals = unsafe { &mut *TOTALS.get_ptr_mut(0)? };
    totals.callbacks += 1;
    let task = bpf_get_current_pid_tgid();
    let Some(start) = STARTS.get_ptr(task) else {
        totals.exits_unmatched += 1;
        return None;
    };
    // SAFETY: a live map value, copied before it is removed.
    let mut start = unsafe { *start };
    let _ = STARTS.remove(task);
    start.leave_tdp(now);

    let returned = context.ret::<u64>().unwrap_or(0);
    let young = returned & RETURN_MASK.load() != 0;
    let meaning = caller::meaning(context, totals, kind as u32, task);
    let vm = if start.inner_ns == 0 {
        number_of_mm(context.arg(0))
    } else {
        start.vm as u16
    };
    interference::note_aging(vm);
    let key = CellKey {
        vm,
        length: length_of(&start, vm),
        kind: kind as u8,
        caller: caller::caller(meaning) as u8,
        several_pages: u8::from(end - first > 4096),
        zero: 0,
    };
    // CPUs' clocks are alike, not the same: a callback may end before it began.
    let total_ns = now.saturating_sub(start.entered_ns);
    let wait_ns = start.inner_ns.saturating_sub(start.entered_ns);
    if let Some(cell) = callback::cell(totals, key) {
        cell.callbacks += 1;
        cell.pages += (end - first) >> 12;
        cell.locked += start.locked;
        cell.young += u64::from(young);
        cell.total_ns += total_ns;
        if total_ns > cell.max_ns {
            cell.max_ns = total_ns;
        }
        if start.inner_ns != 0 {
            cell.waits += 1;
            cell.wait_ns += wait_ns;
        }
    }
    add_latency(totals, key, span::TOTAL, total_ns);
    if start.inner_ns != 0 {
        add_latency(totals, key, span::WAIT, wait_ns);
    }
    if start.tdp_ns != 0 {
        add_latency(totals, key, span::TDP, start.tdp_ns);
    }
    if callback::is_event_due(totals) {
        let event = Event {
            time_ns: start.entered_ns,
            start: first,
            end,
            total_ns,
            pid: task as u32,
            // SAFETY: the helper takes no argument.
            cpu: unsafe { bpf_get_smp_processor_id() },
            vm: key.vm,
            length: key.length,
            kind: key.kind,
            caller: key.caller,
            young: u8::from(young),
            locked: start.locked as u8,
        };
        callback::send(totals, event);
    }
    Some(())
}

#[fentry(function = "__mmu_notifier_clear_flush_young")]
fn rs_cfy_enter(_context: FEntryContext) -> i32 {
    enter();
    0
}

#[fentry(function = "__mmu_notifier_clear_young")]
fn rs_cy_enter(_context: FEntryContext) -> i32 {
    enter();
    0
}

#[fentry(function = "__mmu_notifier_test_young")]
fn rs_ty_enter(_context: FEntryContext) -> i32 {
    enter();
    0
}

#[fexit(function = "__mmu_notifier_clear_flush_young")]
fn rs_cfy_exit(context: FExitContext) -> i32 {
    leave(
        &context,
        Kind::ClearFlushYoung,
        context.arg(1),
        context.arg(2),
    );
    0
}

#[fexit(function = "__mmu_notifier_clear_young")]
fn rs_cy_exit(context: FExitContext) -> i32 {
    leave(&context, Kind::ClearYoung, context.arg(1), context.arg(2));
    0
}

#[fexit(function = "__mmu_notifier_test_young")]
fn rs_ty_exit(context: FExitContext) -> i32 {
    let hva: u64 = context.arg(1);
    leave(&context, Kind::TestYoung, hva, hva + 4096);
    0
}

#[fentry(function = "kvm_age_gfn")]
fn rs_inner_age(context: FEntryContext) -> i32 {
    inner(context.arg(0), context.arg(1), chain::Reader::Clearing);
    0
}

#[fentry(function = "kvm_test_age_gfn")]
fn rs_inner_test(context: FEntryContext) -> i32 {
    inner(context.arg(0), context.arg(1), chain::Reader::Testing);
    0
}

/// Both inner functions, where KVM is a module.
#[kprobe]
fn rs_inner_kprobe(context: ProbeContext) -> u32 {
    if let (Some(kvm), Some(range)) = (context.arg(0), context.arg(1)) {
        inner(kvm, range, chain::Reader::Clearing);
    }
    0
}

#[fentry(function = "kvm_tdp_mmu_age_gfn_range")]
fn rs_tdp_age(_context: FEntryContext) -> i32 {
    tdp();
    0
}

#[fentry(function = "kvm_tdp_mmu_test_age_gfn")]
fn rs_tdp_test(_context: FEntryContext) -> i32 {
    tdp();
    0
}

/// Both functions of the TDP MMU, where KVM is a module.
#[kprobe]
fn rs_tdp_kprobe(_context: ProbeContext) -> u32 {
    tdp();
    0
}

/// The rmaps' function, where the TDP MMU is asked before them. It is static, and a
/// compiler may have changed its arguments, so it has no fentry.
#[kprobe]
fn rs_rmap_kprobe(_context: ProbeContext) -> u32 {
    rmaps();
    0
}
