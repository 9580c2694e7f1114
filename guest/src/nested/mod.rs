//! A guest in the guest: L1 runs an L2 over a nested page table of its own.
//!
//! L2 is the ordinary guest: the same program at the same addresses, with the same control page.
//! Its virtual addresses equal its physical ones, so L1's nested page table is the ordinary
//! guest's page table: each alias of a data page is a gpa of L2 that leads, through a table page
//! of its own, to the one gpa of L1. KVM shadows that table: one SPTE in the gfn's rmap per alias.
//!
//! What L1's table leaves out is the exit page. L2 leaves to L1 there, as to a device that L1
//! emulates. L1 then steps over the instruction, tells the host if the host wants to know, touches
//! every data page once itself, through the TDP MMU, and runs L2 again.

mod program;
mod vmcb;

use std::fs;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_regs};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::config::GuestConfig;
use crate::error::GuestError;
use crate::layout::{
    CODE_GPA, CODE_VA, CONTROL_GPA, CONTROL_VA, EXIT_GPA, EXIT_VA, HSAVE_GPA, L1_CODE_GPA,
    L1_CODE_VA, L2_PHYSICAL_BITS, L2_TABLES_GPA, LEAF_FLAGS, PAGE_SIZE, PageTables, TABLE_FLAGS,
    VMCB_GPA, VMCB_VA,
};
use crate::memory::Mapping;
use crate::program::Word;
use crate::vm::{open_kvm, refused};

/// EFER: secure virtual machine enabled.
pub(crate) const SVME: u64 = 1 << 12;
/// The MSR with the address of the host save area.
const VM_HSAVE_PA: u32 = 0xc001_0117;
/// A page-table entry that maps a huge page.
const HUGE: u64 = 1 << 7;
/// Directories of 512 GiB that L2's tables consist of, besides the root.
const L2_DIRECTORIES: u64 = 1 << (L2_PHYSICAL_BITS - 39);

/// Fills the low memslot for L1 and L2; returns L1's value for CR3, `None` if it is too small.
pub(crate) fn fill(low: &Mapping, config: &GuestConfig) -> Option<u64> {
    program::install(low)?;
    let mut l1 = PageTables::new(low);
    for (va, gpa) in [
        (L1_CODE_VA, L1_CODE_GPA),
        (CONTROL_VA, CONTROL_GPA),
        (EXIT_VA, EXIT_GPA),
        (VMCB_VA, VMCB_GPA),
    ] {
        l1.map(va, gpa)?;
    }
    l1.map_data(config.pages, 1)?;
    let cr3 = l1.root();

    let mut nested = l1.next();
    nested.map(CODE_VA, CODE_GPA)?;
    nested.map(CONTROL_VA, CONTROL_GPA)?;
    for table in 0..=L2_DIRECTORIES {
        let gpa = L2_TABLES_GPA + table * PAGE_SIZE;
        nested.map(gpa, gpa)?;
    }
    nested.map_data(config.pages, config.aliases)?;
    map_l2(low)?;
    vmcb::write(low, nested.root())?;

    // L2 always tells L1 of a pass, and L1 tells the host if that wants to idle.
    Word::PassOn.store(low, Word::ExitEachPass.load(low));
    Word::ExitEachPass.store(low, 1);
    Some(cr3)
}

/// L2's page tables: every virtual address is the same physical one, by pages of 1 GiB.
fn map_l2(low: &Mapping) -> Option<()> {
    for directory in 0..L2_DIRECTORIES {
        let table = L2_TABLES_GPA + (1 + directory) * PAGE_SIZE;
        low.store(L2_TABLES_GPA + directory * 8, table | TABLE_FLAGS)?;
        for entry in 0..512 {
            let gpa = (directory << 39) | (entry << 30);
            low.store(table + entry * 8, gpa | LEAF_FLAGS | HUGE)?;
        }
    }
    Some(())
}

/// Turns the registers of an ordinary guest into L1's.
pub(crate) fn enter_l1(vcpu: &VcpuFd, regs: &mut kvm_regs) -> Result<(), GuestError> {
    regs.rip = L1_CODE_VA;
    regs.rbx = VMCB_VA;
    regs.r11 = VMCB_GPA;
    let entry = kvm_msr_entry {
        index: VM_HSAVE_PA,
        data: HSAVE_GPA,
        ..kvm_msr_entry::default()
    };
    let failed = GuestError::NoNested("KVM does not take the address of SVM's host save area");
    let Ok(msrs) = Msrs::from_entries(&[entry]) else {
        return Err(failed);
    };
    match vcpu.set_msrs(&msrs).map_err(refused("KVM_SET_MSRS"))? {
        1 => Ok(()),
        _ => Err(failed),
    }
}

