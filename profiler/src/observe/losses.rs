//! What was not counted, and why.

use profiler_common::aging::{Totals, length};

use super::{Counts, Session, own_cost};

/// A signal, why something of it was lost, and how often.
pub(crate) type Loss = (&'static str, &'static str, u64);

/// Callbacks that were counted, but under no VM or no chain length.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unfiled {
    outside: u64,
    ambiguous: u64,
    stale: u64,
    unreadable: u64,
    unseen: u64,
}

impl Unfiled {
    /// Adds those among `counts`.
    pub(super) fn add(&mut self, counts: &Counts) {
        for (key, cell) in &counts.cells {
            let sum = match key.length {
                length::OUTSIDE => &mut self.outside,
                length::AMBIGUOUS => &mut self.ambiguous,
                length::STALE => &mut self.stale,
                length::UNREADABLE => &mut self.unreadable,
                length::UNSEEN => &mut self.unseen,
                _ => continue,
            };
            *sum += cell.callbacks;
        }
    }

    fn losses(&self) -> [Loss; 5] {
        [
            ("attribution", "in no recorded VM", self.outside),
            (
                "attribution",
                "at an address in memslots of several VMs",
                self.ambiguous,
            ),
            (
                "chain length",
                "memslots changed since the last look",
                self.stale,
            ),
            (
                "chain length",
                "heads or descriptors could not be read, made no sense, or were too many",
                self.unreadable,
            ),
            (
                "chain length",
                "the functions at whose entry heads are read cannot be probed here",
                self.unseen,
            ),
        ]
    }
}

impl Session<'_> {
    /// Everything that was lost since the start, also where nothing was.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        let problems = &self.find_problems;
        let loaded = self.loaded();
        let mut losses = of_kernel_side(&self.totals).to_vec();
        losses.extend(self.unfiled.losses());
        losses.extend([
            (
                "VM",
                "VMs or memslots beyond the tables",
                problems.did_not_fit,
            ),
            (
                "VM",
                "all numbers for VMs have been given",
                self.registry.without_number(),
            ),
            ("VM", "kernel memory could not be read", problems.faults),
            (
                "VM",
                "memslots changed while they were read",
                problems.changed,
            ),
            (
                "chain length",
                "address intervals beyond the table",
                self.intervals.did_not_fit(),
            ),
            (
                "all",
                "a program was running already on that CPU",
                own_cost::recursion_misses(loaded),
            ),
        ]);
        losses
    }

    /// What was lost indeed.
    pub(crate) fn lost(&self) -> impl Iterator<Item = Loss> {
        self.losses().into_iter().filter(|(_, _, count)| *count > 0)
    }
}

/// Everything the kernel side counts as lost, also where nothing was.
fn of_kernel_side(totals: &Totals) -> [Loss; 17] {
    [
        (
            "callbacks",
            "the table of cells was full",
            totals.cells_full,
        ),
        (
            "caller class",
            "the kernel stack could not be read",
            totals.stacks_failed,
        ),
        (
            "caller class",
            "a re-read stack differed from the remembered one",
            totals.stacks_changed,
        ),
        ("events", "the ring buffer was full", totals.events_lost),
        (
            "samples",
            "the kernel stack could not be read",
            totals.samples_failed,
        ),
        (
            "samples",
            "in a callback that did not begin on this CPU",
            totals.samples_unfiled,
        ),
        (
            "latency",
            "the table of callbacks in flight was full",
            totals.starts_full,
        ),
        (
            "latency",
            "an exit without its entry",
            totals.exits_unmatched,
        ),
        (
            "latency",
            "an entry without its exit",
            totals.starts_replaced,
        ),
        (
            "latency",
            "the table of histograms was full",
            totals.histograms_full,
        ),
        (
            "vCPU faults",
            "the table of faults that last was full",
            totals.faults_full,
        ),
        (
            "vCPU faults",
            "an end without its beginning",
            totals.faults_unmatched,
        ),
        (
            "vCPU faults",
            "a beginning without its end",
            totals.faults_replaced,
        ),
        (
            "waits for mmu_lock",
            "the table of waits that last was full",
            totals.waits_full,
        ),
        (
            "waits for mmu_lock",
            "an end without its beginning",
            totals.waits_unmatched,
        ),
        (
            "waits for mmu_lock",
            "the kernel stack could not be read: filed under others",
            totals.waits_failed,
        ),
        (
            "vCPU faults and waits",
            "the table of their histograms was full",
            totals.interference_full,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use profiler_common::aging::{Cell, CellKey, NO_VM};

    use super::*;

    #[test]
    fn callbacks_under_no_vm_or_no_chain_length_are_counted_as_such() {
        let mut counts = Counts::default();
        let codes = [
            (NO_VM, length::OUTSIDE),
            (NO_VM, length::AMBIGUOUS),
            (0, length::STALE),
            (0, length::UNREADABLE),
            (0, length::UNSEEN),
            (0, length::LONGER),
            (0, length::NO_RMAP),
            (0, 1),
        ];
        for (callbacks, (vm, length)) in (1..).zip(codes) {
            let key = CellKey {
                vm,
                length,
                ..CellKey::default()
            };
            let cell = Cell {
                callbacks,
                ..Cell::default()
            };
            counts.cells.insert(key, cell);
        }
        let mut unfiled = Unfiled::default();
        unfiled.add(&counts);
        unfiled.add(&counts);
        let losses = unfiled.losses().map(|(signal, _, count)| (signal, count));
        let (attribution, length) = ("attribution", "chain length");
        assert_eq!(
            losses,
            [
                (attribution, 2),
                (attribution, 4),
                (length, 6),
                (length, 8),
                (length, 10)
            ]
        );
    }
}
