//! What is counted per aging callback, in both rungs of the ladder.
//!
//! A callback is filed under one [`CellKey`]: the VM it hit, its [`Kind`], the
//! [`Caller`] that caused it, and the chain length seen when it began. The
//! kernel side adds to the [`Cell`] of that key; user space sums the per-CPU
//! copies. Every callback is in exactly one cell, or counted in
//! [`Totals::cells_full`].

use crate::symbols::tag;

/// Which MMU notifier was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// `clear_flush_young`: look at the Accessed bit, clear it, flush.
    ClearFlushYoung = 0,
    /// `clear_young`: look at the Accessed bit and clear it.
    ClearYoung = 1,
    /// `test_young`: look at the Accessed bit.
    TestYoung = 2,
    /// One of the two clearing kinds; the stack that would tell was not readable.
    ClearUnknown = 3,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 4] = [
        Self::ClearFlushYoung,
        Self::ClearYoung,
        Self::TestYoung,
        Self::ClearUnknown,
    ];

    /// The kind of a callback whose hook tells looking from clearing, `looks`, and whose
    /// kernel stack says which clearing, `tags`: bits of [`tag`], none where it was not
    /// readable.
    #[inline(always)]
    pub const fn of_family(looks: bool, tags: u64) -> Self {
        if looks {
            Self::TestYoung
        } else if tags & tag::CLEAR_YOUNG != 0 {
            Self::ClearYoung
        } else if tags & tag::CLEAR_FLUSH_YOUNG != 0 {
            Self::ClearFlushYoung
        } else {
            Self::ClearUnknown
        }
    }

    /// The kind with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name printed in tables and result files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClearFlushYoung => "clear_flush_young",
            Self::ClearYoung => "clear_young",
            Self::TestYoung => "test_young",
            Self::ClearUnknown => "clear_unknown",
        }
    }
}

/// Who ages the page, from the kernel stack of the callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Caller {
    /// The stack was readable and matches no class below.
    Other = 0,
    /// Reclaim on behalf of a memory cgroup.
    Memcg = 1,
    /// Background reclaim.
    Kswapd = 2,
    /// Reclaim by a task that waits for memory.
    Direct = 3,
    /// Reclaim entered some other way.
    Reclaim = 4,
    /// MGLRU walking page tables to age a generation.
    MglruAging = 5,
    /// MGLRU looking at the neighbours of a young page.
    MglruLookaround = 6,
    /// DAMON.
    Damon = 7,
    /// khugepaged, or a collapse asked for by madvise.
    Khugepaged = 8,
    /// Idle page tracking.
    PageIdle = 9,
    /// The kernel stack could not be read.
    Unknown = 10,
}

impl Caller {
    /// Every class, in the order of its number.
    pub const ALL: [Self; 11] = [
        Self::Other,
        Self::Memcg,
        Self::Kswapd,
        Self::Direct,
        Self::Reclaim,
        Self::MglruAging,
        Self::MglruLookaround,
        Self::Damon,
        Self::Khugepaged,
        Self::PageIdle,
        Self::Unknown,
    ];

    /// The class with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name printed in tables and result files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Memcg => "memcg",
            Self::Kswapd => "kswapd",
            Self::Direct => "direct",
            Self::Reclaim => "reclaim",
            Self::MglruAging => "mglru",
            Self::MglruLookaround => "lookaround",
            Self::Damon => "damon",
            Self::Khugepaged => "khugepaged",
            Self::PageIdle => "page_idle",
            Self::Unknown => "unknown",
        }
    }
}

/// Chain lengths `0..=MAX_EXACT_LENGTH` have a cell each.
pub const MAX_EXACT_LENGTH: u16 = 255;

