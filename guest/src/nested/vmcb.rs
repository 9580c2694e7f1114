//! L2's VMCB: what SVM is told about it. Offsets and bits are those of AMD's manual, volume 2,
//! appendix B.

use super::SVME;
use crate::layout::{CODE_VA, L2_TABLES_GPA, VMCB_GPA};
use crate::memory::Mapping;
use crate::vm::{CR0, CR4, EFER};

/// Why L2 left.
pub(super) const EXIT_CODE: u64 = 0x070;
/// For a nested page fault, L2's physical address.
pub(super) const EXIT_INFO_2: u64 = 0x080;
/// L2's instruction pointer.
pub(super) const RIP: u64 = 0x578;

/// Leave on HLT and shutdown (the upper half of the word).
const INTERCEPT_MISCELLANEOUS: u64 = (1 << 24 | 1 << 31) << 32;
/// Leave on VMRUN, which SVM insists on.
const INTERCEPT_VMRUN: u64 = 1;
/// L2's interrupt flag does not hold back L1's interrupts.
const VIRTUAL_INTERRUPT_MASKING: u64 = 1 << 24;

/// A flat segment: selector, attributes, limit; the base is 0.
const fn segment(selector: u64, attributes: u64) -> u64 {
    selector | attributes << 16 | 0xffff_ffff << 32
}

/// Executable and readable, accessed, 64-bit, for ring 0.
const CODE: u64 = segment(0x30, 0xa9b);
/// Writable, accessed, for ring 0.
const DATA: u64 = segment(0x28, 0xc93);
/// A busy task segment.
const TASK: u64 = segment(0, 0x08b);
/// A local descriptor table.
const TABLE: u64 = segment(0, 0x082);

/// Describes an L2 that runs the guest's program over the nested page table at `nested_root`.
pub(super) fn write(low: &Mapping, nested_root: u64) -> Option<()> {
    const ASID: u64 = 1;
    const NESTED_PAGING: u64 = 1;
    let words = [
        (0x008, INTERCEPT_MISCELLANEOUS),
        (0x010, INTERCEPT_VMRUN),
        (0x058, ASID),
        (0x060, VIRTUAL_INTERRUPT_MASKING),
        (0x090, NESTED_PAGING),
        (0x0b0, nested_root),
        // es, cs, ss, ds, fs, gs, ldtr, tr
        (0x400, DATA),
        (0x410, CODE),
        (0x420, DATA),
        (0x430, DATA),
        (0x440, DATA),
        (0x450, DATA),
        (0x470, TABLE),
        (0x490, TASK),
        (0x4d0, EFER | SVME),
        (0x548, CR4),
        (0x550, L2_TABLES_GPA),
        (0x558, CR0),
        // The debug registers and rflags as after a reset, PAT likewise.
        (0x560, 0x400),
        (0x568, 0xffff_0ff0),
        (0x570, 2),
        (RIP, CODE_VA),
        (0x668, 0x0007_0406_0007_0406),
    ];
    words
        .into_iter()
        .try_for_each(|(offset, word)| low.store(VMCB_GPA + offset, word))
}
