//! What is going on per VM and kind of callback, from the counters of a stretch
//! of time: what `top` shows and `exporter` sums.
//!
//! Invariant: a figure that this rung does not see is `None`, never 0.

pub(crate) mod top;

use std::collections::BTreeMap;

use profiler_common::{
    aging::{Caller, Cell, CellKey, Kind, MAX_EXACT_LENGTH, NO_VM, length, place},
    exact::span,
    histogram::Histogram,
};
use report::{
    latency::Latency,
    stats::{AtRate, LEAST_SAMPLES, at_rate_zero},
};

use crate::{
    ladder::Rung,
    observe::{Stretch, distribution, period_ns},
};

/// Callbacks of one kind on one VM.
#[derive(Clone, Default)]
pub(crate) struct Figures {
    pub(crate) callbacks: u64,
    pub(crate) pages: u64,
    /// Time in callbacks: measured on the exact rung, estimated from samples
    /// on the other.
    pub(crate) busy_ns: u64,
    /// Callbacks that said young (exact rung).
    pub(crate) young: Option<u64>,
    /// Time before the walk (exact rung, where the inner entry is probed).
    pub(crate) wait_ns: Option<u64>,
    /// Callbacks over one page that found a chain of a known length, and those
    /// that found exactly one SPTE.
    pub(crate) with_chain: u64,
    pub(crate) one_spte: u64,
    /// Callbacks whose chains this host lets nobody look at.
    pub(crate) unseen: u64,
    /// Every callback's time (exact rung).
    pub(crate) histogram: Option<Box<Histogram>>,
    /// The longest of them; 0 where it is not known.
    pub(crate) longest_ns: u64,
    pub(crate) callers: BTreeMap<Caller, u64>,
    /// Samples by the time each stands for (sampled rung).
    pub(crate) sampled: BTreeMap<u64, AtRate>,
}

/// By VM and kind.
pub(crate) type View = BTreeMap<(u16, Kind), Figures>;

/// Adds the figures of a stretch, callbacks on no VM left out.
pub(crate) fn add_to_view(view: &mut View, stretch: &Stretch, rung: Rung) {
    for (key, cell) in &stretch.counts.cells {
        let kind = Kind::from_u8(key.kind);
        if let (Some(kind), true) = (kind, key.vm != NO_VM) {
            let figures = view.entry((key.vm, kind)).or_default();
            figures.add_cell(key, cell, rung, period_ns(stretch.rate_hz));
        }
    }
    for (key, histogram) in &stretch.counts.histograms {
        let kind = Kind::from_u8(key.cell.kind);
        let known = kind.and_then(|kind| view.get_mut(&(key.cell.vm, kind)));
        if let (Some(figures), span::TOTAL) = (known, key.span) {
            figures.add_histogram(histogram);
        }
    }
}

impl Figures {
    fn add_cell(&mut self, key: &CellKey, cell: &Cell, rung: Rung, period_ns: u64) {
        self.callbacks += cell.callbacks;
        self.pages += cell.pages;
        match rung {
            Rung::Exact => {
                self.busy_ns += cell.total_ns;
                self.longest_ns = self.longest_ns.max(cell.max_ns);
                *self.young.get_or_insert(0) += cell.young;
                if cell.waits > 0 {
                    *self.wait_ns.get_or_insert(0) += cell.wait_ns;
                }
            }
            Rung::Sampled => {
                let [notifier, age_gfn, rmap] =
                    [place::NOTIFIER, place::AGE_GFN, place::RMAP].map(|p| cell.samples[p]);
                let samples = notifier + age_gfn + rmap;
                self.busy_ns += samples * period_ns;
                self.add_samples(AtRate {
                    period_ns,
                    samples,
                    events: cell.callbacks,
                });
            }
        }
        if key.several_pages == 0 && (1..=MAX_EXACT_LENGTH).contains(&key.length) {
            self.with_chain += cell.callbacks;
            self.one_spte += if key.length == 1 { cell.callbacks } else { 0 };
        }
        if key.length == length::UNSEEN {
            self.unseen += cell.callbacks;
        }
        if let Some(caller) = Caller::from_u8(key.caller) {
            *self.callers.entry(caller).or_default() += cell.callbacks;
        }
    }

