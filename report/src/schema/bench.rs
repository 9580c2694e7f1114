//! Synthetic measurements.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Observed, latency::Latency, proportion::Counts, stats};

/// What is timed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Look at the Accessed bits of a range.
    TestAge,
    /// Look at them and clear them.
    Age,
    /// A vCPU fault that installs an SPTE.
    Fault,
    /// Zapping one SPTE.
    Zap,
    /// Zapping every SPTE of a range.
    UnmapRange,
    /// A vCPU fault that finds its SPTE installed: mmu_lock and no rmap.
    SpuriousFault,
    /// Keeping a VM mapped; nothing is timed.
    Map,
    /// A pass of the kernel's own reclaim over a real guest's memory.
    Reclaim,
    /// Reading the rmap heads of a real guest.
    Census,
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TestAge => "test_age",
            Self::Age => "age",
            Self::Fault => "fault",
            Self::Zap => "zap",
            Self::UnmapRange => "unmap_range",
            Self::SpuriousFault => "spurious_fault",
            Self::Map => "map",
            Self::Reclaim => "reclaim",
            Self::Census => "census",
        })
    }
}

/// Cache state before a timed pass.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// The working set was walked just before and fits the caches.
    Hot,
    /// A set as large as the test guest of a profile, gone over page after page as
    /// reclaim goes over a guest: its size decides what is in the caches.
    Swept,
    /// A set that the last-level cache holds and the caches before it do not, in
    /// scattered order.
    Llc,
    /// The working set had left the caches, or was larger than they are.
    Cold,
}

impl Cache {
    /// All of them, from the fastest to the slowest.
    pub const ALL: [Self; 4] = [Self::Hot, Self::Swept, Self::Llc, Self::Cold];
}

impl std::fmt::Display for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hot => "hot",
            Self::Swept => "swept",
            Self::Llc => "llc",
            Self::Cold => "cold",
        })
    }
}

/// The parameters of one cell; a parameter that does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// SPTEs on the rmap of every gfn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_len: Option<u32>,
    /// Chain lengths of the slot's pages where they differ, each with the percentage
    /// of pages that have it: `1:90,4:9,16:1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_mix: Option<String>,
    /// Pages of one callback's range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_pages: Option<u64>,
    /// Level of the mapping: 1 is 4K, 2 is 2M, 3 is 1G.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// Share of SPTEs with the Accessed bit set before a pass, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub young_share: Option<f64>,
    /// Where the pages that were used are young: `tdp` (in the TDP MMU),
    /// `shadow_only` (in the one SPTE of their rmap), `shadow_chain` (in one of
    /// several).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub young_in: Option<String>,
    /// Cache state before a pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Bytes of heads, descriptors and SPTEs walked in one pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set_bytes: Option<u64>,
    /// Share of the measuring program's memory that lay in huge pages, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huge_page_share: Option<f64>,
    /// Pages of the memslot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_pages: Option<u64>,
    /// Threads that age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agers: Option<u32>,
    /// Threads that fault and zap as vCPUs do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Time from one operation of a vCPU being due to the next, nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op_interval_ns: Option<u64>,
    /// How the agers run: `none` (the control), `back_to_back`, `periodic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aging: Option<String>,
    /// Start of one periodic aging sweep to the start of the next, nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aging_interval_ns: Option<u64>,
    /// When a vCPU begins its next operation: `paced` (at a time fixed
    /// beforehand) or `closed_loop` (when the last one is done).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<String>,
    /// Which pages several agers go over: `same` or `disjoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<String>,
    /// Share of rmap heads that hold nothing, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_share: Option<f64>,
    /// Whom the timed thread meets: `same_rmap` or `other_rmap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meets: Option<String>,
    /// Memory of the modelled VM, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_bytes: Option<u64>,
    /// NUMA nodes that hold the measuring program's memory, most of it first;
    /// absent where the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_nodes: Option<Vec<u32>>,
    /// How the CPUs were put in order: `listed`, `compact`, `scatter`, `smt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// CPUs the threads were pinned to, in thread order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Vec<u32>>,
}

/// Median of the rounds with its interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Rounds.
    pub n: u32,
    /// Median over the rounds.
    pub median: f64,
    /// Lower end of the median's 95 % interval (order statistics); absent
    /// with fewer than six rounds, which cannot give one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95_low: Option<f64>,
    /// Upper end of the median's 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95_high: Option<f64>,
    /// Smallest round.
    pub min: f64,
    /// Largest round.
    pub max: f64,
}

