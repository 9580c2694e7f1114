//! What was seen since the exporter started.
//!
//! Invariant: there are sums for VMs that run and for no others, so the number
//! of series is bounded by the number of VMs.

use std::collections::BTreeMap;

use profiler_common::aging::Kind;

use crate::{
    observe::{Session, Stretch, losses, own_cost},
    vms::Tracked,
    watch::{Figures, view},
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
    pub(super) figures: BTreeMap<(u16, Kind), Figures>,
    pub(super) lost: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) own_ns: Option<u64>,
    pub(super) rate_hz: u32,
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
        for (key, figures) in view(stretch, session.rung) {
            self.figures.entry(key).or_default().add(&figures);
        }
        self.figures.retain(|(vm, _), _| self.vms.contains_key(vm));
        for (signal, cause, count) in losses(&stretch.counts.totals) {
            *self.lost.entry((signal, cause)).or_default() += count;
        }
        let loaded = session.probes.as_ref().map(|probes| &probes.loaded[..]);
        self.own_ns = loaded.and_then(own_cost::run_time_ns);
        self.rate_hz = session.rate_hz;
        self.map_bytes = own_cost::map_memory_bytes();
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
