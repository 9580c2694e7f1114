//! What a profile's callbacks cost, and what they and vCPUs do to each other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CallbackKind;
use crate::{Observed, latency::Latency};

/// A mean time and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeanTime {
    /// The mean, nanoseconds.
    pub mean_ns: f64,
    /// Lower end of its 95 % interval, nanoseconds.
    pub low_ns: f64,
    /// Upper end of its 95 % interval, nanoseconds.
    pub high_ns: f64,
}

/// What callbacks over one page of a kind and a range of chain lengths cost,
/// over all VMs and callers: as it was seen, and, where it was sampled at
/// several rates, as it would be without samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CostRecord {
    /// The first of the runs it was made from.
    pub run: u32,
    /// Which callback.
    pub kind: CallbackKind,
    /// Shortest chain.
    pub shortest: u32,
    /// Longest chain.
    pub longest: u32,
    /// Mean length over the callbacks.
    pub mean_len: f64,
    /// Callbacks.
    pub callbacks: u64,
    /// Timer samples in them, where sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Time of a callback as it was seen, all sampling rates together.
    pub raw: Observed<MeanTime>,
    /// Time of a callback at sampling rate zero.
    pub rate_zero: Observed<MeanTime>,
    /// Time of its walk as it was seen.
    pub raw_walk: Observed<MeanTime>,
    /// Time of its walk at sampling rate zero.
    pub rate_zero_walk: Observed<MeanTime>,
}

/// What a vCPU or another task was held up by.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HeldUp {
    /// A vCPU's fault, from its beginning to its end.
    Fault,
    /// A wait for `mmu_lock` inside a vCPU's fault.
    FaultWait,
    /// A wait for `mmu_lock` inside an aging callback.
    AgingWait,
    /// A wait of anybody else for `mmu_lock`.
    OtherWait,
}

impl std::fmt::Display for HeldUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fault => "vCPU faults",
            Self::FaultWait => "mmu_lock waits of vCPU faults",
            Self::AgingWait => "mmu_lock waits of aging",
            Self::OtherWait => "mmu_lock waits of others",
        })
    }
}

/// What aging and a VM's vCPUs did to each other. A VM is being aged when a
/// callback on it began at most one timer tick (1 to 10 ms) before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InterferenceRecord {
    /// The run.
    pub run: u32,
    /// The VM; absent when the figures are of all recorded VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<u32>,
    /// What took time.
    pub what: HeldUp,
    /// Times of those that ended while the VM was being aged.
    pub while_aging: Observed<Latency>,
    /// Times of all others.
    pub not_aging: Observed<Latency>,
}
