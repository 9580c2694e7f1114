//! Building and publishing the table that turns an address into rmap heads.
//!
//! Memslots of several VMs can cover the same host virtual addresses, because
//! every process has an address space of its own and the tracepoints do not say
//! whose an address is. Such stretches are marked ambiguous, so that a callback
//! there is counted but never filed under the wrong VM. VMs that are not recorded
//! take part in this.

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
};
use profiler_common::{
    aging::NO_VM,
    intervals::{AMBIGUOUS, Heads, Interval, MAX_INTERVALS, SLOTS_PER_INTERVAL, Table},
};

use crate::{
    object::{self, ObjectError},
    vms::{Found, Tracked},
};

const PAGE_SHIFT: u32 = 12;

/// One memslot as a stretch of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    start: u64,
    end: u64,
    vm: u16,
    heads: Heads,
}

/// The stretches of a VM's memslots; `memslots_offset` is that of
/// `kvm->memslots` in `struct kvm`.
fn stretches(tracked: &Tracked, memslots_offset: u64) -> impl Iterator<Item = Stretch> {
    let vm = tracked.found.vm;
    let number = tracked.number;
    tracked.found.slots.iter().filter_map(move |slot| {
        let space = usize::try_from(slot.address_space).ok()?;
        let memslots = *vm.memslots.get(space)?;
        let length = slot.pages.checked_shl(PAGE_SHIFT)?;
        Some(Stretch {
            start: slot.hva,
            end: slot.hva.checked_add(length)?,
            vm: number,
            heads: Heads {
                base_gfn: slot.base_gfn,
                first_gfn: slot.base_gfn,
                rmap: slot.rmap,
                memslots_at: vm.kvm + memslots_offset + 8 * u64::from(slot.address_space),
                memslots,
                generation: *vm.generation.get(space)?,
            },
        })
    })
}

/// The stretches of a VM that is not recorded: nobody's, but in the way.
fn foreign_stretches(found: &Found) -> impl Iterator<Item = Stretch> {
    found.slots.iter().filter_map(|slot| {
        let length = slot.pages.checked_shl(PAGE_SHIFT)?;
        Some(Stretch {
            start: slot.hva,
            end: slot.hva.checked_add(length)?,
            vm: NO_VM,
            heads: Heads::default(),
        })
    })
}

/// Cuts stretches into disjoint intervals, sorted by address.
fn cut(stretches: &[Stretch]) -> Vec<Interval> {
    let mut edges: Vec<u64> = stretches.iter().flat_map(|s| [s.start, s.end]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut by_start: Vec<&Stretch> = stretches.iter().collect();
    by_start.sort_by_key(|stretch| (stretch.start, stretch.vm));
    let mut waiting = by_start.into_iter().peekable();
    let mut open: Vec<&Stretch> = Vec::new();
    let mut intervals = Vec::new();
    for pair in edges.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        open.retain(|stretch| stretch.end > start);
        while let Some(stretch) = waiting.next_if(|stretch| stretch.start <= start) {
            open.push(stretch);
        }
        if open.iter().any(|stretch| stretch.vm != NO_VM) {
            intervals.push(interval(start, end, &open));
        }
    }
    intervals
}

/// The interval that all of `open` cover.
fn interval(start: u64, end: u64, open: &[&Stretch]) -> Interval {
    let vm = open[0].vm;
    let is_ambiguous = open.len() > SLOTS_PER_INTERVAL || open.iter().any(|s| s.vm != vm);
    if is_ambiguous {
        return Interval {
            start,
            end,
            vm: u32::from(NO_VM),
            flags: AMBIGUOUS,
            ..Interval::default()
        };
    }
    let mut interval = Interval {
        start,
        end,
        vm: u32::from(vm),
        slots: open.len() as u64,
        ..Interval::default()
    };
    for (place, stretch) in interval.heads.iter_mut().zip(open) {
        *place = stretch.heads;
        place.first_gfn += (start - stretch.start) >> PAGE_SHIFT;
    }
    interval
}

/// The table in the kernel.
pub(crate) struct Intervals {
    intervals: Array<MapData, Interval>,
    table: Array<MapData, Table>,
    half: u32,
    memslots_offset: u64,
    did_not_fit: u64,
}

