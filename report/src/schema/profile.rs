//! Recordings of a live host: runs, VMs, their censuses, and what was lost or spent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Observed;

/// The test guest a recording was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestRun {
    /// Pages of the data memslot.
    pub pages: u64,
    /// Virtual aliases of every page: the SPTEs asked for per gfn.
    pub aliases: u32,
    /// Whether the guest is an L1 whose L2 uses the pages: the aliases are then those of L1's
    /// nested page table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nested: bool,
    /// What is behind the guest's memory.
    pub backing: String,
    /// What makes the kernel age it.
    pub driver: String,
    /// Whether the guest stood still while it was aged: reclaim then finds its
    /// chains full and asks for every page twice, young first and then old.
    pub held: bool,
    /// 4K SPTEs KVM's statistics reported once the guest had touched all.
    pub sptes_4k: Observed<u64>,
}

/// What the cpu-clock sampler saw in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sampling {
    /// Rate asked for, per CPU.
    pub asked_hz: f64,
    /// Rate reached, per CPU.
    pub reached_hz: f64,
    /// CPU time one sample stands for, nanoseconds.
    pub period_ns: u64,
    /// Samples on all CPUs.
    pub samples: u64,
    /// Of these, in the kernel.
    pub kernel: u64,
    /// Of these, without a usable stack (most: the tick interrupted a guest).
    pub stack_failed: u64,
    /// Inside an aging callback.
    pub in_callback: u64,
}

/// One recording interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunRecord {
    /// Number of the run within the file; other records refer to it.
    pub run: u32,
    /// Start, UTC.
    pub started_utc: String,
    /// Length of the interval, seconds.
    pub duration_s: f64,
    /// Only this process's VMs were recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The test guest, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestRun>,
    /// Whether the interval ran to its end.
    pub complete: bool,
    /// Why not, if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    /// What the sampler saw.
    pub sampling: Observed<Sampling>,
    /// A kernel stack was taken every this many callbacks per CPU and task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_every: Option<u32>,
    /// A raw event was kept every this many callbacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_every: Option<u32>,
}

/// Which mechanism observed a signal in a run, and why no better one did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MechanismRecord {
    /// The run.
    pub run: u32,
    /// The signal, e.g. `callback latency`.
    pub signal: String,
    /// What observed it; `null` with a reason when nothing could.
    pub mechanism: Observed<String>,
    /// Whether the mechanism sees every callback (`true`) or samples.
    pub exact: bool,
    /// Better mechanisms that were tried, and why they were not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
}

/// What a VM has in the tables of the TDP MMU, read without any of KVM's locks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TdpTables {
    /// Roots in use: trees of tables.
    pub roots: u64,
    /// SPTEs that map 4K.
    pub sptes_4k: u64,
    /// SPTEs that map 2M.
    pub sptes_2m: u64,
    /// SPTEs that map 1G.
    pub sptes_1g: u64,
    /// SPTEs of any level with the Accessed bit set.
    pub accessed: Observed<u64>,
    /// Time spent reading, milliseconds.
    pub elapsed_ms: f64,
}

impl TdpTables {
    /// SPTEs of all levels.
    pub const fn sptes(&self) -> u64 {
        let small = self.sptes_4k.saturating_add(self.sptes_2m);
        small.saturating_add(self.sptes_1g)
    }

    /// The share of SPTEs with the Accessed bit set, if it was seen and there are any.
    pub fn accessed_share(&self) -> Option<f64> {
        let sptes = self.sptes();
        let accessed = *self.accessed.value()?;
        (sptes > 0).then(|| accessed as f64 / sptes as f64)
    }
}

/// [`VmRecord::tdp`] in files of earlier minor versions.
fn tdp_not_read() -> Observed<TdpTables> {
    Observed::missing("not read by the version that wrote this")
}

