//! Faults and waits as result records.

use profiler_common::{
    histogram::Histogram,
    interference::{InterferenceKey, What},
};
use report::{
    Observed,
    latency::Latency,
    schema::{HeldUp, InterferenceRecord},
};

use super::recorder::Recorder;
use crate::{
    ladder::{Interference, Ladder},
    observe::{Counts, Stretch, distribution},
};

impl Recorder<'_> {
    /// What held up every VM's vCPUs and its aging in one run. Every kind is in
    /// the first for every VM, be it with nothing or with the reason why not; in
    /// others only what was counted, for each takes memory and VMs may be many.
    pub(super) fn held_up(
        &self,
        run: u32,
        stretch: &Stretch,
        ladder: &Ladder,
    ) -> Vec<InterferenceRecord> {
        let seen = self.session.observe.interference(ladder);
        let vms = self.session.registry.all();
        let kinds = vms
            .iter()
            .flat_map(|vm| What::ALL.map(|what| (vm.number, what)));
        kinds
            .filter(|(vm, what)| run == 0 || is_counted(&stretch.counts, *vm, *what))
            .map(|(vm, what)| record(run, vm, what, stretch, &seen))
            .collect()
    }
}

fn key(vm: u16, what: What, aging: bool) -> InterferenceKey {
    InterferenceKey {
        vm,
        what: what as u8,
        aging: u8::from(aging),
        zero: 0,
    }
}

/// Whether there was any of this kind.
fn is_counted(counts: &Counts, vm: u16, what: What) -> bool {
    let counted = |aging| counts.interference.contains_key(&key(vm, what, aging));
    counted(false) || counted(true)
}

fn record(
    run: u32,
    vm: u16,
    what: What,
    stretch: &Stretch,
    seen: &Interference,
) -> InterferenceRecord {
    let observed = match what {
        What::Fault => &seen.faults,
        What::FaultWait | What::AgingWait | What::OtherWait => &seen.waits,
    };
    let times = |aging: bool| {
        let histogram = stretch.counts.interference.get(&key(vm, what, aging));
        match observed {
            Ok(()) => Observed::Value(latency(histogram.map(|h| &**h))),
            Err(reason) => Observed::missing(reason),
        }
    };
    InterferenceRecord {
        run,
        vm: Some(u32::from(vm)),
        what: match what {
            What::Fault => HeldUp::Fault,
            What::FaultWait => HeldUp::FaultWait,
            What::AgingWait => HeldUp::AgingWait,
            What::OtherWait => HeldUp::OtherWait,
        },
        while_aging: times(true),
        not_aging: times(false),
    }
}

fn latency(histogram: Option<&Histogram>) -> Latency {
    histogram.map_or_else(Latency::default, |histogram| distribution(histogram, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_counted_whether_aging_ran_or_not() {
        let mut counts = Counts::default();
        let empty = || Box::new(Histogram::EMPTY);
        counts
            .interference
            .insert(key(1, What::Fault, true), empty());
        counts
            .interference
            .insert(key(2, What::AgingWait, false), empty());
        assert!(is_counted(&counts, 1, What::Fault));
        assert!(is_counted(&counts, 2, What::AgingWait));
        assert!(!is_counted(&counts, 1, What::AgingWait));
        assert!(!is_counted(&counts, 3, What::Fault));
    }
}
