//! What was not counted, and why.

use profiler_common::aging::Totals;

/// A signal, why something of it was lost, and how often.
pub(crate) type Loss = (&'static str, &'static str, u64);

/// Everything the kernel side counts as lost, also where nothing was.
pub(crate) fn all_losses(totals: &Totals) -> [Loss; 10] {
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
    ]
}

/// What was lost indeed.
pub(crate) fn losses(totals: &Totals) -> impl Iterator<Item = Loss> {
    all_losses(totals)
        .into_iter()
        .filter(|(_, _, count)| *count > 0)
}
