//! Aging callbacks as a recording counts them: kinds, callers, chain lengths.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Observed, latency::Latency};

/// Which mmu_notifier aging callback.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CallbackKind {
    /// Look, clear, and flush the TLB where the architecture wants it.
    ClearFlushYoung,
    /// Look and clear.
    ClearYoung,
    /// Look only.
    TestYoung,
    /// One of the two clearing kinds, not told apart.
    ClearUnknown,
}

impl CallbackKind {
    /// Whether the callback clears Accessed bits.
    pub const fn clears(self) -> bool {
        !matches!(self, Self::TestYoung)
    }
}

impl std::fmt::Display for CallbackKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ClearFlushYoung => "clear_flush_young",
            Self::ClearYoung => "clear_young",
            Self::TestYoung => "test_young",
            Self::ClearUnknown => "clear_unknown",
        })
    }
}

/// Who asked for the pages to be aged, from the kernel stack of the callback.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CallerClass {
    /// Reclaim of a memory cgroup.
    Memcg,
    /// Background reclaim.
    Kswapd,
    /// Reclaim by a task that waits for memory.
    Direct,
    /// Reclaim entered some other way.
    Reclaim,
    /// MGLRU walking page tables to age a generation.
    Mglru,
    /// MGLRU looking at the neighbours of a young page.
    Lookaround,
    /// DAMON.
    Damon,
    /// khugepaged, or a collapse asked for by madvise.
    Khugepaged,
    /// Idle page tracking.
    PageIdle,
    /// None of these.
    Other,
    /// The kernel stack could not be read.
    Unknown,
}

impl std::fmt::Display for CallerClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memcg => "memcg",
            Self::Kswapd => "kswapd",
            Self::Direct => "direct",
            Self::Reclaim => "reclaim",
            Self::Mglru => "mglru",
            Self::Lookaround => "lookaround",
            Self::Damon => "damon",
            Self::Khugepaged => "khugepaged",
            Self::PageIdle => "page_idle",
            Self::Other => "other",
            Self::Unknown => "unknown",
        })
    }
}

/// SPTEs on the rmap chain as seen at the callback.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ChainLen {
    /// Exactly this many.
    Exact(u32),
    /// This many or more: the overflow cell.
    AtLeast(u32),
    /// The memslots changed since they were last read; the lookup was not
    /// trusted.
    Stale,
    /// Heads or descriptors could not be read, made no sense, or were too many, or the host
    /// lets none be looked at.
    Unreadable,
    /// The VM has no rmap here: all of it is in the TDP MMU.
    NoRmap,
    /// The address is in no memslot of a recorded VM.
    Outside,
    /// The address lies in memslots of several VMs.
    Ambiguous,
    /// The callback reached no memslot.
    NotWalked,
}

/// Timer samples that fell into callbacks, by the part of the callback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Samples {
    /// In the rmap walk.
    pub rmap: u64,
    /// In `kvm_age_gfn` or `kvm_test_age_gfn`, outside the rmap walk.
    pub age_gfn: u64,
    /// In the rest of the callback: notifier list, SRCU, memslot lookup, locks.
    pub notifier: u64,
    /// In rmapscope's own probe; subtracted, not part of the cost.
    pub own: u64,
    /// CPU time one sample stands for, nanoseconds.
    pub period_ns: u64,
}

impl Samples {
    /// Samples in KVM's gfn aging functions and what they call: the part of a
    /// callback that a lock scheme changes.
    pub const fn walk(&self) -> u64 {
        self.rmap.saturating_add(self.age_gfn)
    }

    /// Samples in the callback, the probe left out.
    pub const fn total(&self) -> u64 {
        self.walk().saturating_add(self.notifier)
    }
}

/// Aging callbacks of one kind, caller class and chain length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallbackRecord {
    /// The run.
    pub run: u32,
    /// The VM; absent when the figures are of all recorded VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<u32>,
    /// Which callback.
    pub kind: CallbackKind,
    /// Who called.
    pub caller: CallerClass,
    /// Chain length seen when the callback began: of the range's first gfn
    /// where sampled, summed over the range where each callback is measured.
    pub chain_len: ChainLen,
    /// Whether the ranges are longer than one page.
    pub several_pages: bool,
    /// Callbacks.
    pub callbacks: u64,
    /// Pages of all ranges together. A run's counts are read while callbacks go on: one
    /// that was counted as they were read may have its pages in the run before or after.
    pub pages: u64,
    /// Heads whose LOCKED bit was set when the callback began.
    pub locked: Observed<u64>,
    /// Callbacks that reported young.
    pub young: Observed<u64>,
    /// Timer samples in these callbacks.
    pub samples: Observed<Samples>,
    /// Duration of each callback.
    pub latency: Observed<Latency>,
    /// Time until the walk began: SRCU, memslot lookup, waiting for mmu_lock.
    pub wait: Observed<Latency>,
    /// Time in the TDP MMU, of callbacks that reached it: the rest of the walk is the
    /// rmaps'. Not timed in files of versions before 1.7.
    #[serde(default = "tdp_not_timed")]
    pub tdp: Observed<Latency>,
}

fn tdp_not_timed() -> Observed<Latency> {
    Observed::missing("the version that recorded this did not time it")
}

/// One callback, sampled as it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventRecord {
    /// The run.
    pub run: u32,
    /// Time since the start of the run, nanoseconds.
    pub at_ns: u64,
    /// CPU.
    pub cpu: u32,
    /// Task that called.
    pub pid: u32,
    /// Which callback.
    pub kind: CallbackKind,
    /// Who called.
    pub caller: CallerClass,
    /// Pages of the range.
    pub pages: u64,
    /// Chain length of the range's first gfn.
    pub chain_len: ChainLen,
    /// Duration, nanoseconds.
    pub duration_ns: Observed<u64>,
}

/// A kernel stack through an aging callback, innermost function first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StackRecord {
    /// The run.
    pub run: u32,
    /// The class it was filed under.
    pub caller: CallerClass,
    /// How often it was taken.
    pub count: u64,
    /// Function names.
    pub frames: Vec<String>,
}
