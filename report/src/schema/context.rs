//! The first and the last record of a file: what made it, where, and whether
//! it was finished.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Observed, latency::Latency};

/// The version of the schema a file was written with. Readers accept any
/// minor of a major they know and refuse other majors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaVersion {
    /// Always `rmapscope`.
    pub name: String,
    /// Incremented when an old reader would misread a new file.
    pub major: u32,
    /// Incremented when fields or records are added.
    pub minor: u32,
}

impl SchemaVersion {
    /// The schema's name.
    pub const NAME: &'static str = "rmapscope";
    /// The major version this crate reads and writes.
    pub const MAJOR: u32 = 1;
    /// The minor version this crate writes.
    pub const MINOR: u32 = 9;

    /// The version this crate writes.
    pub fn current() -> Self {
        Self {
            name: Self::NAME.to_owned(),
            major: Self::MAJOR,
            minor: Self::MINOR,
        }
    }
}

/// What kind of job wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResultKind {
    /// Synthetic measurements.
    Bench,
    /// A recording of a live host.
    Profile,
    /// Claims of others, tested.
    Verdict,
    /// Live tests on stock kernels.
    Matrix,
}

impl std::fmt::Display for ResultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bench => "bench",
            Self::Profile => "profile",
            Self::Verdict => "verdict",
            Self::Matrix => "matrix",
        })
    }
}

/// What made the file and on which host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Context {
    /// Schema version.
    pub schema: SchemaVersion,
    /// The job.
    pub kind: ResultKind,
    /// Start of the job, UTC, `YYYY-MM-DDThh:mm:ssZ`.
    pub created_utc: String,
    /// The program.
    pub tool: Tool,
    /// The exact command line, with the program's path reduced to its name.
    pub command: Vec<String>,
    /// The host.
    pub host: Host,
    /// Counters that this run could not read at all, and why. Its records leave
    /// them out; a counter missing from one record alone is named there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing_counters: BTreeMap<String, String>,
    /// Which lock mmu_lock was in the model's MMUs: `queued`, `parking-lot`, `std`.
    /// Absent where no MMU was built, and in files older than minor 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mmu_lock: Option<String>,
    /// Schemes of the model that pass over chains they should look at, always or once a
    /// page was found young without: they are cheap for that alone. Absent where no MMU was
    /// built, and in files older than minor 9.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_over_chains: Vec<String>,
    /// Schemes of the model whose aging takes no mmu_lock, whatever it finds. Absent as
    /// above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub age_without_mmu_lock: Vec<String>,
    /// The files this one was merged from; absent in a file that was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged_from: Vec<Source>,
}

/// One of the files a merged file was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// Its name, without folders.
    pub file: String,
    /// When it was begun, UTC.
    pub created_utc: String,
    /// Its host's label.
    pub host: String,
}

/// The program that wrote a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// rmapscope's version.
    pub version: String,
    /// The git revision it was built from, `-dirty` appended where known.
    pub git_revision: Observed<String>,
    /// `rustc --version` of the compiler.
    pub rustc: String,
    /// Whether it was built with optimisation.
    pub optimised: bool,
}

