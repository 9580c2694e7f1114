//! Kernel struct members the eBPF programs read, and the globals their byte
//! offsets are passed in.
//!
//! The programs hold no offset of their own: user space finds each in the
//! running kernel's BTF and writes it into the global of that name before the
//! object is loaded. Both sides are generated from the one list in
//! [`kernel_members!`](crate::kernel_members), so neither can forget a member.

/// Passes the list of members, as `GLOBAL = "struct", "member.path";`, to the
/// macro `$then`.
#[macro_export]
macro_rules! kernel_members {
    ($then:ident) => {
        $then! {
            FILE_F_OP = "file", "f_op";
            FILE_PRIVATE_DATA = "file", "private_data";
            FILE_OPERATIONS_RELEASE = "file_operations", "release";
            TASK_TGID = "task_struct", "tgid";
            KVM_MM = "kvm", "mm";
            KVM_MEMSLOTS = "kvm", "memslots";
            KVM_MMU_LOCK = "kvm", "mmu_lock";
            KVM_USERSPACE_PID = "kvm", "userspace_pid";
            VCPU_KVM = "kvm_vcpu", "kvm";
            MEMSLOTS_GENERATION = "kvm_memslots", "generation";
            MEMSLOTS_NODE_IDX = "kvm_memslots", "node_idx";
            MEMSLOTS_ID_HASH = "kvm_memslots", "id_hash";
            SLOT_ID_NODE = "kvm_memory_slot", "id_node";
            SLOT_BASE_GFN = "kvm_memory_slot", "base_gfn";
            SLOT_NPAGES = "kvm_memory_slot", "npages";
            SLOT_USERSPACE_ADDR = "kvm_memory_slot", "userspace_addr";
            SLOT_ID = "kvm_memory_slot", "id";
            SLOT_FLAGS = "kvm_memory_slot", "flags";
            SLOT_RMAP = "kvm_memory_slot", "arch.rmap";
            RANGE_SLOT = "kvm_gfn_range", "slot";
            RANGE_START = "kvm_gfn_range", "start";
            RANGE_END = "kvm_gfn_range", "end";
        }
    };
}

/// As [`kernel_members!`](crate::kernel_members), for what only the census of the TDP MMU's tables
/// reads: a kernel that lacks one of them has everything else.
#[macro_export]
macro_rules! tdp_members {
    ($then:ident) => {
        $then! {
            KVM_TDP_ROOTS = "kvm", "arch.tdp_mmu_roots";
            MMU_PAGE_LINK = "kvm_mmu_page", "link";
            MMU_PAGE_ROLE = "kvm_mmu_page", "role";
            MMU_PAGE_SPT = "kvm_mmu_page", "spt";
        }
    };
}

/// A member and the global that carries its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Symbol of the global in the eBPF object.
    pub global: &'static str,
    /// Struct tag.
    pub of: &'static str,
    /// Member, with dots through nested structs.
    pub path: &'static str,
}

macro_rules! list {
    ($($global:ident = $of:literal, $path:literal;)*) => {
        &[$(Member { global: stringify!($global), of: $of, path: $path },)*]
    };
}

/// Every member without which nothing works.
pub const MEMBERS: &[Member] = kernel_members!(list);
/// Every member that the census of the TDP MMU's tables reads besides.
pub const TDP_MEMBERS: &[Member] = tdp_members!(list);
