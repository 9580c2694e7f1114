//! The word of an rmap head, and the counts of a chain's first descriptor.
//!
//! A head is zero, the address of the only SPTE, or, with MANY set, the address of the
//! first descriptor. From 6.15 on LOCKED is the per-rmap lock. Neither bit is ever part of
//! an address.

use crate::census::DESCRIPTOR_ENTRIES;

/// Bit 0 of a head: it points to a descriptor.
pub const MANY: u64 = 1;
/// Bit 1 of a head: the per-rmap lock.
pub const LOCKED: u64 = 2;

/// SPTEs that one descriptor holds.
const CAPACITY: u32 = DESCRIPTOR_ENTRIES as u32;
/// Most descriptors of a chain that is believed: far more than KVM lets one grow to, which
/// recycles an rmap of 1000 SPTEs.
pub const MAX_DESCRIPTORS: u32 = 4096;

/// What a head's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// No SPTE.
    Empty,
    /// One SPTE, at this address.
    One(u64),
    /// A chain, whose first descriptor is at this address.
    Chain(u64),
}

/// Whether `head` is locked.
#[inline(always)]
pub const fn is_locked(head: u64) -> bool {
    head & LOCKED != 0
}

/// What `head` says, locked or not.
#[inline(always)]
pub const fn word(head: u64) -> Word {
    let address = head & !(MANY | LOCKED);
    if head & MANY != 0 {
        Word::Chain(address)
    } else if address == 0 {
        Word::Empty
    } else {
        Word::One(address)
    }
}

/// SPTEs and descriptors of a chain, from the `spte_count` (low half) and the `tail_count`
/// (high half) of its first descriptor; `None` if they contradict themselves.
#[inline(always)]
pub const fn chain_of(counts: u64) -> Option<(u32, u32)> {
    let (first, rest) = (counts as u32, (counts >> 32) as u32);
    let most = (MAX_DESCRIPTORS - 1) * CAPACITY;
    if first == 0 || first > CAPACITY || rest > most || rest % CAPACITY != 0 {
        return None;
    }
    Some((first + rest, 1 + rest / CAPACITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_seen_on_every_head_and_is_part_of_no_address() {
        const SPTE: u64 = 0xffff_8880_1234_5678;
        for (head, meaning) in [
            (0, Word::Empty),
            (SPTE, Word::One(SPTE)),
            (SPTE | MANY, Word::Chain(SPTE)),
        ] {
            assert!(!is_locked(head), "{head:x}");
            assert!(is_locked(head | LOCKED), "{head:x}");
            assert_eq!(word(head), meaning, "{head:x}");
            assert_eq!(word(head | LOCKED), meaning, "{head:x}");
        }
    }

    #[test]
    fn counts_that_contradict_themselves_are_no_length() {
        let counts = |first: u64, rest: u64| chain_of(first | rest << 32);
        assert_eq!(counts(2, 0), Some((2, 1)));
        assert_eq!(counts(14, 28), Some((42, 3)));
        let most = u64::from(MAX_DESCRIPTORS - 1) * 14;
        assert_eq!(
            counts(1, most),
            Some((MAX_DESCRIPTORS * 14 - 13, MAX_DESCRIPTORS))
        );
        for (first, rest) in [(0, 0), (15, 0), (1, 13), (1, most + 14), (1, 0xffff_fff0)] {
            assert_eq!(counts(first, rest), None, "{first} and {rest}");
        }
    }
}