impl Intervals {
    /// Takes the maps; nothing is published yet.
    pub(crate) fn new(ebpf: &mut Ebpf, memslots_offset: u64) -> Result<Self, ObjectError> {
        Ok(Self {
            intervals: object::take(ebpf, "INTERVALS")?,
            table: object::take(ebpf, "TABLE")?,
            half: 0,
            memslots_offset,
            did_not_fit: 0,
        })
    }

    /// Replaces the table by one of these VMs' memslots; addresses that
    /// `foreign` VMs have too are ambiguous.
    pub(crate) fn publish<'a>(
        &mut self,
        vms: impl Iterator<Item = &'a Tracked>,
        foreign: &[Found],
    ) -> Result<(), MapError> {
        let offset = self.memslots_offset;
        let mut stretches: Vec<Stretch> = vms.flat_map(|vm| stretches(vm, offset)).collect();
        stretches.extend(foreign.iter().flat_map(foreign_stretches));
        let mut intervals = cut(&stretches);
        let beyond = intervals.len().saturating_sub(MAX_INTERVALS) as u64;
        self.did_not_fit = self.did_not_fit.max(beyond);
        intervals.truncate(MAX_INTERVALS);

        let half = 1 - self.half;
        let first = half * MAX_INTERVALS as u32;
        let mut count = 0;
        for interval in &intervals {
            self.intervals.set(first + count, interval, 0)?;
            count += 1;
        }
        self.table.set(0, Table::new(half, count), 0)?;
        self.half = half;
        Ok(())
    }

    /// Intervals that found no room, the most in one table.
    pub(crate) fn did_not_fit(&self) -> u64 {
        self.did_not_fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(vm: u16, pages: std::ops::Range<u64>, base_gfn: u64) -> Stretch {
        Stretch {
            start: pages.start << PAGE_SHIFT,
            end: pages.end << PAGE_SHIFT,
            vm,
            heads: Heads {
                base_gfn,
                first_gfn: base_gfn,
                ..Heads::default()
            },
        }
    }

    /// First page, end page, VM, and the first gfn of each memslot.
    fn shape(intervals: &[Interval]) -> Vec<(u64, u64, u32, Vec<u64>)> {
        intervals
            .iter()
            .map(|i| {
                let slots = usize::try_from(i.slots).unwrap();
                let gfns = i.heads[..slots]
                    .iter()
                    .map(|heads| heads.first_gfn)
                    .collect();
                (i.start >> PAGE_SHIFT, i.end >> PAGE_SHIFT, i.vm, gfns)
            })
            .collect()
    }

    const NONE: u32 = NO_VM as u32;

    #[test]
    fn a_gap_between_memslots_is_in_no_interval() {
        let cut = cut(&[stretch(0, 30..40, 100), stretch(0, 10..20, 0)]);
        assert_eq!(shape(&cut), [(10, 20, 0, vec![0]), (30, 40, 0, vec![100])]);
    }

    #[test]
    fn addresses_of_two_vms_are_ambiguous_and_only_those() {
        let cut = cut(&[stretch(0, 10..30, 0), stretch(1, 20..40, 500)]);
        let expected = [
            (10, 20, 0, vec![0]),
            (20, 30, NONE, vec![]),
            (30, 40, 1, vec![510]),
        ];
        assert_eq!(shape(&cut), expected);
    }

    #[test]
    fn a_vm_that_is_not_recorded_makes_addresses_ambiguous_and_has_none_of_its_own() {
        let cut = cut(&[stretch(0, 10..30, 0), stretch(NO_VM, 20..40, 500)]);
        assert_eq!(shape(&cut), [(10, 20, 0, vec![0]), (20, 30, NONE, vec![])]);
    }

    #[test]
    fn two_memslots_of_one_vm_are_read_together_and_three_are_ambiguous() {
        let two = cut(&[stretch(3, 10..20, 7), stretch(3, 15..20, 70)]);
        assert_eq!(
            shape(&two),
            [(10, 15, 3, vec![7]), (15, 20, 3, vec![12, 70])]
        );
        let three = cut(&[
            stretch(3, 1..2, 0),
            stretch(3, 1..2, 1),
            stretch(3, 1..2, 2),
        ]);
        assert_eq!(shape(&three), [(1, 2, NONE, vec![])]);
    }
}