/// Whether KVM runs a guest in a guest here.
pub(crate) fn probe() -> Result<(), GuestError> {
    let kvm = open_kvm()?;
    check(&supported_cpuid(&kvm)?)
}

/// What KVM can let a guest see.
pub(crate) fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, GuestError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("KVM_GET_SUPPORTED_CPUID"))
}

/// Fails with what is missing if a vCPU with `cpuid` cannot be an L1 that uses nested paging.
pub(crate) fn check(cpuid: &CpuId) -> Result<(), GuestError> {
    let leaf = |function| {
        let mut leaves = cpuid.as_slice().iter();
        leaves.find(move |leaf| leaf.function == function)
    };
    let svm = leaf(0x8000_0001).is_some_and(|leaf| leaf.ecx & 1 << 2 != 0);
    let paging = leaf(0x8000_000a).is_some_and(|leaf| leaf.edx & 1 != 0);
    match (svm, paging) {
        (true, true) => Ok(()),
        (true, false) => Err(GuestError::NoNested(
            "kvm_amd runs without nested paging: load it with npt=1",
        )),
        (false, _) if fs::exists("/sys/module/kvm_amd/parameters/nested").unwrap_or(false) => {
            Err(GuestError::NoNested(
                "KVM gives its guests no SVM: load kvm_amd with nested=1 on an AMD CPU",
            ))
        }
        (false, _) => Err(GuestError::NoNested(
            "it needs SVM (an AMD CPU and kvm_amd with nested=1); VMX is not supported",
        )),
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;
    use crate::layout::{self, DATA_GPA, DATA_VA, alias_stride};

    fn walk(low: &Mapping, root: u64, address: u64) -> Option<u64> {
        let mut table = root;
        for shift in [39, 30, 21, 12] {
            let entry = low.load(table + (address >> shift & 511) * 8)?;
            if entry & 1 == 0 {
                return None;
            }
            let page = entry & 0x000f_ffff_ffff_f000;
            if entry & HUGE != 0 && shift == 30 {
                return Some(page | (address & ((1 << 30) - 1)));
            }
            table = page;
        }
        Some(table | (address & 4095))
    }

    #[test]
    fn l2_reaches_each_page_at_every_alias_and_the_exit_page_not_at_all() {
        let config = GuestConfig::new(513, 3).nested();
        let low = layout::low_bytes(config.pages, config.mappings());
        let low = Mapping::anonymous(low).expect("anonymous memory");
        let cr3 = fill(&low, &config).expect("the tables fit");
        let ncr3 = low.load(VMCB_GPA + 0xb0).expect("in memory");
        let l2 = |va| walk(&low, ncr3, walk(&low, L2_TABLES_GPA, va)?);
        for page in [0, 511, 512] {
            let gpa = DATA_GPA + page * PAGE_SIZE;
            assert_eq!(walk(&low, cr3, DATA_VA + page * PAGE_SIZE), Some(gpa));
            for alias in 0..3 {
                let va = DATA_VA + alias * alias_stride(513) + page * PAGE_SIZE;
                assert_eq!(l2(va), Some(gpa), "alias {alias} of page {page}");
            }
        }
        assert_eq!(l2(CODE_VA), Some(CODE_GPA));
        assert_eq!(l2(CONTROL_VA), Some(CONTROL_GPA));
        assert_eq!(l2(EXIT_VA), None, "L1 emulates it");
        assert_eq!(walk(&low, cr3, EXIT_VA), Some(EXIT_GPA));
        // A CPU that walks L2's tables finds them through L1's.
        for table in 0..=L2_DIRECTORIES {
            let gpa = L2_TABLES_GPA + table * PAGE_SIZE;
            assert_eq!(walk(&low, ncr3, gpa), Some(gpa));
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let cpuid = |ecx, edx| {
            let leaf = |function, ecx, edx| kvm_cpuid_entry2 {
                function,
                ecx,
                edx,
                ..kvm_cpuid_entry2::default()
            };
            let leaves = [leaf(0x8000_0001, ecx, 0), leaf(0x8000_000a, 0, edx)];
            CpuId::from_entries(&leaves).expect("two leaves")
        };
        let said = |ecx, edx| check(&cpuid(ecx, edx)).expect_err("missing").to_string();
        assert!(check(&cpuid(4, 1)).is_ok());
        assert!(said(4, 0).contains("npt=1"));
        assert!(said(0, 1).contains("nested=1"));
    }
}
