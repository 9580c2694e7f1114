//! What aging and vCPU faults do to each other: how long faults take, and who
//! waits how long for `mmu_lock`, while a VM's pages are aged and while not.
//!
//! Faults are timed from entry to exit of `kvm_mmu_page_fault`, where it can be
//! probed. Waits are the kernel's own `contention_begin` and `contention_end`
//! of a lock whose address is that of a recorded VM's `mmu_lock`; the stack
//! tells who waits. A VM is being aged if a callback on it began in this timer
//! tick or the one before, so the callbacks' programs note the tick.

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC},
    helpers::{bpf_get_current_pid_tgid, generated::bpf_jiffies64},
    macros::{fentry, fexit, kprobe, kretprobe, map, raw_tracepoint},
    maps::{Array, HashMap, PerCpuHashMap},
    programs::{FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext},
};
use profiler_common::{
    aging::NO_VM,
    exact::VmAt,
    histogram::Histogram,
    interference::{AGING_TICKS, InterferenceKey, What},
    symbols::tag,
};

use crate::{
    callback::TOTALS,
    caller::{self, Reader},
    exact,
    kernel::{KVM_MMU_LOCK, KVM_USERSPACE_PID, VCPU_KVM, now_ns, offset, read_member},
    latency,
};

/// 1 if faults or waits are observed, so that callbacks note the tick.
#[unsafe(no_mangle)]
static INTERFERENCE: Global<u32> = Global::new(0);

/// The tick of the last callback on each VM, by its number.
#[map]
static AGED: Array<u64> = Array::with_max_entries(1 << 16, 0);
/// The recorded VMs by the address of their `mmu_lock`.
#[map]
static MMU_LOCKS: HashMap<u64, VmAt> = HashMap::with_max_entries(1024, 0);
#[map]
static SPENT: PerCpuHashMap<InterferenceKey, Histogram> =
    PerCpuHashMap::with_max_entries(2048, BPF_F_NO_PREALLOC);
/// For histograms that could not be made when they were needed.
#[map]
static SPARE_SPENT: PerCpuHashMap<InterferenceKey, Histogram> =
    PerCpuHashMap::with_max_entries(32, 0);

/// A fault or a wait that has not ended, by task.
#[repr(C)]
#[derive(Clone, Copy)]
struct Began {
    at_ns: u64,
    vm: u32,
    /// A [`What`].
    what: u32,
}

#[map]
static FAULTS: HashMap<u64, Began> = HashMap::with_max_entries(8192, 0);
#[map]
static WAITS: HashMap<u64, Began> = HashMap::with_max_entries(4096, 0);

/// Notes that a callback on `vm` has begun.
#[inline(always)]
pub(crate) fn note_aging(vm: u16) {
    if INTERFERENCE.load() == 0 {
        return;
    }
    let Some(last) = AGED.get_ptr_mut(u32::from(vm)) else {
        return;
    };
    // SAFETY: the helper takes no argument; a live map value, of which CPUs store the same tick.
    unsafe {
        let now = bpf_jiffies64();
        // Only once a tick: the line stays shared between CPUs that age the same VM.
        if *last != now {
            *last = now;
        }
    }
}

#[inline(always)]
fn is_aged(vm: u32) -> bool {
    let Some(last) = AGED.get(vm) else {
        return false;
    };
    // SAFETY: the helper takes no argument.
    let now = unsafe { bpf_jiffies64() };
    *last != 0 && now.saturating_sub(*last) <= AGING_TICKS
}

/// Files what `began` and ends now.
#[inline(always)]
fn file(began: &Began) -> Option<()> {
    if began.vm == u32::from(NO_VM) {
        return None;
    }
    let key = InterferenceKey {
        vm: began.vm as u16,
        what: began.what as u8,
        aging: u8::from(is_aged(began.vm)),
        zero: 0,
    };
    if latency::add(
        &SPENT,
        &SPARE_SPENT,
        key,
        now_ns().saturating_sub(began.at_ns),
    )
    .is_none()
    {
        // SAFETY: a live per-CPU map value.
        unsafe { (*TOTALS.get_ptr_mut(0)?).interference_full += 1 };
    }
    None
}

