//! Reading what the kernel side summed.
//!
//! Called after the programs are detached, so that all counters are of the same
//! interval. Per-CPU copies are added up here and nowhere else.

use std::collections::BTreeMap;

use anyhow::Result;
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, StackTraceMap},
};
use profiler_common::{
    aging::{Cell, CellKey, Totals},
    exact::HistogramKey,
    histogram::Histogram,
};
use report::schema::{CallerClass, StackRecord};

use crate::{kernel::Symbols, object};

/// Stacks of class "other" that are kept, most frequent first.
const TOP_STACKS: usize = 10;

/// The kernel side's counters.
pub(super) struct Counters {
    cells: PerCpuHashMap<MapData, CellKey, Cell>,
    totals: PerCpuArray<MapData, Totals>,
    histograms: PerCpuHashMap<MapData, HistogramKey, Histogram>,
    stacks: StackTraceMap<MapData>,
    stack_counts: HashMap<MapData, u64, u64>,
}

/// All of it, added up.
pub(super) struct Counts {
    pub(super) cells: BTreeMap<CellKey, Cell>,
    pub(super) totals: Totals,
    pub(super) histograms: BTreeMap<HistogramKey, Box<Histogram>>,
}

impl Counters {
    /// Takes the maps.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            cells: object::take(ebpf, "CELLS")?,
            totals: object::take(ebpf, "TOTALS")?,
            histograms: object::take(ebpf, "HISTOGRAMS")?,
            stacks: object::take(ebpf, "OTHER_STACKS")?,
            stack_counts: object::take(ebpf, "OTHER_COUNTS")?,
        })
    }

    /// Adds up the counters.
    pub(super) fn read(&self) -> Result<Counts, MapError> {
        let mut counts = Counts {
            cells: BTreeMap::new(),
            totals: Totals::default(),
            histograms: BTreeMap::new(),
        };
        for entry in self.cells.iter() {
            let (key, per_cpu) = entry?;
            let sum = counts.cells.entry(key).or_default();
            per_cpu.iter().for_each(|cell| sum.add(cell));
        }
        for totals in self.totals.get(&0, 0)?.iter() {
            counts.totals.add(totals);
        }
        for entry in self.histograms.iter() {
            let (key, per_cpu) = entry?;
            let empty = || Box::new(Histogram::EMPTY);
            let sum = counts.histograms.entry(key).or_insert_with(empty);
            for histogram in per_cpu.iter() {
                let pairs = sum.buckets.iter_mut().zip(&histogram.buckets);
                pairs.for_each(|(sum, count)| *sum += count);
            }
        }
        Ok(counts)
    }

    /// The most frequent stacks that no caller class explains, with names.
    pub(super) fn other_stacks(&self, run: u32, symbols: &Symbols) -> Vec<StackRecord> {
        let mut counted: Vec<(u64, u64)> = self.stack_counts.iter().flatten().collect();
        counted.sort_unstable_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
        let top = counted.into_iter().take(TOP_STACKS);
        top.filter_map(|(id, count)| {
            let trace = self.stacks.get(&u32::try_from(id).ok()?, 0).ok()?;
            let frames = trace.frames().iter().map(|frame| symbols.name_of(frame.ip));
            Some(StackRecord {
                run,
                caller: CallerClass::Other,
                count,
                frames: frames.collect(),
            })
        })
        .collect()
    }
}
