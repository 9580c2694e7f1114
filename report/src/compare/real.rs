//! The real side: mean cost of a callback by kind, range and chain length, pooled
//! over runs, VMs and callers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    Observed, ResultFile,
    schema::{CallbackKind, CallbackRecord, ChainLen, Record},
    stats::{AtRate, SampledMean, at_rate_zero, sampled_mean_ns},
    table::figure,
};

/// Samples an exact chain length needs for a row of its own; with fewer it is
/// pooled with its neighbours.
const SAMPLES_FOR_OWN_ROW: u64 = 100;
/// Samples below which a mean says too little to be printed.
const LEAST_SAMPLES: u64 = 20;
/// Calls a chain length needs for a row of its own where each is measured.
const CALLS_FOR_OWN_ROW: u64 = 100;
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

/// Sums of the callbacks of one kind and chain length.
#[derive(Clone, Debug, Default)]
struct Sums {
    callbacks: u64,
    pages: u64,
    len_sum: u64,
    sampled: Option<SampleSums>,
    exact: Option<ExactSums>,
}

/// By the time one sample stands for.
#[derive(Clone, Debug, Default)]
struct SampleSums(BTreeMap<u64, RateSums>);

#[derive(Clone, Copy, Debug, Default)]
struct RateSums {
    callbacks: u64,
    walk: u64,
    notifier: u64,
}

#[derive(Clone, Debug, Default)]
struct ExactSums {
    calls: u64,
    total_ns: f64,
    total_sq: f64,
    wait_calls: u64,
    wait_ns: f64,
}

impl Sums {
    fn add(&mut self, len: u32, record: &CallbackRecord) {
        self.callbacks += record.callbacks;
        self.pages += record.pages;
        self.len_sum += u64::from(len) * record.callbacks;
        if let Observed::Value(samples) = &record.samples {
            let sums = self.sampled.get_or_insert_default();
            let at = RateSums {
                callbacks: record.callbacks,
                walk: samples.walk(),
                notifier: samples.notifier,
            };
            sums.add(samples.period_ns, at);
        }
        if let Observed::Value(latency) = &record.latency {
            let sums = self.exact.get_or_insert_default();
            let (calls, mean) = (latency.count(), latency.mean_ns());
            sums.calls += calls;
            sums.total_ns += mean * calls as f64;
            sums.total_sq += latency
                .stdev_ns()
                .powi(2)
                .mul_add(calls as f64, mean * mean * calls as f64);
            if let Observed::Value(wait) = &record.wait {
                sums.wait_calls += wait.count();
                sums.wait_ns += wait.mean_ns() * wait.count() as f64;
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.callbacks += other.callbacks;
        self.pages += other.pages;
        self.len_sum += other.len_sum;
        if let Some(o) = &other.sampled {
            let sums = self.sampled.get_or_insert_default();
            o.0.iter().for_each(|(period, at)| sums.add(*period, *at));
        }
        if let Some(o) = &other.exact {
            let sums = self.exact.get_or_insert_default();
            sums.calls += o.calls;
            sums.total_ns += o.total_ns;
            sums.total_sq += o.total_sq;
            sums.wait_calls += o.wait_calls;
            sums.wait_ns += o.wait_ns;
        }
    }

    fn earns_own_row(&self) -> bool {
        let sampled = self.sampled.as_ref().map_or(0, SampleSums::samples);
        let exact = self.exact.as_ref().map_or(0, |s| s.calls);
        sampled >= SAMPLES_FOR_OWN_ROW || exact >= CALLS_FOR_OWN_ROW
    }

    fn cost(&self, several_pages: bool) -> RealCost {
        const NOTHING: (Option<SampledMean>, Option<SampledMean>) = (None, None);
        let (raw, rate_zero, mechanism) = if let Some(exact) = &self.exact {
            let mechanism = "fentry and fexit on every callback".to_owned();
            (exact.means(), NOTHING, mechanism)
        } else if let Some(sums) = &self.sampled {
            let zero = sums.at_rate_zero();
            let mechanism = sums.mechanism(zero.0.is_some());
            (sums.means(self.callbacks), zero, mechanism)
        } else {
            let mechanism = "nothing: only counts were recorded".to_owned();
            (NOTHING, NOTHING, mechanism)
        };
        let (total, walk) = (rate_zero.0.or(raw.0), rate_zero.1.or(raw.1));
        let flat = |m: Option<SampledMean>| m.map(|m| [m.mean_ns, m.low_ns, m.high_ns]);
        RealCost {
            callbacks: self.callbacks,
            pages: self.pages,
            several_pages,
            samples: self.sampled.as_ref().map(SampleSums::samples),
            total,
            walk,
            raw,
            rate_zero,
            total_ns: flat(total),
            walk_ns: flat(walk),
            mechanism,
        }
    }
}

impl SampleSums {
    fn add(&mut self, period_ns: u64, at: RateSums) {
        let sums = self.0.entry(period_ns).or_default();
        sums.callbacks += at.callbacks;
        sums.walk += at.walk;
        sums.notifier += at.notifier;
    }

    fn samples(&self) -> u64 {
        self.0.values().map(|at| at.walk + at.notifier).sum()
    }

    fn means(&self, callbacks: u64) -> (Option<SampledMean>, Option<SampledMean>) {
        let mean = |of: fn(&RateSums) -> u64| {
            let samples: u64 = self.0.values().map(of).sum();
            let times = self.0.iter().map(|(ns, at)| *ns as f64 * of(at) as f64);
            // Runs may have sampled at different rates: an average period
            // keeps the total time right.
            let period = times.sum::<f64>() / samples.max(1) as f64;
            sampled_mean_ns(samples, period.round() as u64, callbacks)
        };
        (mean(|at| at.walk + at.notifier), mean(|at| at.walk))
    }

    fn at_rate_zero(&self) -> (Option<SampledMean>, Option<SampledMean>) {
        let mean = |of: fn(&RateSums) -> u64| {
            let rates: Vec<AtRate> = self
                .0
                .iter()
                .map(|(period_ns, at)| AtRate {
                    period_ns: *period_ns,
                    samples: of(at),
                    events: at.callbacks,
                })
                .collect();
            at_rate_zero(&rates)
        };
        (mean(|at| at.walk + at.notifier), mean(|at| at.walk))
    }

    fn mechanism(&self, at_rate_zero: bool) -> String {
        let how = "cpu-clock samples over exact tracepoint counts";
        if !at_rate_zero {
            return how.to_owned();
        }
        let rates: Vec<String> = self
            .0
            .keys()
            .rev()
            .map(|period| format!("{:.0}", 1e9 / *period as f64))
            .collect();
        format!("{how}, at rate zero from {} Hz", rates.join(" and "))
    }
}

impl ExactSums {
    fn means(&self) -> (Option<SampledMean>, Option<SampledMean>) {
        if self.calls == 0 {
            return (None, None);
        }
        let n = self.calls as f64;
        let mean = self.total_ns / n;
        let variance = (self.total_sq / n - mean * mean).max(0.0);
        let half = 1.96 * (variance / n).sqrt();
        // A few long waits among short ones make it wide; no time is below nothing.
        let around = |m: f64| SampledMean {
            mean_ns: m.max(0.0),
            low_ns: (m - half).max(0.0),
            high_ns: (m + half).max(0.0),
        };
        let walk =
            (self.wait_calls > 0).then(|| around(mean - self.wait_ns / self.wait_calls as f64));
        (Some(around(mean)), walk)
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
