//! The guest's program and the control page it shares with the host.
//!
//! The program touches every data page through every alias, counts a pass and starts again. It
//! looks at the control page before each touch, so a paused guest touches nothing more.
//!
//! Registers: r8 control page, r9 first alias, r10 distance between aliases, r14 exit page; the
//! program changes rax, rcx, rsi, r12 and r13 only and needs no stack.

use std::arch::global_asm;

use crate::layout::{CODE_GPA, CONTROL_GPA};
use crate::memory::Mapping;

/// Bytes of the instruction that leaves through the exit page.
pub(crate) const LEAVE_BYTES: u64 = 3;
/// Room for the program, which ends with a jump and is never left at its end.
const PROGRAM_WORDS: usize = 16;

global_asm!(
    ".pushsection .rodata.rmapscope_guest_program, \"a\"",
    ".balign 8",
    ".globl rmapscope_guest_program",
    "rmapscope_guest_program:",
    "2:",
    "mov r12, [r8 + {aliases}]",
    "mov r13, r9",
    "3:",
    "mov rcx, [r8 + {pages}]",
    "mov rsi, r13",
    "4:",
    "cmp qword ptr [r8 + {pause}], 0",
    "jne 7f",
    "cmp qword ptr [r8 + {write}], 0",
    "jne 5f",
    "mov rax, [rsi]",
    "jmp 6f",
    "5:",
    "add qword ptr [rsi], 1",
    "6:",
    "add rsi, 4096",
    "dec rcx",
    "jnz 4b",
    "add r13, r10",
    "dec r12",
    "jnz 3b",
    "inc qword ptr [r8 + {passes}]",
    "cmp qword ptr [r8 + {exit_each_pass}], 0",
    "je 2b",
    "mov [r14], rax",
    "jmp 2b",
    "7:",
    "mov [r14], rax",
    "jmp 4b",
    // Fills up with zeros, and is an error if the program is longer.
    ".org rmapscope_guest_program + {program_bytes}",
    ".popsection",
    program_bytes = const PROGRAM_WORDS * 8,
    passes = const Word::Passes.offset(),
    pause = const Word::Pause.offset(),
    pages = const Word::Pages.offset(),
    aliases = const Word::Aliases.offset(),
    write = const Word::Write.offset(),
    exit_each_pass = const Word::ExitEachPass.offset(),
);

unsafe extern "C" {
    static rmapscope_guest_program: [u64; PROGRAM_WORDS];
}

/// The words of the control page.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(crate) enum Word {
    /// Full passes done; written by the guest.
    Passes = 0,
    /// Non-zero: leave through the exit page before the next touch.
    Pause = 1,
    /// Data pages.
    Pages = 2,
    /// Aliases per page.
    Aliases = 3,
    /// Non-zero: add one to each page's first word instead of reading it.
    Write = 4,
    /// Non-zero: leave through the exit page after each pass.
    ExitEachPass = 5,
    /// Non-zero: L1 passes on to the host that L2 left after a pass.
    PassOn = 6,
    /// Why L2 left L1 for good, as SVM codes it; written by L1 before it halts.
    L2Exit = 7,
}

impl Word {
    /// Bytes from the start of the control page.
    pub(crate) const fn offset(self) -> u64 {
        self as u64 * 8
    }

    /// Reads the word.
    pub(crate) fn load(self, low: &Mapping) -> u64 {
        // The control page lies inside every low memslot.
        low.load(CONTROL_GPA + self.offset()).unwrap_or(0)
    }

    /// Sets the word.
    pub(crate) fn store(self, low: &Mapping, value: u64) {
        let stored = low.store(CONTROL_GPA + self.offset(), value);
        debug_assert!(stored.is_some(), "the control page is in the low memslot");
    }
}

/// Copies the program to its place in the low memslot; `None` if that is too small.
pub(crate) fn install(low: &Mapping) -> Option<()> {
    // SAFETY: the assembler puts exactly this many words at the label, aligned to 8 bytes, in
    // read-only data of this binary.
    let words = unsafe { &rmapscope_guest_program };
    copy(words, low, CODE_GPA)
}

/// Copies a program's words to `gpa` in the low memslot; `None` if that is too small.
pub(crate) fn copy(words: &[u64], low: &Mapping, gpa: u64) -> Option<()> {
    let places = (gpa..).step_by(8);
    words
        .iter()
        .zip(places)
        .try_for_each(|(&word, gpa)| low.store(gpa, word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::PAGE_SIZE;

    #[test]
    fn the_program_is_installed_and_fits_its_page() {
        let low = Mapping::anonymous(0x10_0000).expect("anonymous memory");
        install(&low).expect("installed");
        assert_ne!(low.load(CODE_GPA), Some(0));
        // The last word of the page is free: the program is smaller than a page.
        assert_eq!(low.load(CODE_GPA + PAGE_SIZE - 8), Some(0));
        assert_eq!(low.load(CONTROL_GPA), Some(0));
    }

    #[test]
    fn the_program_leaves_by_the_instruction_that_l1_steps_over() {
        let low = Mapping::anonymous(0x10_0000).expect("anonymous memory");
        install(&low).expect("installed");
        let words = (CODE_GPA..).step_by(8).take(PROGRAM_WORDS);
        let bytes: Vec<u8> = words
            .flat_map(|gpa| low.load(gpa).expect("in memory").to_le_bytes())
            .collect();
        // mov [r14], rax: a 64-bit store without displacement.
        let leaves = bytes.windows(3).filter(|code| *code == [0x49, 0x89, 0x06]);
        assert_eq!(leaves.count(), 2);
        assert_eq!(LEAVE_BYTES, 3);
    }

    #[test]
    fn a_low_memslot_without_room_for_the_program_is_noticed() {
        let low = Mapping::anonymous(PAGE_SIZE).expect("anonymous memory");
        assert_eq!(install(&low), None);
    }
}