/// Length codes above [`MAX_EXACT_LENGTH`]: the callback has a cell, but not an
/// exact chain length.
pub mod length {
    /// The chain is longer than [`super::MAX_EXACT_LENGTH`].
    pub const LONGER: u16 = 256;
    /// The memslots changed since they were last read; the lookup was not trusted.
    pub const STALE: u16 = 257;
    /// Heads or descriptors could not be read, made no sense, or were too many.
    pub const UNREADABLE: u16 = 258;
    /// The VM has no rmap here: all of it is in the TDP MMU.
    pub const NO_RMAP: u16 = 259;
    /// The address is in no memslot of a VM being profiled.
    pub const OUTSIDE: u16 = 260;
    /// The address lies in memslots of several VMs.
    pub const AMBIGUOUS: u16 = 261;
    /// Exact rung: the callback reached no memslot.
    pub const NOT_WALKED: u16 = 262;
    /// Exact rung: no head could be looked at, for the functions at whose entry they are
    /// read cannot be probed on this host.
    pub const UNSEEN: u16 = 263;
}

/// The length code of a chain of `sptes`.
#[inline(always)]
pub const fn length_code(sptes: u64) -> u16 {
    if sptes > MAX_EXACT_LENGTH as u64 {
        length::LONGER
    } else {
        sptes as u16
    }
}

/// The VM number of callbacks that belong to no VM being profiled.
pub const NO_VM: u16 = u16::MAX;

/// What a callback is filed under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct CellKey {
    /// Number of the VM in this recording, or [`NO_VM`].
    pub vm: u16,
    /// Chain length, or a code of [`length`].
    pub length: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// A [`Caller`].
    pub caller: u8,
    /// 1 if the callback's range is longer than one page. Its `length` is that
    /// of the first page (sampled rung) or the sum over the range (exact rung).
    pub several_pages: u8,
    /// Always 0.
    pub zero: u8,
}

/// Where in a callback a sample fell.
pub mod place {
    /// In the notifier, outside all of the below: SRCU, memslot lookup, locks.
    pub const NOTIFIER: usize = 0;
    /// In `kvm_age_gfn` / `kvm_test_age_gfn`, outside the rmap walk.
    pub const AGE_GFN: usize = 1;
    /// In the rmap walk.
    pub const RMAP: usize = 2;
    /// In the tracepoint itself, that is, in the measurement.
    pub const OWN: usize = 3;
    /// How many places there are.
    pub const COUNT: usize = 4;
}

/// What is summed per [`CellKey`] and CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cell {
    /// Callbacks.
    pub callbacks: u64,
    /// Pages in their ranges.
    pub pages: u64,
    /// Heads seen with the LOCKED bit set.
    pub locked: u64,
    /// cpu-clock samples by [`place`] (sampled rung).
    pub samples: [u64; place::COUNT],
    /// Callbacks that said young (exact rung).
    pub young: u64,
    /// Time from entry to exit (exact rung).
    pub total_ns: u64,
    /// Time from entry to the first inner entry (exact rung).
    pub wait_ns: u64,
    /// Longest callback (exact rung); of a difference 0 where it came before.
    pub max_ns: u64,
    /// Callbacks with a `wait_ns` (exact rung).
    pub waits: u64,
}

/// Defines counters that only grow, with their sum and their difference, so
/// that none can be left out of either.
macro_rules! counters {
    ($(#[$of:meta])* $name:ident { $($(#[$about:meta])* $field:ident,)* }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name {
            $($(#[$about])* pub $field: u64,)*
        }

        impl $name {
            /// Adds another CPU's counters.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// What was counted since `earlier`.
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($field: self.$field.saturating_sub(earlier.$field),)* }
            }
        }
    };
}

counters! {
    /// Counters of a whole recording, per CPU.
    Totals {
        /// Callbacks seen, whether on a profiled VM or not.
        callbacks,
        /// Callbacks lost from the cells because the cell map was full.
        cells_full,
        /// Kernel stacks taken to find kind and caller.
        stacks,
        /// Such stacks that could not be read.
        stacks_failed,
        /// Such stacks that found another kind or caller than the one remembered for the task.
        stacks_changed,
        /// Raw events put into the ring buffer.
        events,
        /// Raw events lost because the ring buffer was full.
        events_lost,
        /// cpu-clock samples taken.
        samples,
        /// Samples that hit user mode or a guest.
        samples_user,
        /// Samples in kernel mode whose stack could not be read.
        samples_failed,
        /// Samples inside a callback, filed under its cell.
        samples_filed,
        /// Samples inside a callback that this CPU's current cell does not belong to.
        samples_unfiled,
        /// Exact rung: entries that could not be remembered because the map was full.
        starts_full,
        /// Exact rung: exits without a remembered entry.
        exits_unmatched,
        /// Exact rung: latencies lost because the histogram map was full.
        histograms_full,
        /// Exact rung: entries that found an unfinished one of the same task.
        starts_replaced,
        /// vCPU faults that could not be remembered because the map was full.
        faults_full,
        /// Ends of vCPU faults without a remembered beginning.
        faults_unmatched,
        /// vCPU faults that began while one of the same task had not ended.
        faults_replaced,
        /// Runs of the programs that time vCPU faults, of whichever VM.
        fault_runs,
        /// Waits for `mmu_lock` that could not be remembered because the map was full.
        waits_full,
        /// Ends of waits for `mmu_lock` without a remembered beginning.
        waits_unmatched,
        /// Waits for `mmu_lock` whose kernel stack could not be read.
        waits_failed,
        /// Runs of the programs that time waits, for whichever lock.
        wait_runs,
        /// Faults and waits lost because the map of their histograms was full.
        interference_full,
    }
}

