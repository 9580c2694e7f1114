//! The virtual machine: memslots, page tables, registers.
//!
//! The vCPU starts in long mode at CPL 3 with everything mapped, so hosts that can run user mode
//! only without emulation build real SPTEs too. An L1 starts at CPL 0, which VMRUN needs.
//!
//! Invariant: a [`Machine`] owns the memory its memslots point to and is shared with the vCPU
//! thread, so the memory outlives the last KVM_RUN.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::backing;
use crate::config::{Backing, GuestConfig};
use crate::error::GuestError;
use crate::layout::{
    self, CODE_VA, CONTROL_VA, DATA_GPA, DATA_VA, EXIT_VA, PAGE_SIZE, PageTables, alias_stride,
};
use crate::memory::Mapping;
use crate::nested;
use crate::program::{self, Word};
use crate::stats::{KvmStats, StatsError};

/// Memslot of the memory that is added first while the guest runs.
const FIRST_PLUGGED: u64 = 2;
/// `_IO(KVMIO, 0x44)`
const KVM_SET_NR_MMU_PAGES: libc::c_ulong = 0xae44;
/// `_IO(KVMIO, 0xce)`
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Where VT-x without unrestricted guests keeps three pages of its own; below 4 GiB and unused.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// Protection, paging, numeric errors, write protection and the bits that are always set.
pub(crate) const CR0: u64 = 0x8005_0033;
/// Physical address extension.
pub(crate) const CR4: u64 = 0x20;
/// Long mode enabled and active, no-execute, system calls.
pub(crate) const EFER: u64 = 0xd01;

/// A VM with its memory, ready for its one vCPU.
pub(crate) struct Machine {
    // Dropped first: the memslots go before the memory they point to.
    vm: VmFd,
    plugged: Mutex<Vec<Mapping>>,
    stats: File,
    low: Mapping,
    data: Mapping,
    _spare: Option<Mapping>,
}

impl Machine {
    /// Makes the VM and its vCPU.
    pub(crate) fn new(config: &GuestConfig) -> Result<(Self, VcpuFd), GuestError> {
        let kvm = open_kvm()?;
        // Made before the VM, so that an error drops them after it.
        let low = Mapping::anonymous(layout::low_bytes(config.pages, config.mappings()))?;
        let data = data_memory(config)?;
        let spare = spare_memory(config)?;
        let vm = kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
        // AMD has no use for it and other hosts may refuse: only VT-x depends on it.
        let _ = vm.set_tss_address(TSS_ADDRESS);
        add_memslot(&vm, 0, 0, &low)?;
        add_memslot(&vm, 1, DATA_GPA, &data)?;
        if let Some(spare) = &spare {
            add_memslot(&vm, 2, layout::spare_gpa(config.pages), spare)?;
        }
        limit_shadow_pages(&vm, layout::shadow_pages(config.pages, config.mappings()))?;
        let cr3 = fill_low_memory(&low, config)?;
        let vcpu = create_vcpu(&kvm, &vm, config, cr3)?;
        let stats = stats_file(&vm)?;
        let machine = Self {
            vm,
            plugged: Mutex::new(Vec::new()),
            stats,
            low,
            data,
            _spare: spare,
        };
        Ok((machine, vcpu))
    }

    /// Adds `count` memslots of `pages` pages each behind the data.
    pub(crate) fn plug(&self, count: u32, pages: u64) -> Result<(), GuestError> {
        let mut plugged = self.plugged();
        for _ in 0..count {
            let (slot, gpa) = self.place(plugged.len(), pages);
            let memory = Mapping::anonymous(pages * PAGE_SIZE)?;
            add_memslot(&self.vm, slot, gpa, &memory)?;
            plugged.push(memory);
        }
        Ok(())
    }

    /// Removes the memslots that were added last.
    pub(crate) fn unplug(&self, count: u32) -> Result<(), GuestError> {
        let mut plugged = self.plugged();
        for _ in 0..count {
            let Some(memory) = plugged.last() else {
                break;
            };
            let pages = memory.len() / PAGE_SIZE;
            let (slot, gpa) = self.place(plugged.len() - 1, pages);
            remove_memslot(&self.vm, slot, gpa)?;
            plugged.pop();
        }
        Ok(())
    }

    /// Number and guest physical address of the memslot that is added as the
    /// one after `before` others of its size.
    fn place(&self, before: usize, pages: u64) -> (u32, u64) {
        let before = before as u64;
        let slot = u32::try_from(FIRST_PLUGGED + before).unwrap_or(u32::MAX);
        let first = (DATA_GPA + self.data.len()).next_multiple_of(layout::TABLE_SPAN);
        (slot, first + before * pages * PAGE_SIZE)
    }

    fn plugged(&self) -> MutexGuard<'_, Vec<Mapping>> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The low memslot with the control page.
    pub(crate) fn low(&self) -> &Mapping {
        &self.low
    }

    /// The data pages.
    pub(crate) fn data(&self) -> &Mapping {
        &self.data
    }

    /// The VM's statistics now.
    pub(crate) fn stats(&self) -> Result<KvmStats, StatsError> {
        KvmStats::read(&self.stats)
    }
}

/// Opens KVM, with an error that says how to get it.
pub(crate) fn open_kvm() -> Result<Kvm, GuestError> {
    Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => GuestError::NoKvm,
        libc::EACCES | libc::EPERM => GuestError::KvmDenied,
        errno => GuestError::Kvm {
            call: "the opening of /dev/kvm",
            cause: io::Error::from_raw_os_error(errno),
        },
    })
}

