//! What was seen since the exporter started.
//!
//! Invariant: there are sums for VMs that run and for no others, so the number
//! of series is bounded by the number of VMs.

use std::collections::BTreeMap;

use profiler_common::{histogram::Histogram, interference::InterferenceKey};

use crate::{
    ladder::Rung,
    observe::{Loss, Session, Stretch, own_cost},
    vms::Tracked,
    watch::{View, add_to_view},
};

/// A VM's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) cgroup: String,
}

/// All of it.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) vms: BTreeMap<u16, Names>,
    pub(super) figures: View,
    /// Faults and waits.
    pub(super) held_up: BTreeMap<InterferenceKey, Box<Histogram>>,
    pub(super) lost: Vec<Loss>,
    pub(super) own_ns: Option<u64>,
    /// Where callbacks are sampled.
    pub(super) rate_hz: Option<u32>,
    pub(super) map_bytes: u64,
}

impl Sums {
    /// Adds a stretch and forgets VMs that are gone.
    pub(super) fn add(&mut self, stretch: &Stretch, session: &Session<'_>) {
        self.vms = session
            .registry
            .alive()
            .map(|vm| (vm.number, names(vm)))
            .collect();
        add_to_view(&mut self.figures, stretch, session.rung);
        self.figures.retain(|(vm, _), _| self.vms.contains_key(vm));
        for (key, histogram) in &stretch.counts.interference {
            let empty = || Box::new(Histogram::EMPTY);
            let sum = self.held_up.entry(*key).or_insert_with(empty);
            let pairs = sum.buckets.iter_mut().zip(&histogram.buckets);
            pairs.for_each(|(sum, count)| *sum += count);
        }
        self.held_up.retain(|key, _| self.vms.contains_key(&key.vm));
        self.lost = session.losses();
        self.own_ns = session.own_ns();
        self.rate_hz = (session.rung == Rung::Sampled).then(|| session.rates.highest_hz());
        self.map_bytes = own_cost::map_memory().now;
    }
}

fn names(tracked: &Tracked) -> Names {
    let name = |name: &Result<String, String>| name.clone().unwrap_or_default();
    Names {
        pid: tracked.found.vm.tgid,
        comm: name(&tracked.comm),
        cgroup: name(&tracked.cgroup),
    }
}
