//! Finding VMs: an iterator over all open files.
//!
//! A VM is an open file whose `release` is KVM's VM release, or a vCPU's, which
//! leads to its VM: so a VM is found even if only vCPU files are left open.
//! No lock of KVM's is taken; memslots are read under the iterator's RCU
//! section and checked against their generation afterwards.

use core::ffi::c_void;

use aya_ebpf::{Global, macros::map, maps::Array};
use profiler_common::census::{
    Enumeration, LEVELS, MAX_ADDRESS_SPACES, MAX_SLOTS, MAX_VMS, Slot, Vm,
};

use crate::kernel::{
    FILE_F_OP, FILE_OPERATIONS_RELEASE, FILE_PRIVATE_DATA, KVM_MEMSLOTS, KVM_MM, KVM_USERSPACE_PID,
    MEMSLOTS_GENERATION, MEMSLOTS_ID_HASH, MEMSLOTS_NODE_IDX, SLOT_BASE_GFN, SLOT_FLAGS, SLOT_ID,
    SLOT_ID_NODE, SLOT_NPAGES, SLOT_RMAP, SLOT_USERSPACE_ADDR, TASK_TGID, VCPU_KVM, offset, read,
    read_into, read_member, repeat,
};

/// Address of `kvm_vm_release`.
#[unsafe(no_mangle)]
static VM_RELEASE: Global<u64> = Global::new(0);
/// Address of `kvm_vcpu_release`.
#[unsafe(no_mangle)]
static VCPU_RELEASE: Global<u64> = Global::new(0);
/// Buckets of `kvm_memslots.id_hash`.
#[unsafe(no_mangle)]
static ID_HASH_BUCKETS: Global<u32> = Global::new(0);
/// Entries of `kvm.memslots`.
#[unsafe(no_mangle)]
static ADDRESS_SPACES: Global<u32> = Global::new(0);

#[map]
static VMS: Array<Vm> = Array::with_max_entries(MAX_VMS as u32, 0);
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(MAX_SLOTS as u32, 0);
#[map]
static ENUMERATION: Array<Enumeration> = Array::with_max_entries(1, 0);

/// Longest bucket that is followed: more entries than KVM allows memslots.
const MAX_BUCKET: u32 = 32_768;
/// Size of a `hlist_node`: `id_node` is an array of two, `node_idx` picks one.
const HLIST_NODE_BYTES: u64 = 16;

/// `struct bpf_iter__task_file`, the context of `iter/task_file`.
#[repr(C)]
pub(crate) struct TaskFile {
    meta: *const c_void,
    task: *const u8,
    fd: u32,
    padding: u32,
    file: *const u8,
}

/// What kind of KVM file the iterator is at, and the VM behind it.
pub(crate) struct VmFile {
    pub(crate) kvm: u64,
    pub(crate) is_vcpu: bool,
}

impl TaskFile {
    /// The VM behind the file, if it is one of KVM's.
    ///
    /// # Safety
    /// `this` is the context the kernel passed in.
    #[inline(always)]
    pub(crate) unsafe fn vm(this: *const Self) -> Option<VmFile> {
        // SAFETY: the kernel passes a valid context; its pointers are checked before use.
        let file = unsafe { (*this).file };
        if file.is_null() {
            return None;
        }
        let file = file as u64;
        let operations = read_member::<u64>(file, &FILE_F_OP)?;
        let release = read_member::<u64>(operations, &FILE_OPERATIONS_RELEASE)?;
        let is_vcpu = release == VCPU_RELEASE.load();
        if !is_vcpu && release != VM_RELEASE.load() {
            return None;
        }
        let private = read_member::<u64>(file, &FILE_PRIVATE_DATA)?;
        let kvm = if is_vcpu {
            read_member(private, &VCPU_KVM)?
        } else {
            private
        };
        Some(VmFile { kvm, is_vcpu })
    }
}

/// Walks the memslots of one set; `each` gets a memslot's address and returns
/// true to stop. Returns false if a read failed.
#[inline(always)]
pub(crate) fn for_each_slot<F: FnMut(u64) -> bool>(memslots: u64, mut each: F) -> bool {
    let Some(index) = read_member::<u32>(memslots, &MEMSLOTS_NODE_IDX) else {
        return false;
    };
    let node_offset = offset(&SLOT_ID_NODE) + u64::from(index & 1) * HLIST_NODE_BYTES;
    let buckets = memslots + offset(&MEMSLOTS_ID_HASH);
    let mut complete = true;
    // Not a bool: the verifier cannot see that one read back from the stack is 0 or 1, which a
    // loop's body must return.
    let mut stop = 0u64;
    repeat(ID_HASH_BUCKETS.load(), |bucket| {
        let Some(mut node) = read::<u64>(buckets + bucket * 8) else {
            complete = false;
            return true;
        };
        if node == 0 {
            return false;
        }
        repeat(MAX_BUCKET, |_| {
            if node == 0 {
                return true;
            }
            if each(node - node_offset) {
                stop = 1;
                return true;
            }
            match read::<u64>(node) {
                Some(next) => node = next,
                None => {
                    complete = false;
                    return true;
                }
            }
            false
        });
        stop != 0
    });
    complete
}

