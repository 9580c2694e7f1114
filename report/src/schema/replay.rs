//! A recorded host's aging, replayed under other schemes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Summary;
use crate::Observed;

/// An estimate with its 95 % interval, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// The estimate.
    pub mean_ns: f64,
    /// Lower end of its 95 % interval.
    pub low_ns: f64,
    /// Upper end of its 95 % interval.
    pub high_ns: f64,
}

/// What a replay was built from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayInput {
    /// The recording that was replayed: its start, UTC.
    pub recorded_utc: String,
    /// Its host's label.
    pub host: String,
    /// Callbacks recorded at a known chain length: those replayed.
    pub callbacks: u64,
    /// All callbacks recorded, those at chain lengths that could not be read too.
    #[serde(default)]
    pub callbacks_recorded: u64,
    /// Callbacks per second, all kinds.
    pub callbacks_per_s: f64,
    /// Callback kind to its share of the callbacks, 0 to 1.
    pub kind_share: BTreeMap<String, f64>,
    /// Mean chain length over the callbacks.
    pub mean_chain_len: f64,
    /// Mean pages of a callback's range.
    pub mean_range_pages: f64,
    /// Share of SPTEs young when a clearing callback comes, 0 to 1.
    pub young_share: f64,
    /// Where that share is from.
    pub young_from: String,
    /// Callers at once, on average.
    pub callers: Observed<f64>,
    /// vCPU faults per second, all VMs; told, not replayed.
    pub faults_per_s: Observed<f64>,
    /// Pages of the replayed VM, from the census.
    pub pages: u64,
}

/// What the recorded callbacks cost under one scheme.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayRecord {
    /// The scheme.
    pub scheme: String,
    /// Whether it is the one the recorded kernel uses.
    pub kernels_own: bool,
    /// What was replayed.
    pub input: ReplayInput,
    /// Mean time of a synthetic callback per round, nanoseconds.
    pub rounds_ns: Vec<f64>,
    /// Median and interval of `rounds_ns`.
    pub synthetic_ns: Observed<Summary>,
    /// Predicted mean time of a real callback under this scheme, and what a
    /// model of another recording adds to the synthetic time.
    pub predicted_ns: Observed<Estimate>,
    /// The recording the model was fitted to: its start, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_utc: Option<String>,
    /// Share of all recorded callbacks that the prediction, and the recorded time it
    /// is held against, are of, 0 to 1.
    #[serde(default)]
    pub covered_share: Option<f64>,
    /// Mean time of a recorded callback.
    pub recorded_ns: Observed<Estimate>,
    /// Predicted over recorded, less 1; only for the kernel's own scheme.
    pub relative_error: Observed<f64>,
}
