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

use super::{output::distribution, recorder::Recorder};
use crate::{
    ladder::{Interference, Ladder},
    observe::Stretch,
};

impl Recorder<'_> {
    /// What held up every VM's vCPUs and its aging in one run.
    pub(super) fn held_up(
        &self,
        run: u32,
        stretch: &Stretch,
        ladder: &Ladder,
    ) -> Vec<InterferenceRecord> {
        let seen = self.session.observe.interference(ladder);
        let vms = self.session.registry.all().into_iter().map(|vm| vm.number);
        vms.flat_map(|vm| What::ALL.map(|what| record(run, vm, what, stretch, &seen)))
            .collect()
    }
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
        let key = InterferenceKey {
            vm,
            what: what as u8,
            aging: u8::from(aging),
            zero: 0,
        };
        match observed {
            Ok(()) => Observed::Value(latency(stretch.counts.interference.get(&key).map(|h| &**h))),
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
    histogram.map_or_else(Latency::new, distribution)
}