/// Copies one memslot into the table.
#[inline(always)]
unsafe fn store_slot(totals: *mut Enumeration, vm: *mut Vm, vm_number: u32, space: u32, slot: u64) {
    // SAFETY: `totals`, `vm` and `out` are live map values; reads of kernel memory are checked.
    unsafe {
        let position = (*totals).slots;
        let Some(out) = SLOTS.get_ptr_mut(position) else {
            (*totals).did_not_fit += 1;
            return;
        };
        (*out).vm = vm_number;
        (*out).address_space = space;
        (*out).base_gfn = read_member(slot, &SLOT_BASE_GFN).unwrap_or(0);
        (*out).pages = read_member(slot, &SLOT_NPAGES).unwrap_or(0);
        (*out).hva = read_member(slot, &SLOT_USERSPACE_ADDR).unwrap_or(0);
        (*out).flags = read_member(slot, &SLOT_FLAGS).unwrap_or(0);
        (*out).id = u32::from(read_member::<u16>(slot, &SLOT_ID).unwrap_or(u16::MAX));
        let rmap = &raw mut (*out).rmap;
        if !read_into(rmap, (LEVELS * 8) as u32, slot + offset(&SLOT_RMAP)) {
            (*totals).faults += 1;
            return;
        }
        (*totals).slots = position + 1;
        (*vm).slots += 1;
    }
}

/// Reads the memslots of one address space of a new VM.
#[inline(always)]
unsafe fn store_space(
    totals: *mut Enumeration,
    vm: *mut Vm,
    vm_number: u32,
    space: u32,
) -> Option<()> {
    // SAFETY: `totals` and `vm` are live map values.
    unsafe {
        let entry = (*vm).kvm + offset(&KVM_MEMSLOTS) + u64::from(space) * 8;
        let memslots = read::<u64>(entry)?;
        if memslots == 0 {
            return Some(());
        }
        let generation = read_member::<u64>(memslots, &MEMSLOTS_GENERATION)?;
        if !for_each_slot(memslots, |slot| {
            store_slot(totals, vm, vm_number, space, slot);
            false
        }) {
            (*totals).faults += 1;
        }
        if read::<u64>(entry)? != memslots
            || read_member::<u64>(memslots, &MEMSLOTS_GENERATION)? != generation
        {
            (*totals).changed += 1;
            return Some(());
        }
        let space = space as usize;
        if space < MAX_ADDRESS_SPACES {
            (&raw mut (*vm).memslots)
                .cast::<u64>()
                .add(space)
                .write(memslots);
            (&raw mut (*vm).generation)
                .cast::<u64>()
                .add(space)
                .write(generation);
        }
        Some(())
    }
}

/// The entry of a VM that is already in the table.
#[inline(always)]
fn known(count: u32, kvm: u64) -> Option<u32> {
    let mut found = None;
    repeat(count, |position| {
        let Some(vm) = VMS.get_ptr(position as u32) else {
            return true;
        };
        // SAFETY: a live map value.
        if unsafe { (*vm).kvm } == kvm {
            found = Some(position as u32);
        }
        found.is_some()
    });
    found
}

#[inline(always)]
unsafe fn visit(context: *const TaskFile) -> Option<()> {
    // SAFETY: the kernel passes a valid context; map values are live; kernel reads are checked.
    unsafe {
        let totals = ENUMERATION.get_ptr_mut(0)?;
        (*totals).files += 1;
        let task = (*context).task;
        if task.is_null() {
            return None;
        }
        let VmFile { kvm, is_vcpu } = TaskFile::vm(context)?;
        let number = (*totals).vms;
        if let Some(position) = known(number, kvm) {
            let vm = VMS.get_ptr_mut(position)?;
            (*vm).vcpus += u32::from(is_vcpu);
            return None;
        }
        let Some(vm) = VMS.get_ptr_mut(number) else {
            (*totals).did_not_fit += 1;
            return None;
        };
        (*vm).kvm = kvm;
        (*vm).mm = read_member(kvm, &KVM_MM)?;
        (*vm).tgid = read_member(task as u64, &TASK_TGID)?;
        (*vm).userspace_pid = read_member(kvm, &KVM_USERSPACE_PID)?;
        (*vm).vcpus = u32::from(is_vcpu);
        (*vm).slots = 0;
        (*vm).memslots[0] = 0;
        (*vm).memslots[1] = 0;
        (*totals).vms = number + 1;
        let mut space = 0;
        while space < MAX_ADDRESS_SPACES as u32 {
            if space < ADDRESS_SPACES.load() && store_space(totals, vm, number, space).is_none() {
                (*totals).faults += 1;
            }
            space += 1;
        }
        None
    }
}

/// Finds VMs and their memslots. User space zeroes the totals before each run.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn rs_vms(context: *mut TaskFile) -> i32 {
    // SAFETY: called by the kernel with its own context.
    unsafe { visit(context) };
    0
}
