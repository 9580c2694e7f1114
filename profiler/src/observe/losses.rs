//! What was not counted, and why.

use profiler_common::aging::Totals;

use super::{Session, own_cost};

/// A signal, why something of it was lost, and how often.
pub(crate) type Loss = (&'static str, &'static str, u64);

impl Session<'_> {
    /// Everything that was lost since the start, also where nothing was.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        let problems = &self.find_problems;
        let loaded = self.loaded();
        let mut losses = of_kernel_side(&self.totals).to_vec();
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