#[inline(always)]
fn fault_begins(vcpu: u64) -> Option<()> {
    // SAFETY: a live per-CPU map value.
    let totals = unsafe { &mut *TOTALS.get_ptr_mut(0)? };
    totals.fault_runs += 1;
    let kvm = read_member::<u64>(vcpu, &VCPU_KVM)?;
    let task = bpf_get_current_pid_tgid();
    if FAULTS.get_ptr(task).is_some() {
        totals.faults_replaced += 1;
    }
    let began = Began {
        at_ns: now_ns(),
        // Faults of other VMs too, so that every end finds its beginning.
        vm: u32::from(exact::number_of(kvm)),
        what: What::Fault as u32,
    };
    if FAULTS.insert(task, began, u64::from(BPF_ANY)).is_err() {
        totals.faults_full += 1;
    }
    Some(())
}

#[inline(always)]
fn fault_ends() -> Option<()> {
    // SAFETY: a live per-CPU map value.
    let totals = unsafe { &mut *TOTALS.get_ptr_mut(0)? };
    totals.fault_runs += 1;
    let task = bpf_get_current_pid_tgid();
    let Some(began) = FAULTS.get_ptr(task) else {
        totals.faults_unmatched += 1;
        return None;
    };
    // SAFETY: a live map value, copied before it is removed.
    let began = unsafe { *began };
    let _ = FAULTS.remove(task);
    file(&began)
}

/// Where KVM is built in: a vCPU's fault begins.
#[fentry(function = "kvm_mmu_page_fault")]
fn rs_fault_enter(context: FEntryContext) -> i32 {
    fault_begins(context.arg(0));
    0
}

/// Where KVM is built in: a vCPU's fault ends.
#[fexit(function = "kvm_mmu_page_fault")]
fn rs_fault_exit(_context: FExitContext) -> i32 {
    fault_ends();
    0
}

/// Where KVM is a module: a vCPU's fault begins.
#[kprobe]
fn rs_fault_kprobe(context: ProbeContext) -> u32 {
    if let Some(vcpu) = context.arg(0) {
        fault_begins(vcpu);
    }
    0
}

/// Where KVM is a module: a vCPU's fault ends.
#[kretprobe]
fn rs_fault_return(_context: RetProbeContext) -> u32 {
    fault_ends();
    0
}

#[inline(always)]
fn wait_begins(context: &RawTracePointContext) -> Option<()> {
    // SAFETY: a live per-CPU map value.
    let totals = unsafe { &mut *TOTALS.get_ptr_mut(0)? };
    totals.wait_runs += 1;
    // Every contended lock of the host comes by here: most are nobody's `mmu_lock`.
    let lock: u64 = context.arg(0);
    let known = MMU_LOCKS.get_ptr(lock)?;
    let pid = read_member(lock - offset(&KVM_MMU_LOCK), &KVM_USERSPACE_PID);
    // SAFETY: a live map value.
    let vm = u32::from(unsafe { (*known).number_if(pid) });
    let at_ns = now_ns();
    let what = match caller::stack_tags(context, Reader::LOCK, tag::FAULT | tag::NOTIFIERS) {
        Some(tags) if tags.all & tag::FAULT != 0 => What::FaultWait,
        Some(tags) if tags.all & tag::NOTIFIERS != 0 => What::AgingWait,
        Some(_) => What::OtherWait,
        None => {
            totals.waits_failed += 1;
            What::OtherWait
        }
    };
    let began = Began {
        at_ns,
        vm,
        what: what as u32,
    };
    let task = bpf_get_current_pid_tgid();
    if WAITS.insert(task, began, u64::from(BPF_ANY)).is_err() {
        totals.waits_full += 1;
    }
    Some(())
}

#[inline(always)]
fn wait_ends(context: &RawTracePointContext) -> Option<()> {
    // SAFETY: a live per-CPU map value.
    let totals = unsafe { &mut *TOTALS.get_ptr_mut(0)? };
    totals.wait_runs += 1;
    MMU_LOCKS.get_ptr(context.arg::<u64>(0))?;
    let task = bpf_get_current_pid_tgid();
    let Some(began) = WAITS.get_ptr(task) else {
        totals.waits_unmatched += 1;
        return None;
    };
    // SAFETY: a live map value, copied before it is removed.
    let began = unsafe { *began };
    let _ = WAITS.remove(task);
    file(&began)
}

/// `lock:contention_begin`: somebody starts to wait for a lock.
#[raw_tracepoint(tracepoint = "contention_begin")]
fn rs_wait_begins(context: RawTracePointContext) -> i32 {
    wait_begins(&context);
    0
}

/// `lock:contention_end`: and has it, or gives up.
#[raw_tracepoint(tracepoint = "contention_end")]
fn rs_wait_ends(context: RawTracePointContext) -> i32 {
    wait_ends(&context);
    0
}
