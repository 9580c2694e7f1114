//! L1's program: touch, run L2, be told why it left, again.
//!
//! Registers: r8 control page, r9 first data page, r14 exit page, as for the ordinary guest; rbx
//! and r11 are the virtual and the physical address of L2's VMCB. L1 changes rax, rdi and rdx
//! only: L2's other registers are not in its VMCB, so L1 must leave them alone.

use std::arch::global_asm;

use super::vmcb;
use crate::layout::{EXIT_VA, L1_CODE_GPA};
use crate::memory::Mapping;
use crate::program::{self, LEAVE_BYTES, Word};

/// Room for the program, which ends with a halt.
const PROGRAM_WORDS: usize = 24;
/// SVM's code for leaving because of the nested page table.
const NESTED_PAGE_FAULT: u64 = 0x400;

global_asm!(
    ".pushsection .rodata.rmapscope_l1_program, \"a\"",
    ".balign 8",
    ".globl rmapscope_l1_program",
    "rmapscope_l1_program:",
    // L1's own touches.
    "2:",
    "mov rdx, [r8 + {pages}]",
    "mov rdi, r9",
    "3:",
    "cmp qword ptr [r8 + {pause}], 0",
    "jne 7f",
    "cmp qword ptr [r8 + {write}], 0",
    "jne 4f",
    "mov rax, [rdi]",
    "jmp 5f",
    "4:",
    "add qword ptr [rdi], 1",
    "5:",
    "add rdi, 4096",
    "dec rdx",
    "jnz 3b",
    // L2's.
    "6:",
    "mov rax, r11",
    "vmrun rax",
    "cmp qword ptr [rbx + {exit_code}], {nested_page_fault}",
    "jne 9f",
    "cmp qword ptr [rbx + {exit_info_2}], {exit_va}",
    "jne 9f",
    "add qword ptr [rbx + {rip}], {leave_bytes}",
    "cmp qword ptr [r8 + {pause}], 0",
    "jne 8f",
    "cmp qword ptr [r8 + {pass_on}], 0",
    "je 2b",
    "mov [r14], rax",
    "jmp 2b",
    "7:",
    "mov [r14], rax",
    "jmp 3b",
    "8:",
    "mov [r14], rax",
    "jmp 6b",
    "9:",
    "mov rax, [rbx + {exit_code}]",
    "mov [r8 + {l2_exit}], rax",
    "hlt",
    "jmp 9b",
    // Fills up with zeros, and is an error if the program is longer.
    ".org rmapscope_l1_program + {program_bytes}",
    ".popsection",
    program_bytes = const PROGRAM_WORDS * 8,
    pages = const Word::Pages.offset(),
    pause = const Word::Pause.offset(),
    write = const Word::Write.offset(),
    pass_on = const Word::PassOn.offset(),
    l2_exit = const Word::L2Exit.offset(),
    exit_code = const vmcb::EXIT_CODE,
    exit_info_2 = const vmcb::EXIT_INFO_2,
    rip = const vmcb::RIP,
    nested_page_fault = const NESTED_PAGE_FAULT,
    exit_va = const EXIT_VA,
    leave_bytes = const LEAVE_BYTES,
);

unsafe extern "C" {
    static rmapscope_l1_program: [u64; PROGRAM_WORDS];
}

/// Copies the programs of L1 and L2 to their places; `None` if the low memslot is too small.
pub(super) fn install(low: &Mapping) -> Option<()> {
    program::install(low)?;
    // SAFETY: the assembler puts exactly this many words at the label, aligned to 8 bytes, in
    // read-only data of this binary.
    let words = unsafe { &rmapscope_l1_program };
    program::copy(words, low, L1_CODE_GPA)
}