impl Summary {
    /// Summarises how many times the one is the other, round by round: a round
    /// measures both within the same seconds, so what slows a machine for a while
    /// slows both. `None` where the rounds do not pair up, or a ratio is not finite.
    pub fn of_ratios(over: &[f64], under: &[f64]) -> Option<Self> {
        if over.len() != under.len() {
            return None;
        }
        let pairs = over.iter().zip(under);
        let ratios: Vec<f64> = pairs.map(|(over, under)| over / under).collect();
        Self::of(&ratios).filter(|s| s.min.is_finite() && s.max.is_finite())
    }

    /// Summarises one value per round; `None` without rounds or with a value
    /// that is not finite.
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let median = stats::median(rounds)?;
        let interval = stats::median_ci95(rounds);
        Some(Self {
            n: u32::try_from(rounds.len()).ok()?,
            median,
            ci95_low: interval.map(|i| i.0),
            ci95_high: interval.map(|i| i.1),
            min: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            max: rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

/// How far two figures of the same rounds are apart at most, as a share of them.
const SAME: f64 = 1e-9;

/// The figure of a summary that is not that of its rounds.
fn other_than(summary: &Summary, rounds: &[f64]) -> Option<String> {
    let Some(made) = Summary::of(rounds) else {
        return Some("field summary: no rounds are listed".to_owned());
    };
    let figures = |s: &Summary| {
        [
            Some(s.median),
            s.ci95_low,
            s.ci95_high,
            Some(s.min),
            Some(s.max),
        ]
    };
    let names = ["median", "ci95_low", "ci95_high", "min", "max"];
    let pairs = figures(summary).into_iter().zip(figures(&made));
    names.into_iter().zip(pairs).find_map(|(name, pair)| {
        let detail = match pair {
            (Some(found), Some(made)) if (found - made).abs() > SAME * made.abs() => {
                format!("{found} is not that of the rounds, {made}")
            }
            (Some(found), None) => format!("{found}, which so few rounds do not have"),
            // An interval may be left out.
            _ => return None,
        };
        Some(format!("field summary.{name}: {detail}"))
    })
}

/// The figures of a latency distribution that tables print, nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencySummary {
    /// Operations.
    pub count: u64,
    /// Mean.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Largest.
    pub max_ns: u64,
}

/// One synthetic measurement: one scheme, one operation, one set of
/// parameters, several interleaved rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchRecord {
    /// The workload's name.
    pub workload: String,
    /// The lock scheme, physical limit or peer.
    pub scheme: String,
    /// What was timed.
    pub op: Op,
    /// What one value of `rounds` is, unit included: a time (`ns_per_…`, `s_per_…`, `…_ns`,
    /// `…_s`), of which more is slower; a throughput (`…_per_us`), of which less is; or
    /// something else, such as a share or bytes.
    pub metric: String,
    /// The parameters.
    pub params: Params,
    /// One value per round, in the order measured.
    pub rounds: Vec<f64>,
    /// Median and interval of `rounds`; `null` with a reason when no round
    /// gave a value.
    pub summary: Observed<Summary>,
    /// The distribution over all operations of all rounds, where single
    /// operations were timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Events counted over all rounds, where the metric is a share of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Counter name (`cycles`, `task-clock-ns`, …) to its value per operation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, Observed<f64>>,
    /// Why the figures should be doubted, if they should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoiled: Option<String>,
}

impl BenchRecord {
    /// Whether the other is of the same cell, be it of another scheme. The share of huge
    /// pages is an outcome of the run, not a question put to it.
    pub fn is_same_but_for_scheme(&self, other: &Self) -> bool {
        let asked = |params: &Params| Params {
            huge_page_share: None,
            ..params.clone()
        };
        (&self.workload, self.op, &self.metric) == (&other.workload, other.op, &other.metric)
            && asked(&self.params) == asked(&other.params)
    }

    /// What contradicts itself in the record, naming the field.
    ///
    /// # Errors
    /// A time or share below zero, or a summary of other rounds than these.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_time = self.metric.starts_with("ns_") || self.metric.ends_with("_ns");
        let never_negative = is_time || self.metric.ends_with("_share");
        if let Some(round) = self.rounds.iter().find(|r| never_negative && **r < 0.0) {
            return Err(format!("field rounds: {round} {} is negative", self.metric));
        }
        let Observed::Value(summary) = &self.summary else {
            return Ok(());
        };
        if summary.n as usize != self.rounds.len() {
            return Err(format!(
                "field summary.n: {} rounds are summarised and {} are listed",
                summary.n,
                self.rounds.len()
            ));
        }
        other_than(summary, &self.rounds).map_or(Ok(()), Err)
    }
}