impl Cell {
    /// Adds another CPU's cell of the same key.
    pub fn add(&mut self, other: &Self) {
        self.callbacks += other.callbacks;
        self.pages += other.pages;
        self.locked += other.locked;
        for (sum, count) in self.samples.iter_mut().zip(&other.samples) {
            *sum += count;
        }
        self.young += other.young;
        self.total_ns += other.total_ns;
        self.wait_ns += other.wait_ns;
        self.waits += other.waits;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// What was counted since `earlier`. The longest callback is only known
    /// if it is longer than all before.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut delta = *self;
        for (now, before) in delta.samples.iter_mut().zip(&earlier.samples) {
            *now = now.saturating_sub(*before);
        }
        if self.max_ns <= earlier.max_ns {
            delta.max_ns = 0;
        }
        delta.callbacks = self.callbacks.saturating_sub(earlier.callbacks);
        delta.pages = self.pages.saturating_sub(earlier.pages);
        delta.locked = self.locked.saturating_sub(earlier.locked);
        delta.young = self.young.saturating_sub(earlier.young);
        delta.total_ns = self.total_ns.saturating_sub(earlier.total_ns);
        delta.wait_ns = self.wait_ns.saturating_sub(earlier.wait_ns);
        delta.waits = self.waits.saturating_sub(earlier.waits);
        delta
    }
}

const _: () = assert!(size_of::<CellKey>() == 8);
const _: () = assert!(size_of::<Cell>() == 8 * (8 + place::COUNT));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_positions_agree() {
        for (position, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, position);
        }
        for (position, caller) in Caller::ALL.iter().enumerate() {
            assert_eq!(*caller as usize, position);
        }
        assert_eq!(Kind::from_u8(4), None);
        assert_eq!(Caller::from_u8(11), None);
    }

    #[test]
    fn what_only_looks_is_test_young_whatever_its_stack_says() {
        assert_eq!(Kind::of_family(true, 0), Kind::TestYoung);
        assert_eq!(Kind::of_family(true, tag::TEST_YOUNG), Kind::TestYoung);
        assert_eq!(Kind::of_family(false, 0), Kind::ClearUnknown);
        assert_eq!(Kind::of_family(false, tag::CLEAR_YOUNG), Kind::ClearYoung);
        assert_eq!(
            Kind::of_family(false, tag::CLEAR_FLUSH_YOUNG | tag::DAMON),
            Kind::ClearFlushYoung
        );
    }

    #[test]
    fn a_difference_and_what_it_is_taken_from_make_the_later_count() {
        let early = Totals {
            callbacks: 3,
            interference_full: 1,
            ..Totals::default()
        };
        let mut sum = early;
        sum.add(&early);
        assert_eq!(sum.since(&early), early);
        let cell = Cell {
            callbacks: 5,
            samples: [1, 2, 3, 4],
            max_ns: 9,
            ..Cell::default()
        };
        let mut later = cell;
        later.add(&cell);
        let (since, unknown) = (later.since(&cell), Cell { max_ns: 0, ..cell });
        assert_eq!(since, unknown, "no callback was longer than those before");
        later.max_ns = 10;
        assert_eq!(later.since(&cell), Cell { max_ns: 10, ..cell });
    }
}
