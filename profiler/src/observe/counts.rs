//! Reading what the kernel side summed.
//!
//! Counters only ever grow, so what happened in between is the difference of two
//! reads. While programs run, counters of one read are not of the same instant.
//! Per-CPU copies are added up here and nowhere else.

use std::collections::BTreeMap;

use anyhow::Result;
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, StackTraceMap},
};
use profiler_common::{
    aging::{Cell, CellKey, Totals},
    exact::HistogramKey,
    histogram::{Histogram, bucket, middle_ns},
    interference::InterferenceKey,
};
use report::{
    latency::Latency,
    schema::{CallerClass, StackRecord},
};

use crate::{kernel::Symbols, object};

/// Stacks of class "other" that are kept, most frequent first.
const TOP_STACKS: usize = 10;

/// The kernel side's counters.
pub(crate) struct Counters {
    cells: PerCpuHashMap<MapData, CellKey, Cell>,
    totals: PerCpuArray<MapData, Totals>,
    histograms: PerCpuHashMap<MapData, HistogramKey, Histogram>,
    interference: PerCpuHashMap<MapData, InterferenceKey, Histogram>,
    spare_histograms: PerCpuHashMap<MapData, HistogramKey, Histogram>,
    spare_interference: PerCpuHashMap<MapData, InterferenceKey, Histogram>,
    stacks: StackTraceMap<MapData>,
    stack_counts: HashMap<MapData, u64, u64>,
}

/// All of it, added up over CPUs.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) cells: BTreeMap<CellKey, Cell>,
    pub(crate) totals: Totals,
    pub(crate) histograms: Histograms<HistogramKey>,
    pub(crate) interference: Histograms<InterferenceKey>,
}

impl Counts {
    /// Callbacks in all cells.
    #[cfg(test)]
    pub(crate) fn callbacks(&self) -> u64 {
        self.cells.values().map(|cell| cell.callbacks).sum()
    }

    /// What was counted since `earlier`; cells in which nothing was are left out.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut delta = Self {
            cells: BTreeMap::new(),
            totals: self.totals.since(&earlier.totals),
            histograms: histograms_since(&self.histograms, &earlier.histograms),
            interference: histograms_since(&self.interference, &earlier.interference),
        };
        for (key, cell) in &self.cells {
            let cell = match earlier.cells.get(key) {
                Some(before) if before == cell => continue,
                Some(before) => cell.since(before),
                None => *cell,
            };
            delta.cells.insert(*key, cell);
        }
        delta
    }

    /// Adds other counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.totals.add(&other.totals);
        for (key, cell) in &other.cells {
            self.cells.entry(*key).or_default().add(cell);
        }
        for (key, histogram) in &other.histograms {
            add_histogram(&mut self.histograms, *key, histogram);
        }
        for (key, histogram) in &other.interference {
            add_histogram(&mut self.interference, *key, histogram);
        }
    }

    /// Forgets the ends without a beginning and the beginnings without an end that were
    /// counted after `whole`: the programs of a pair are detached one after the other.
    pub(crate) fn forget_broken_pairs(&mut self, whole: &Totals) {
        self.totals.exits_unmatched = whole.exits_unmatched;
        self.totals.starts_replaced = whole.starts_replaced;
        self.totals.faults_unmatched = whole.faults_unmatched;
        self.totals.faults_replaced = whole.faults_replaced;
        self.totals.waits_unmatched = whole.waits_unmatched;
    }

    /// Forgets what belongs to none of these VMs.
    pub(crate) fn retain_vms(&mut self, keep: impl Fn(u16) -> bool) {
        self.cells.retain(|key, _| keep(key.vm));
        self.histograms.retain(|key, _| keep(key.cell.vm));
        self.interference.retain(|key, _| keep(key.vm));
    }
}

