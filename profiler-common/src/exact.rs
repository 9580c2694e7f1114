//! What the exact rung files a callback under, and the keys of its latency histograms.

use crate::aging::{CellKey, NO_VM, length, length_code};

/// Bits of [`Walk::heads`].
pub mod heads {
    /// One was read.
    pub const READ: u64 = 1;
    /// One, or its descriptor, could not be read or made no sense, or there were more than
    /// [`MAX_DESCRIPTORS`](super::MAX_DESCRIPTORS).
    pub const UNREADABLE: u64 = 2;
}

/// Most descriptors that are read of the chains of one callback, of all its heads together:
/// some 50 microseconds' work. Up to 6.14 that is done under `mmu_lock` held for write.
pub const MAX_DESCRIPTORS: u64 = 1024;

/// How many more may be read after `read` of them.
#[inline(always)]
pub const fn descriptors_left(read: u64) -> u32 {
    MAX_DESCRIPTORS.saturating_sub(read) as u32
}

/// What a callback saw of the chains it walks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    /// Whether KVM's functions for a memslot, at whose entry heads are read, are probed.
    pub is_probed: bool,
    /// Whether the callback entered one of them.
    pub has_entered: bool,
    /// Bits of [`heads`].
    pub heads: u64,
    /// SPTEs behind all heads read.
    pub sptes: u64,
}

impl Walk {
    /// The length code of a callback on `vm`.
    #[inline(always)]
    pub const fn length(&self, vm: u16) -> u16 {
        if vm == NO_VM {
            length::OUTSIDE
        } else if !self.is_probed {
            length::UNSEEN
        } else if !self.has_entered {
            length::NOT_WALKED
        } else if self.heads & heads::UNREADABLE != 0 {
            length::UNREADABLE
        } else if self.heads == 0 {
            length::NO_RMAP
        } else {
            length_code(self.sptes)
        }
    }
}

/// Whose `struct kvm` or `mmu_lock` an address is.
///
/// An address outlives its VM: until user space looks for VMs again, another may be there.
/// So what KVM remembers of a VM's creation is kept with its number, and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VmAt {
    /// Number of the VM in this recording.
    pub number: u32,
    /// `userspace_pid` of its `struct kvm`: the thread that created it.
    pub userspace_pid: u32,
}

impl VmAt {
    /// The VM's number if the `struct kvm` there is still its own, or [`NO_VM`].
    #[inline(always)]
    pub const fn number_if(&self, userspace_pid: Option<u32>) -> u16 {
        match userspace_pid {
            Some(pid) if pid == self.userspace_pid => self.number as u16,
            _ => NO_VM,
        }
    }
}

/// Which time a histogram holds.
pub mod span {
    /// From the notifier's entry to its exit.
    pub const TOTAL: u8 = 0;
    /// From the notifier's entry to the first `kvm_age_gfn` / `kvm_test_age_gfn`.
    pub const WAIT: u8 = 1;
    /// In the TDP MMU, of callbacks that reached it.
    pub const TDP: u8 = 2;
}

/// What one latency histogram is about: one cell, one span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct HistogramKey {
    /// The cell whose callbacks these are.
    pub cell: CellKey,
    /// One of [`span`].
    pub span: u8,
    /// Always 0.
    pub zero: [u8; 7],
}

const _: () = assert!(size_of::<HistogramKey>() == 16);
const _: () = assert!(size_of::<VmAt>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_whose_walk_cannot_be_seen_is_not_one_that_walked_nothing() {
        let walk = Walk {
            is_probed: true,
            ..Walk::default()
        };
        assert_eq!(walk.length(0), length::NOT_WALKED);
        assert_eq!(walk.length(NO_VM), length::OUTSIDE);
        assert_eq!(Walk::default().length(0), length::UNSEEN);
        assert_eq!(Walk::default().length(NO_VM), length::OUTSIDE);
    }

    #[test]
    fn a_vm_at_the_address_of_one_that_ended_is_not_taken_for_it() {
        let ended = VmAt {
            number: 3,
            userspace_pid: 4711,
        };
        assert_eq!(ended.number_if(Some(4711)), 3);
        assert_eq!(ended.number_if(Some(4712)), NO_VM);
        assert_eq!(ended.number_if(None), NO_VM, "it cannot be read");
    }

    #[test]
    fn a_callback_reads_a_bounded_number_of_descriptors() {
        assert_eq!(descriptors_left(0), 1024);
        assert_eq!(descriptors_left(1023), 1);
        assert_eq!(descriptors_left(1024), 0);
        assert_eq!(descriptors_left(u64::MAX), 0);
    }

    #[test]
    fn what_was_read_is_a_length_only_if_all_of_it_could_be() {
        let walk = |heads, sptes| {
            let walk = Walk {
                is_probed: true,
                has_entered: true,
                heads,
                sptes,
            };
            walk.length(0)
        };
        assert_eq!(walk(0, 0), length::NO_RMAP);
        assert_eq!(walk(heads::READ, 0), 0);
        assert_eq!(walk(heads::READ, 255), 255);
        assert_eq!(walk(heads::READ, 256), length::LONGER);
        assert_eq!(walk(heads::READ, 1 << 32), length::LONGER);
        assert_eq!(walk(heads::READ | heads::UNREADABLE, 3), length::UNREADABLE);
    }
}