pub(crate) fn refused(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> GuestError {
    move |error| GuestError::Kvm {
        call,
        cause: io::Error::from_raw_os_error(error.errno()),
    }
}

fn last_error(call: &'static str) -> GuestError {
    GuestError::Kvm {
        call,
        cause: io::Error::last_os_error(),
    }
}

fn data_memory(config: &GuestConfig) -> Result<Mapping, GuestError> {
    let len = config.data_bytes();
    if config.backing == Backing::Anonymous {
        let data = Mapping::anonymous(len)?;
        data.populate()?;
        return Ok(data);
    }
    let file = backing::create(config.dir.as_deref(), len, config.write)
        .map_err(crate::memory::MemoryError::from)?;
    Ok(Mapping::shared_file(&file, len)?)
}

/// Memory of which no page is ever there.
fn spare_memory(config: &GuestConfig) -> Result<Option<Mapping>, GuestError> {
    if config.spare_pages == 0 {
        return Ok(None);
    }
    Ok(Some(Mapping::anonymous(config.spare_pages * PAGE_SIZE)?))
}

fn add_memslot(vm: &VmFd, slot: u32, gpa: u64, memory: &Mapping) -> Result<(), GuestError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: memory.len(),
        userspace_addr: memory.hva().start,
    };
    // SAFETY: whoever owns the VM drops it before the memory: the finished machine by the order of
    // its fields, its constructor on an error by the order of its locals, and no vCPU has run by
    // then. The host never makes references into the memory (I-shared).
    unsafe { vm.set_user_memory_region(region) }.map_err(refused("KVM_SET_USER_MEMORY_REGION"))
}

fn remove_memslot(vm: &VmFd, slot: u32, gpa: u64) -> Result<(), GuestError> {
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: gpa,
        ..kvm_userspace_memory_region::default()
    };
    // SAFETY: a size of 0 takes a memslot away and refers to no memory.
    unsafe { vm.set_user_memory_region(region) }.map_err(refused("KVM_SET_USER_MEMORY_REGION"))
}

fn limit_shadow_pages(vm: &VmFd, pages: u64) -> Result<(), GuestError> {
    // SAFETY: the ioctl takes a number and touches no memory of ours.
    let result = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_SET_NR_MMU_PAGES as _, pages) };
    if result < 0 {
        return Err(last_error("KVM_SET_NR_MMU_PAGES"));
    }
    Ok(())
}

fn stats_file(vm: &VmFd) -> Result<File, GuestError> {
    // SAFETY: the ioctl takes no argument and returns a new file descriptor.
    let fd = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_GET_STATS_FD as _, 0) };
    if fd < 0 {
        return Err(last_error("KVM_GET_STATS_FD"));
    }
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Program, control page and page tables; returns the value for CR3.
fn fill_low_memory(low: &Mapping, config: &GuestConfig) -> Result<u64, GuestError> {
    let too_small = || GuestError::Kvm {
        call: "the guest's page tables",
        cause: io::ErrorKind::OutOfMemory.into(),
    };
    Word::Pages.store(low, config.pages);
    Word::Aliases.store(low, config.aliases);
    Word::Write.store(low, config.write.into());
    Word::ExitEachPass.store(low, (!config.idle.is_zero()).into());
    let root = if config.nested {
        nested::fill(low, config)
    } else {
        fill_plain(low, config)
    };
    root.ok_or_else(too_small)
}

fn fill_plain(low: &Mapping, config: &GuestConfig) -> Option<u64> {
    program::install(low)?;
    let mut tables = PageTables::new(low);
    tables.map_guest(config.pages, config.aliases)?;
    Some(tables.root())
}

fn create_vcpu(kvm: &Kvm, vm: &VmFd, config: &GuestConfig, cr3: u64) -> Result<VcpuFd, GuestError> {
    let vcpu = vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
    let cpuid = nested::supported_cpuid(kvm)?;
    if config.nested {
        nested::check(&cpuid)?;
    }
    vcpu.set_cpuid2(&cpuid).map_err(refused("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
    enter_long_mode(&mut sregs, cr3, if config.nested { 0 } else { 3 });
    if config.nested {
        sregs.efer |= nested::SVME;
    }
    vcpu.set_sregs(&sregs).map_err(refused("KVM_SET_SREGS"))?;
    let mut regs = kvm_regs {
        rip: CODE_VA,
        rflags: 2,
        rsp: CONTROL_VA + PAGE_SIZE,
        r8: CONTROL_VA,
        r9: DATA_VA,
        r10: alias_stride(config.pages),
        r14: EXIT_VA,
        ..kvm_regs::default()
    };
    if config.nested {
        nested::enter_l1(&vcpu, &mut regs)?;
    }
    vcpu.set_regs(&regs).map_err(refused("KVM_SET_REGS"))?;
    Ok(vcpu)
}

fn enter_long_mode(sregs: &mut kvm_sregs, cr3: u64, ring: u8) {
    sregs.cr0 = CR0;
    sregs.cr3 = cr3;
    sregs.cr4 = CR4;
    sregs.efer = EFER;
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        present: 1,
        dpl: ring,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x30 | u16::from(ring),
        type_: 0xb,
        l: 1,
        ..flat
    };
    let data = kvm_segment {
        selector: 0x28 | u16::from(ring),
        type_: 3,
        db: 1,
        ..flat
    };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.ldt = kvm_segment {
        unusable: 1,
        type_: 2,
        ..kvm_segment::default()
    };
    sregs.tr.present = 1;
    sregs.tr.type_ = 11;
}

/// Whether KVM can be opened here.
///
/// # Errors
/// [`GuestError::NoKvm`], [`GuestError::KvmDenied`] or what else KVM answered.
pub(crate) fn probe() -> Result<(), GuestError> {
    open_kvm().map(drop)
}