/// A virtual machine seen in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VmRecord {
    /// The run.
    pub run: u32,
    /// Number of the VM within the run.
    pub vm: u32,
    /// The process that owns it.
    pub pid: u32,
    /// Its name.
    pub comm: Observed<String>,
    /// Its cgroup.
    pub cgroup: Observed<String>,
    /// Memslots.
    pub memslots: u32,
    /// Pages in all memslots.
    pub pages: u64,
    /// Whether any memslot has rmap heads.
    pub has_rmaps: bool,
    /// What it has in the TDP MMU.
    #[serde(default = "tdp_not_read")]
    pub tdp: Observed<TdpTables>,
    /// Seconds into the run when it was first seen.
    pub seen_s: f64,
    /// Seconds into the run when it was found gone, if it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_s: Option<f64>,
}

/// Chain lengths of one VM and level, read without any of KVM's locks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CensusRecord {
    /// The run.
    pub run: u32,
    /// The VM.
    pub vm: u32,
    /// Level: 1 is 4K, 2 is 2M, 3 is 1G.
    pub level: u8,
    /// Rmap heads read.
    pub heads: u64,
    /// Chain length to the number of heads that have it; in JSON a list of
    /// `[length, heads]`.
    #[serde(with = "pairs")]
    #[schemars(with = "Vec<(u32, u64)>")]
    pub lengths: BTreeMap<u32, u64>,
    /// Heads with more SPTEs than `lengths` tells apart.
    pub longer: u64,
    /// SPTEs on all chains.
    pub sptes: u64,
    /// Memory of the chains' descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor_bytes: Option<u64>,
    /// SPTEs with the Accessed bit set.
    pub accessed: Observed<u64>,
    /// Heads whose LOCKED bit was seen set.
    pub locked: u64,
    /// Rmap heads read again during the recording, each about once a second.
    #[serde(default)]
    pub read_again: u64,
    /// Of these, heads whose LOCKED bit was seen set.
    #[serde(default)]
    pub locked_again: u64,
    /// Chains whose counts contradicted each other.
    pub corrupt: u64,
    /// Reads that faulted.
    pub faults: u64,
    /// Chunks discarded because memslots changed under them.
    pub discarded_chunks: u64,
    /// Time spent reading, milliseconds.
    pub elapsed_ms: f64,
    /// The longest time that one chunk held its CPU, milliseconds; absent in files of
    /// versions that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_chunk_ms: Option<f64>,
}

/// Something that was not counted or not attributed, and how often; with the signal
/// `sampling rate`, what became of the limit on the cost of observing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossRecord {
    /// The run.
    pub run: u32,
    /// The signal that is short by this.
    pub signal: String,
    /// What happened.
    pub cause: String,
    /// How often.
    pub count: Observed<u64>,
    /// When, seconds since the programs were attached: of what became of the limit. Absent
    /// in files older than minor 9, and of what was counted during all of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_s: Option<f64>,
}

impl LossRecord {
    /// The signal of what a limit on the cost of observing led to.
    pub const SAMPLING_RATE: &'static str = "sampling rate";
}

/// What one of the profiler's kernel programs cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OverheadRecord {
    /// The run.
    pub run: u32,
    /// The program.
    pub program: String,
    /// Times it ran.
    pub runs: Observed<u64>,
    /// Time in it, nanoseconds.
    pub run_time_ns: Observed<u64>,
    /// Times it was skipped because it was already running on that CPU.
    pub recursion_misses: Observed<u64>,
    /// Time during which runs were counted, seconds; absent in files of versions that
    /// counted them during the whole recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_s: Option<f64>,
}

/// A map as a list of pairs: JSON's keys are strings, and serde does not turn
/// them back into numbers inside a tagged record.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<u32, u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<u32, u64>, D::Error> {
        let pairs = Vec::<(u32, u64)>::deserialize(deserializer)?;
        let count = pairs.len();
        let map: BTreeMap<u32, u64> = pairs.into_iter().collect();
        if map.len() != count {
            return Err(D::Error::custom("a chain length is listed twice"));
        }
        Ok(map)
    }
}