    fn add_samples(&mut self, from: AtRate) {
        let at = self.sampled.entry(from.period_ns).or_default();
        at.period_ns = from.period_ns;
        at.samples += from.samples;
        at.events += from.events;
    }

    fn add_histogram(&mut self, other: &Histogram) {
        let sum = self
            .histogram
            .get_or_insert_with(|| Box::new(Histogram::EMPTY));
        let pairs = sum.buckets.iter_mut().zip(&other.buckets);
        pairs.for_each(|(sum, count)| *sum += count);
    }

    /// Adds another kind's, VM's or stretch's figures.
    pub(crate) fn add(&mut self, other: &Self) {
        self.callbacks += other.callbacks;
        self.pages += other.pages;
        self.busy_ns += other.busy_ns;
        if let Some(young) = other.young {
            *self.young.get_or_insert(0) += young;
        }
        if let Some(wait_ns) = other.wait_ns {
            *self.wait_ns.get_or_insert(0) += wait_ns;
        }
        self.with_chain += other.with_chain;
        self.one_spte += other.one_spte;
        self.unseen += other.unseen;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        if let Some(histogram) = &other.histogram {
            self.add_histogram(histogram);
        }
        for (caller, count) in &other.callers {
            *self.callers.entry(*caller).or_default() += count;
        }
        other.sampled.values().for_each(|at| self.add_samples(*at));
    }

    /// Samples in the callbacks; `None` where each was timed, or there was none.
    fn samples(&self) -> Option<u64> {
        (!self.sampled.is_empty()).then(|| self.sampled.values().map(|at| at.samples).sum())
    }

    /// Time in callbacks; `None` where no sample says anything about it.
    pub(crate) fn known_busy_ns(&self) -> Option<u64> {
        let is_seen = self.callbacks == 0 || self.samples() != Some(0);
        is_seen.then_some(self.busy_ns)
    }

    /// The mean time of a callback, where enough of them were seen.
    pub(crate) fn mean_ns(&self) -> Option<f64> {
        let is_enough = self.samples().is_none_or(|n| n >= LEAST_SAMPLES);
        (is_enough && self.callbacks > 0).then(|| self.busy_ns as f64 / self.callbacks as f64)
    }

    /// The mean time of a callback without samples, where several sampling
    /// rates tell it.
    pub(crate) fn mean_at_rate_zero_ns(&self) -> Option<f64> {
        let rates: Vec<AtRate> = self.sampled.values().copied().collect();
        at_rate_zero(&rates).map(|mean| mean.mean_ns)
    }