/// What is known about the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// One line that names the host in tables: CPU, CPUs, kernel, KVM.
    pub label: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -v`.
    pub kernel_version: String,
    /// The CPU's model name.
    pub cpu_model: Observed<String>,
    /// CPUs online.
    pub cpus_online: u32,
    /// Threads per core.
    pub threads_per_core: Observed<u32>,
    /// Sockets.
    pub sockets: Observed<u32>,
    /// NUMA nodes.
    pub numa_nodes: Observed<u32>,
    /// Size of the last-level cache of CPU 0, bytes.
    pub llc_bytes: Observed<u64>,
    /// Memory, bytes.
    pub memory_bytes: Observed<u64>,
    /// Frequency governor of CPU 0.
    pub governor: Observed<String>,
    /// `on`, `off`, `notsupported`, …
    pub smt: Observed<String>,
    /// State of every CPU vulnerability the kernel lists.
    pub mitigations: Observed<BTreeMap<String, String>>,
    /// Current clock source.
    pub clocksource: Observed<String>,
    /// Transparent huge pages: the selected mode.
    pub thp: Observed<String>,
    /// Swap, bytes.
    pub swap_bytes: Observed<u64>,
    /// MGLRU's enabled mask.
    pub mglru: Observed<String>,
    /// Running kdamond threads.
    pub kdamonds: Observed<u32>,
    /// Hypervisor this host itself runs under, by what it calls itself in CPUID; `none` on
    /// bare metal.
    pub hypervisor: Observed<String>,
    /// Name of the hardware PMU.
    pub pmu: Observed<String>,
    /// Kernel lockdown mode.
    pub lockdown: Observed<String>,
    /// KVM's configuration.
    pub kvm: KvmConfig,
    /// What makes this host unusual, one sentence each.
    pub unusual: Vec<String>,
}

/// KVM as configured on the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KvmConfig {
    /// The backend: `kvm_intel`, `kvm_amd`, or another that registers `/dev/kvm`.
    pub backend: Observed<String>,
    /// Whether KVM is part of vmlinux (`true`) or a module.
    pub built_in: Observed<bool>,
    /// Parameters of kvm and its backend, `module.parameter` to value.
    pub parameters: BTreeMap<String, String>,
    /// Whether aging takes no mmu_lock (`CONFIG_KVM_MMU_LOCKLESS_AGING`).
    pub lockless_aging: Observed<bool>,
}

impl KvmConfig {
    /// Whether guests that are not nested are in the TDP MMU, so without rmaps of their
    /// own: two-dimensional paging (EPT, NPT) and the TDP MMU are on. Not known is no.
    pub fn has_tdp_mmu(&self) -> bool {
        let is_on = |name: &str| {
            let value = self.parameters.get(name);
            value.is_some_and(|value| value == "Y" || value == "1")
        };
        is_on("kvm.tdp_mmu") && (is_on("kvm_intel.ept") || is_on("kvm_amd.npt"))
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All that was asked for is in the file.
    Complete,
    /// It was ended early; what is in the file is whole.
    Partial,
}

/// What other activity on the host did to the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Disturbance {
    /// Time stolen by the hypervisor, all CPUs, milliseconds.
    pub steal_ms: Observed<u64>,
    /// Involuntary context switches of the measuring threads.
    pub involuntary_switches: Observed<u64>,
    /// Migrations of the measuring threads between CPUs.
    pub migrations: Observed<u64>,
    /// Times of one loop of independent instructions, timed again and again meanwhile:
    /// they are longer where another hardware thread uses the core too, or the clock is
    /// lowered. Not timed in files of versions before 1.8.
    #[serde(default = "cores_not_watched")]
    pub core_loop: Observed<Latency>,
}

fn cores_not_watched() -> Observed<Latency> {
    Observed::missing("the version that wrote this did not watch it")
}

impl Disturbance {
    /// Nothing was watched, for `reason`.
    pub fn unwatched(reason: &str) -> Self {
        Self {
            steal_ms: Observed::missing(reason),
            involuntary_switches: Observed::missing(reason),
            migrations: Observed::missing(reason),
            core_loop: Observed::missing(reason),
        }
    }

    /// Adds what disturbed another part of the same job. What one part lacks the sum
    /// lacks.
    pub fn add(&mut self, other: &Self) {
        let plus = |sum: &mut u64, more: &u64| *sum = sum.saturating_add(*more);
        self.steal_ms.add_with(&other.steal_ms, plus);
        self.involuntary_switches
            .add_with(&other.involuntary_switches, plus);
        self.migrations.add_with(&other.migrations, plus);
        self.core_loop.add_with(&other.core_loop, Latency::merge);
    }
}

/// The last record of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct End {
    /// Records in the file, this one and the context included.
    pub records: u64,
    /// Whether the job was finished.
    pub outcome: Outcome,
    /// Why it was not, if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Wall-clock time of the job, seconds.
    pub elapsed_s: f64,
    /// What disturbed it.
    pub disturbance: Disturbance,
}
