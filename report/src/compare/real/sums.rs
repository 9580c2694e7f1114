//! Callbacks added up: counts, timer samples by rate, times of timed calls, and the means
//! they give.

use std::collections::BTreeMap;

use super::RealCost;
use crate::{
    Observed,
    schema::CallbackRecord,
    stats::{AtRate, SampledMean, Z95, at_rate_zero, sampled_mean_ns},
};

/// Samples an exact chain length needs for a row of its own; with fewer it is
/// pooled with its neighbours.
const SAMPLES_FOR_OWN_ROW: u64 = 100;
/// Calls a chain length needs for a row of its own where each is measured.
const CALLS_FOR_OWN_ROW: u64 = 100;

/// Sums of the callbacks of one kind and chain length.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) callbacks: u64,
    pages: u64,
    pub(super) len_sum: u64,
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
    /// In the TDP MMU's walk, of all calls together.
    tdp_ns: f64,
}

impl RateSums {
    fn samples(&self) -> u64 {
        self.walk.saturating_add(self.notifier)
    }
}

impl Sums {
    pub(super) fn add(&mut self, len: u32, record: &CallbackRecord) {
        self.callbacks = self.callbacks.saturating_add(record.callbacks);
        self.pages = self.pages.saturating_add(record.pages);
        let sptes = u64::from(len).saturating_mul(record.callbacks);
        self.len_sum = self.len_sum.saturating_add(sptes);
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
            sums.calls = sums.calls.saturating_add(calls);
            sums.total_ns += mean * calls as f64;
            sums.total_sq += latency
                .stdev_ns()
                .powi(2)
                .mul_add(calls as f64, mean * mean * calls as f64);
            if let Observed::Value(wait) = &record.wait {
                sums.wait_calls = sums.wait_calls.saturating_add(wait.count());
                sums.wait_ns += wait.mean_ns() * wait.count() as f64;
            }
            if let Observed::Value(tdp) = &record.tdp {
                sums.tdp_ns += tdp.mean_ns() * tdp.count() as f64;
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.callbacks = self.callbacks.saturating_add(other.callbacks);
        self.pages = self.pages.saturating_add(other.pages);
        self.len_sum = self.len_sum.saturating_add(other.len_sum);
        if let Some(o) = &other.sampled {
            let sums = self.sampled.get_or_insert_default();
            o.0.iter().for_each(|(period, at)| sums.add(*period, *at));
        }
        if let Some(o) = &other.exact {
            let sums = self.exact.get_or_insert_default();
            sums.calls = sums.calls.saturating_add(o.calls);
            sums.total_ns += o.total_ns;
            sums.total_sq += o.total_sq;
            sums.wait_calls = sums.wait_calls.saturating_add(o.wait_calls);
            sums.wait_ns += o.wait_ns;
            sums.tdp_ns += o.tdp_ns;
        }
    }

    pub(super) fn earns_own_row(&self) -> bool {
        let sampled = self.sampled.as_ref().map_or(0, SampleSums::samples);
        let exact = self.exact.as_ref().map_or(0, |s| s.calls);
        sampled >= SAMPLES_FOR_OWN_ROW || exact >= CALLS_FOR_OWN_ROW
    }

    pub(super) fn cost(&self, several_pages: bool) -> RealCost {
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
        sums.callbacks = sums.callbacks.saturating_add(at.callbacks);
        sums.walk = sums.walk.saturating_add(at.walk);
        sums.notifier = sums.notifier.saturating_add(at.notifier);
    }

    fn samples(&self) -> u64 {
        let samples = self.0.values().map(RateSums::samples);
        samples.fold(0, u64::saturating_add)
    }

    fn means(&self, callbacks: u64) -> (Option<SampledMean>, Option<SampledMean>) {
        let mean = |of: fn(&RateSums) -> u64| {
            let samples = self.0.values().map(of).fold(0, u64::saturating_add);
            let times = self.0.iter().map(|(ns, at)| *ns as f64 * of(at) as f64);
            // Runs may have sampled at different rates: an average period
            // keeps the total time right.
            let period = times.sum::<f64>() / samples.max(1) as f64;
            sampled_mean_ns(samples, period.round() as u64, callbacks)
        };
        (mean(RateSums::samples), mean(|at| at.walk))
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
        (mean(RateSums::samples), mean(|at| at.walk))
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
        let half = Z95 * (variance / n).sqrt();
        // A few long waits among short ones make it wide; no time is below nothing.
        let around = |m: f64| SampledMean {
            mean_ns: m.max(0.0),
            low_ns: (m - half).max(0.0),
            high_ns: (m + half).max(0.0),
        };
        // What is neither before the walk nor in the other MMU is the rmaps'.
        let walk = (self.wait_calls > 0)
            .then(|| around(mean - self.wait_ns / self.wait_calls as f64 - self.tdp_ns / n));
        (Some(around(mean)), walk)
    }
}