    /// The distribution of the callbacks' time, where it was seen.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let histogram = self.histogram.as_ref()?;
        Some(distribution(histogram, self.longest_ns))
    }

    /// Callbacks that found a chain, and those that found one SPTE; `None` where that
    /// cannot be seen.
    pub(crate) fn chains(&self) -> Option<(u64, u64)> {
        (self.unseen == 0).then_some((self.with_chain, self.one_spte))
    }

    /// Who asked most often.
    pub(crate) fn busiest_caller(&self) -> Option<Caller> {
        let most = self.callers.iter().max_by_key(|(_, count)| **count);
        most.map(|(caller, _)| *caller)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use profiler_common::exact::HistogramKey;

    use super::*;
    use crate::observe::Counts;

    fn key(length: u16, kind: Kind) -> CellKey {
        CellKey {
            vm: 0,
            length,
            kind: kind as u8,
            caller: Caller::Kswapd as u8,
            ..CellKey::default()
        }
    }

    fn stretch() -> Stretch {
        let mut counts = Counts::default();
        let cell = Cell {
            callbacks: 10,
            pages: 10,
            samples: [1, 2, 3, 4],
            young: 5,
            total_ns: 1000,
            wait_ns: 100,
            waits: 10,
            ..Cell::default()
        };
        for length in [1, 7] {
            counts.cells.insert(key(length, Kind::ClearYoung), cell);
        }
        let foreign = CellKey {
            vm: NO_VM,
            ..key(1, Kind::ClearYoung)
        };
        counts.cells.insert(foreign, cell);
        let mut histogram = Box::new(Histogram::EMPTY);
        histogram.buckets[9] = 10;
        let timed = HistogramKey {
            cell: key(1, Kind::ClearYoung),
            span: span::TOTAL,
            ..HistogramKey::default()
        };
        counts.histograms.insert(timed, histogram);
        Stretch {
            rate_hz: 1000,
            lasted: Duration::from_secs(1),
            cpus: 1,
            counts,
        }
    }

    fn view(stretch: &Stretch, rung: Rung) -> View {
        let mut view = View::new();
        add_to_view(&mut view, stretch, rung);
        view
    }

    #[test]
    fn two_sampling_rates_tell_the_mean_at_none() {
        let at = |rate_hz, samples| {
            let mut stretch = stretch();
            stretch.rate_hz = rate_hz;
            for cell in stretch.counts.cells.values_mut() {
                cell.callbacks = 1_000_000;
                cell.samples = [samples, 0, 0, 0];
            }
            stretch
        };
        let mut view = View::new();
        // 100 ns at 1 kHz and 130 ns at 4 kHz: 90 ns at none.
        add_to_view(&mut view, &at(1000, 100), Rung::Sampled);
        let key = (0, Kind::ClearYoung);
        assert_eq!(view[&key].mean_at_rate_zero_ns(), None, "one rate");
        add_to_view(&mut view, &at(4000, 520), Rung::Sampled);
        let zero = view[&key].mean_at_rate_zero_ns().expect("two rates");
        assert!((zero - 90.0).abs() < 1e-6, "{zero}");
    }

    #[test]
    fn a_mean_of_few_samples_and_a_time_of_none_are_absent() {
        let figures = |samples| {
            let mut stretch = stretch();
            for cell in stretch.counts.cells.values_mut() {
                cell.samples = [samples, 0, 0, 0];
            }
            view(&stretch, Rung::Sampled)
                .remove(&(0, Kind::ClearYoung))
                .expect("callbacks")
        };
        assert_eq!(
            (figures(0).mean_ns(), figures(0).known_busy_ns()),
            (None, None)
        );
        // Two cells with as many samples each.
        assert_eq!(figures(9).mean_ns(), None);
        assert_eq!(figures(9).known_busy_ns(), Some(18_000_000));
        assert_eq!(figures(10).mean_ns(), Some(1_000_000.0));
        assert_eq!(
            Figures::default().known_busy_ns(),
            Some(0),
            "nothing to see"
        );
    }

    #[test]
    fn what_a_rung_does_not_see_is_absent() {
        let view = view(&stretch(), Rung::Sampled);
        assert_eq!(view.len(), 1, "callbacks on no VM are left out");
        let figures = &view[&(0, Kind::ClearYoung)];
        assert_eq!(
            (figures.callbacks, figures.busy_ns),
            (20, 2 * 6 * 1_000_000)
        );
        assert_eq!((figures.young, figures.wait_ns), (None, None));
        assert_eq!((figures.with_chain, figures.one_spte), (20, 10));
    }

    #[test]
    fn chains_that_nobody_can_look_at_are_absent_and_not_none() {
        let mut stretch = stretch();
        let key = (0, Kind::ClearYoung);
        assert_eq!(view(&stretch, Rung::Exact)[&key].chains(), Some((20, 10)));
        let cells = std::mem::take(&mut stretch.counts.cells);
        let unseen = cells.into_iter().map(|(key, cell)| {
            let length = length::UNSEEN;
            (CellKey { length, ..key }, cell)
        });
        stretch.counts.cells = unseen.collect();
        assert_eq!(view(&stretch, Rung::Exact)[&key].chains(), None);
    }

    #[test]
    fn the_exact_rung_times_and_sees_results() {
        let view = view(&stretch(), Rung::Exact);
        let figures = &view[&(0, Kind::ClearYoung)];
        assert_eq!((figures.busy_ns, figures.young), (2000, Some(10)));
        assert_eq!(figures.wait_ns, Some(200));
        assert_eq!(figures.latency().expect("timed").count(), 10);
        assert_eq!(figures.busiest_caller(), Some(Caller::Kswapd));
    }
}
