//! The real side: mean cost of a callback by kind, range and chain length, pooled
//! over runs, VMs and callers.

mod sums;

use std::collections::BTreeMap;

use serde::Serialize;

use self::sums::Sums;
use crate::{
    ResultFile,
    schema::{CallbackKind, CallbackRecord, ChainLen, Record},
    stats::{LEAST_SAMPLES, SampledMean},
    table::figure,
};

/// Lower ends of the bands that pool chain lengths.
const BANDS: [u32; 10] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256];

/// One or several chain lengths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Band {
    /// Shortest chain seen.
    pub first: u32,
    /// Longest chain seen.
    pub last: u32,
    /// Mean over the callbacks.
    pub mean_len: f64,
}

impl std::fmt::Display for Band {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(
            f,
            "{}-{} ({})",
            self.first,
            self.last,
            figure(self.mean_len)
        )
    }
}

/// What a real callback costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RealCost {
    /// Callbacks.
    pub callbacks: u64,
    /// Pages of their ranges.
    pub pages: u64,
    /// Whether the ranges are longer than one page.
    pub several_pages: bool,
    /// Timer samples in them, where sampled.
    pub samples: Option<u64>,
    /// Mean time of a callback: at sampling rate zero where several rates tell
    /// it, else as it was seen.
    #[serde(skip)]
    pub total: Option<SampledMean>,
    /// Mean time of its walk, likewise.
    #[serde(skip)]
    pub walk: Option<SampledMean>,
    /// Both as they were seen.
    #[serde(skip)]
    pub raw: (Option<SampledMean>, Option<SampledMean>),
    /// Both at sampling rate zero.
    #[serde(skip)]
    pub rate_zero: (Option<SampledMean>, Option<SampledMean>),
    /// `[mean, low, high]` of a callback, nanoseconds.
    pub total_ns: Option<[f64; 3]>,
    /// `[mean, low, high]` of its walk, nanoseconds.
    pub walk_ns: Option<[f64; 3]>,
    /// What observed it.
    pub mechanism: String,
}

impl RealCost {
    /// Mean pages of a callback's range.
    pub fn mean_pages(&self) -> f64 {
        self.pages as f64 / self.callbacks.max(1) as f64
    }

    /// Whether there are enough samples, or calls, for a mean that says
    /// something.
    pub fn is_supported(&self) -> bool {
        self.total.is_some() && self.samples.is_none_or(|n| n >= LEAST_SAMPLES)
    }
}

/// Sampling rate reached, averaged over the runs of a profile.
pub(super) fn rate_hz(profile: &ResultFile) -> Option<f64> {
    let rates: Vec<f64> = profile
        .records
        .iter()
        .filter_map(|r| match r {
            Record::Run(run) => run.sampling.value().map(|s| s.reached_hz),
            _ => None,
        })
        .collect();
    if rates.is_empty() {
        return None;
    }
    Some(rates.iter().sum::<f64>() / rates.len() as f64)
}

/// SPTEs on the chain of one gfn of the callback's range: where each callback is
/// measured a record holds those of the whole range.
fn chain_of_a_gfn(record: &CallbackRecord) -> Option<u32> {
    let ChainLen::Exact(len) = record.chain_len else {
        return None;
    };
    if !record.several_pages || record.latency.value().is_none() || record.pages == 0 {
        return Some(len);
    }
    let pages = record.pages as f64 / record.callbacks.max(1) as f64;
    Some((f64::from(len) / pages).round() as u32)
}

/// Callbacks of one kind, over one page or several.
pub(super) type Group = (CallbackKind, bool);

/// The chain lengths that get a row, each with the sums over its callbacks: one of
/// its own for each that was sampled often enough, bands for the rest.
fn banded<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<(Group, Band, Sums)> {
    let mut cells: BTreeMap<(Group, u32), Sums> = BTreeMap::new();
    for record in records {
        if let Record::Callbacks(record) = record
            && let Some(len) = chain_of_a_gfn(record)
        {
            let group = (record.kind, record.several_pages);
            cells.entry((group, len)).or_default().add(len, record);
        }
    }
    let mut rows: Vec<(Group, Band, Sums)> = Vec::new();
    for ((group, len), sums) in cells {
        let start = BANDS.iter().rev().copied().find(|b| *b <= len).unwrap_or(0);
        let pooled = rows.iter_mut().find(|(g, band, s)| {
            *g == group && band.first >= start && band.last < len && !s.earns_own_row()
        });
        match pooled {
            Some((_, band, pool)) if !sums.earns_own_row() => {
                band.last = len;
                pool.merge(&sums);
                band.mean_len = pool.len_sum as f64 / pool.callbacks.max(1) as f64;
            }
            _ => {
                let band = Band {
                    first: len,
                    last: len,
                    mean_len: f64::from(len),
                };
                rows.push((group, band, sums));
            }
        }
    }
    rows.retain(|(_, _, sums)| sums.callbacks > 0);
    rows
}

/// Mean costs by kind, range and chain length. Callbacks over several pages have rows
/// of their own behind those over one.
pub fn costs(profile: &ResultFile) -> Vec<(CallbackKind, Band, RealCost)> {
    costs_of(&profile.records)
}

/// As [`costs`], of records.
pub(super) fn costs_of(records: &[Record]) -> Vec<(CallbackKind, Band, RealCost)> {
    let rows = banded(records.iter()).into_iter();
    rows.map(|((kind, several), band, sums)| (kind, band, sums.cost(several)))
        .collect()
}

/// The groups and bands of two profiles together.
pub(super) fn common_bands(a: &ResultFile, b: &ResultFile) -> Vec<(Group, Band)> {
    let rows = banded(a.records.iter().chain(&b.records)).into_iter();
    rows.map(|(group, band, _)| (group, band)).collect()
}

/// The cost of a group's callbacks at the lengths of a band; in one run or in all.
pub(super) fn cost_in(
    profile: &ResultFile,
    group: Group,
    band: &Band,
    run: Option<u32>,
) -> RealCost {
    let mut sums = Sums::default();
    for record in callbacks_in(profile, group, band, run) {
        sums.add(chain_of_a_gfn(record).unwrap_or(0), record);
    }
    sums.cost(group.1)
}

/// The records of a group's callbacks at the lengths of a band.
pub(super) fn callbacks_in<'a>(
    profile: &'a ResultFile,
    (kind, several): Group,
    band: &Band,
    run: Option<u32>,
) -> impl Iterator<Item = &'a CallbackRecord> {
    let lengths = band.first..=band.last;
    let records = profile.records.iter().filter_map(|record| match record {
        Record::Callbacks(record) => Some(&**record),
        _ => None,
    });
    records.filter(move |record| {
        record.kind == kind
            && record.several_pages == several
            && run.is_none_or(|run| record.run == run)
            && chain_of_a_gfn(record).is_some_and(|len| lengths.contains(&len))
    })
}