impl Counters {
    /// Takes the maps.
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            cells: object::take(ebpf, "CELLS")?,
            totals: object::take(ebpf, "TOTALS")?,
            histograms: object::take(ebpf, "HISTOGRAMS")?,
            interference: object::take(ebpf, "SPENT")?,
            spare_histograms: object::take(ebpf, "SPARE_HISTOGRAMS")?,
            spare_interference: object::take(ebpf, "SPARE_SPENT")?,
            stacks: object::take(ebpf, "OTHER_STACKS")?,
            stack_counts: object::take(ebpf, "OTHER_COUNTS")?,
        })
    }

    /// What belongs to no cell, added up.
    pub(crate) fn totals(&self) -> Result<Totals, MapError> {
        let mut sum = Totals::default();
        self.totals.get(&0, 0)?.iter().for_each(|of| sum.add(of));
        Ok(sum)
    }

    /// Adds up the counters.
    pub(crate) fn read(&self) -> Result<Counts, MapError> {
        let mut counts = Counts {
            histograms: read_histograms(&self.histograms, &self.spare_histograms)?,
            interference: read_histograms(&self.interference, &self.spare_interference)?,
            totals: self.totals()?,
            ..Counts::default()
        };
        for entry in self.cells.iter() {
            let (key, per_cpu) = entry?;
            let sum = counts.cells.entry(key).or_default();
            per_cpu.iter().for_each(|cell| sum.add(cell));
        }
        Ok(counts)
    }

    /// Empties the cells and histograms that belong to none of these VMs, so
    /// that VMs which come and go do not fill the maps.
    pub(crate) fn retain_vms(&mut self, keep: impl Fn(u16) -> bool) -> Result<(), MapError> {
        retain(&mut self.cells, |key| keep(key.vm))?;
        retain(&mut self.histograms, |key| keep(key.cell.vm))?;
        retain(&mut self.interference, |key| keep(key.vm))?;
        retain(&mut self.spare_histograms, |key| keep(key.cell.vm))?;
        retain(&mut self.spare_interference, |key| keep(key.vm))
    }

    /// The most frequent stacks that no caller class explains, with names.
    pub(crate) fn other_stacks(&self, run: u32, symbols: &Symbols) -> Vec<StackRecord> {
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

/// A histogram of the kernel side as result files have them: values in the middle of their
/// buckets, but for the longest, `longest_ns`, where that is known (not 0) and was counted.
pub(crate) fn distribution(histogram: &Histogram, longest_ns: u64) -> Latency {
    let mut latency = Latency::default();
    let last = histogram.buckets.iter().rposition(|count| *count > 0);
    let is_counted = longest_ns > 0 && last == Some(bucket(longest_ns));
    for (bucket, count) in histogram.buckets.iter().enumerate() {
        let mut count = *count;
        if is_counted && last == Some(bucket) {
            latency.record_ns(longest_ns);
            count -= 1;
        }
        if count > 0 {
            latency.record_many_ns(middle_ns(bucket), count);
        }
    }
    latency
}

/// Histograms by their keys.
type Histograms<K> = BTreeMap<K, Box<Histogram>>;

/// Adds the counts of `from` to the histogram of `key`.
fn add_histogram<K: Ord>(sums: &mut Histograms<K>, key: K, from: &Histogram) {
    let empty = || Box::new(Histogram::EMPTY);
    let sum = sums.entry(key).or_insert_with(empty);
    let pairs = sum.buckets.iter_mut().zip(&from.buckets);
    pairs.for_each(|(sum, count)| *sum += count);
}

/// What was counted since `earlier`; histograms in which nothing was are left
/// out.
fn histograms_since<K: Ord + Copy>(now: &Histograms<K>, earlier: &Histograms<K>) -> Histograms<K> {
    let mut delta = Histograms::new();
    for (key, histogram) in now {
        let mut histogram = histogram.clone();
        if let Some(before) = earlier.get(key) {
            if before.buckets == histogram.buckets {
                continue;
            }
            let pairs = histogram.buckets.iter_mut().zip(&before.buckets);
            pairs.for_each(|(count, before)| *count = count.saturating_sub(*before));
        }
        delta.insert(*key, histogram);
    }
    delta
}

/// Adds the histograms of a map and of its spare up over CPUs.
fn read_histograms<K: aya::Pod + Ord>(
    map: &PerCpuHashMap<MapData, K, Histogram>,
    spare: &PerCpuHashMap<MapData, K, Histogram>,
) -> Result<Histograms<K>, MapError> {
    let mut sums = Histograms::new();
    for entry in map.iter().chain(spare.iter()) {
        let (key, per_cpu) = entry?;
        for histogram in per_cpu.iter() {
            add_histogram(&mut sums, key, histogram);
        }
    }
    Ok(sums)
}

/// Removes the entries of a map whose key is not to be kept.
fn retain<K: aya::Pod, V: aya::Pod>(
    map: &mut PerCpuHashMap<MapData, K, V>,
    keep: impl Fn(&K) -> bool,
) -> Result<(), MapError> {
    let keys: Vec<K> = map.keys().flatten().collect();
    let gone = keys.iter().filter(|key| !keep(key));
    gone.into_iter()
        .try_for_each(|key| object::ignore_missing(map.remove(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(vm: u16, callbacks: u64, latency: u64) -> Counts {
        let mut counts = Counts::default();
        let key = CellKey {
            vm,
            ..CellKey::default()
        };
        let cell = Cell {
            callbacks,
            ..Cell::default()
        };
        counts.cells.insert(key, cell);
        let mut histogram = Box::new(Histogram::EMPTY);
        histogram.buckets[3] = latency;
        let key = HistogramKey {
            cell: key,
            ..HistogramKey::default()
        };
        counts.histograms.insert(key, histogram);
        counts.totals.callbacks = callbacks;
        counts
    }

    #[test]
    fn a_difference_and_what_it_is_added_to_make_the_later_count() {
        let (early, late) = (counts(0, 5, 2), counts(0, 7, 3));
        let delta = late.since(&early);
        assert_eq!(delta.callbacks(), 2);
        let mut sum = early.clone();
        sum.add(&delta);
        assert_eq!(sum.cells, late.cells);
        assert_eq!(sum.totals, late.totals);
        let key = late.histograms.keys().next().expect("one");
        assert_eq!(sum.histograms[key].buckets, late.histograms[key].buckets);
        let nothing = late.since(&late);
        assert!(nothing.cells.is_empty() && nothing.histograms.is_empty());
    }

    #[test]
    fn the_longest_value_is_itself_and_not_the_middle_of_its_bucket() {
        let mut histogram = Histogram::EMPTY;
        histogram.buckets[bucket(1000)] = 3;
        histogram.buckets[bucket(100_000)] = 1;
        let summary = |longest| distribution(&histogram, longest).summary();
        let middle = middle_ns(bucket(100_000));
        let near = |ns: u64, wanted: u64| ns.abs_diff(wanted) * 1000 <= wanted;
        assert!(near(summary(0).max_ns, middle), "not known");
        assert!(
            near(summary(98_500).max_ns, 98_500),
            "{:?}",
            summary(98_500)
        );
        assert_eq!(summary(98_500).count, 4);
        // Counters are read while callbacks come: one may be in the cell and not here yet.
        assert!(near(summary(1_000_000).max_ns, middle), "not counted");
        assert_eq!(distribution(&Histogram::EMPTY, 5).count(), 0);
    }

    #[test]
    fn counts_of_a_vm_can_be_forgotten() {
        let mut both = counts(0, 1, 1);
        both.add(&counts(1, 2, 2));
        both.retain_vms(|vm| vm != 0);
        assert_eq!(both.callbacks(), 2);
        assert_eq!(both.histograms.len(), 1);
    }
}
