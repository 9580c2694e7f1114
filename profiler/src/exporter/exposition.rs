//! Sums as OpenMetrics.
//!
//! Every series of callbacks has the labels `vm`, `pid`, `comm` and `kind`; a
//! figure that this rung does not see has no series at all.

use std::{
    fmt::{self, Debug},
    sync::{Arc, Mutex},
};

use profiler_common::{
    aging::Kind,
    histogram::{BUCKETS, Histogram, bucket, middle_ns},
    interference::What,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::sums::{Names, Sums};
use crate::watch::Figures;

/// Bounds of the histogram's buckets: powers of two from 256 ns to 17 s, every
/// other one, which are bounds of the kernel side's own buckets too.
const BOUNDS_NS: [u64; 14] = {
    let mut bounds = [0; 14];
    let mut position = 0;
    while position < 14 {
        bounds[position] = 256 << (2 * position);
        position += 1;
    }
    bounds
};

type Labels = Vec<(&'static str, String)>;

/// A registry that exposes the sums.
pub(super) fn registry(sums: Arc<Mutex<Sums>>) -> Registry {
    let mut registry = Registry::with_prefix("rmapscope");
    registry.register_collector(Box::new(Exposition(sums)));
    registry
}

struct Exposition(Arc<Mutex<Sums>>);

impl Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exposition")
    }
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A reader that panicked ends the program; there is nothing to tell then.
        let Ok(sums) = self.0.lock() else {
            return Ok(());
        };
        let mut out = Out {
            sums: &sums,
            encoder,
        };
        out.vms()?;
        out.callbacks()?;
        out.callers()?;
        out.histogram()?;
        out.held_up()?;
        out.own()
    }
}

struct Out<'s, 'e> {
    sums: &'s Sums,
    encoder: DescriptorEncoder<'e>,
}

impl Out<'_, '_> {
    fn vms(&mut self) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(
            "vm",
            "VMs that run, with their names",
            None,
            MetricType::Gauge,
        )?;
        for (vm, names) in &self.sums.vms {
            let mut labels = vm_labels(*vm, names);
            labels.push(("cgroup", names.cgroup.clone()));
            family.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
        Ok(())
    }

    fn callbacks(&mut self) -> fmt::Result {
        self.counter("callbacks", "Aging callbacks", None, |f| {
            Some(f.callbacks as f64)
        })?;
        self.counter("pages", "Pages in the callbacks' ranges", None, |f| {
            Some(f.pages as f64)
        })?;
        let seconds = |ns: u64| ns as f64 / 1e9;
        let mut family = self.encoder.encode_descriptor(
            "callback_at_rate_zero",
            "Mean time of an aging callback without samples, from several sampling rates",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for ((vm, kind), figures) in &self.sums.figures {
            if let (Some(names), Some(ns)) = (self.sums.vms.get(vm), figures.mean_at_rate_zero_ns())
            {
                family
                    .encode_family(&kind_labels(*vm, names, *kind))?
                    .encode_gauge(&(ns / 1e9))?;
            }
        }
        self.counter(
            "busy",
            "Time in aging callbacks, measured or estimated from samples",
            Some(&Unit::Seconds),
            |f| f.known_busy_ns().map(seconds),
        )?;
        self.counter(
            "wait",
            "Time in aging callbacks before the walk of the gfns",
            Some(&Unit::Seconds),
            |f| f.wait_ns.map(seconds),
        )?;
        self.counter("young", "Callbacks that found a young page", None, |f| {
            f.young.map(|young| young as f64)
        })?;
        self.counter(
            "chains",
            "Callbacks over one page that found an rmap chain",
            None,
            |f| f.chains().map(|(with_chain, _)| with_chain as f64),
        )?;
        self.counter(
            "one_spte_chains",
            "Callbacks over one page that found a chain of exactly one SPTE",
            None,
            |f| f.chains().map(|(_, one_spte)| one_spte as f64),
        )
    }

    /// A counter with one series per VM and kind.
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl Fn(&Figures) -> Option<f64>,
    ) -> fmt::Result {
        let mut family = self
            .encoder
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        for ((vm, kind), figures) in &self.sums.figures {
            if let (Some(names), Some(value)) = (self.sums.vms.get(vm), value(figures)) {
                count(&mut family, &kind_labels(*vm, names, *kind), value)?;
            }
        }
        Ok(())
    }

    fn callers(&mut self) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(
            "callbacks_by_caller",
            "Aging callbacks by who asked",
            None,
            MetricType::Counter,
        )?;
        for ((vm, kind), figures) in &self.sums.figures {
            let Some(names) = self.sums.vms.get(vm) else {
                continue;
            };
            for (caller, callbacks) in &figures.callers {
                let mut labels = kind_labels(*vm, names, *kind);
                labels.push(("caller", caller.name().to_owned()));
                count(&mut family, &labels, *callbacks as f64)?;
            }
        }
        Ok(())
    }

    fn histogram(&mut self) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(
            "callback",
            "Time of an aging callback from entry to exit",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for ((vm, kind), figures) in &self.sums.figures {
            if let (Some(names), Some(histogram)) = (self.sums.vms.get(vm), &figures.histogram) {
                let (sum, count, buckets) = coarse(histogram);
                family
                    .encode_family(&kind_labels(*vm, names, *kind))?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn held_up(&mut self) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(
            "held_up",
            "Times of vCPU faults and of waits for mmu_lock, while the VM is aged and while not",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (key, histogram) in &self.sums.held_up {
            let what = What::ALL.get(usize::from(key.what));
            let (Some(names), Some(what)) = (self.sums.vms.get(&key.vm), what) else {
                continue;
            };
            let mut labels = vm_labels(key.vm, names);
            labels.push(("what", what.name().to_owned()));
            let aging = if key.aging == 0 { "no" } else { "yes" };
            labels.push(("aging", aging.to_owned()));
            let (sum, count, buckets) = coarse(histogram);
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn own(&mut self) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(
            "lost",
            "Things that were not counted, by signal and cause",
            None,
            MetricType::Counter,
        )?;
        for (signal, cause, lost) in &self.sums.lost {
            let labels: Labels = vec![
                ("signal", (*signal).to_owned()),
                ("cause", (*cause).to_owned()),
            ];
            count(&mut family, &labels, *lost as f64)?;
        }
        if let Some(own_ns) = self.sums.own_ns {
            self.encoder
                .encode_descriptor(
                    "own",
                    "CPU time of rmapscope's eBPF programs",
                    Some(&Unit::Seconds),
                    MetricType::Counter,
                )?
                .encode_counter::<NoLabelSet, _, u64>(&(own_ns as f64 / 1e9), None)?;
        }
        if let Some(rate_hz) = self.sums.rate_hz {
            self.encoder
                .encode_descriptor(
                    "sampling_rate_hertz",
                    "Timer samples per second and CPU that are asked for, the highest of several",
                    None,
                    MetricType::Gauge,
                )?
                .encode_gauge(&i64::from(rate_hz))?;
        }
        self.encoder
            .encode_descriptor(
                "map",
                "Memory of rmapscope's eBPF maps",
                Some(&Unit::Bytes),
                MetricType::Gauge,
            )?
            .encode_gauge(&(self.sums.map_bytes as f64))
    }
}

fn count(family: &mut MetricEncoder<'_>, labels: &Labels, value: f64) -> fmt::Result {
    family
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn vm_labels(vm: u16, names: &Names) -> Labels {
    vec![
        ("vm", vm.to_string()),
        ("pid", names.pid.to_string()),
        ("comm", names.comm.clone()),
    ]
}

fn kind_labels(vm: u16, names: &Names, kind: Kind) -> Labels {
    let mut labels = vm_labels(vm, names);
    labels.push(("kind", kind.name().to_owned()));
    labels
}

/// Sum in seconds, count, and the counts of [`BOUNDS_NS`] and beyond.
fn coarse(histogram: &Histogram) -> (f64, u64, Vec<(f64, u64)>) {
    let mut buckets: Vec<(f64, u64)> = BOUNDS_NS
        .iter()
        .map(|bound| (*bound as f64 / 1e9, 0))
        .chain([(f64::INFINITY, 0)])
        .collect();
    let (mut sum_ns, mut total) = (0.0, 0);
    for fine in 0..BUCKETS {
        let count = histogram.buckets[fine];
        let position = BOUNDS_NS.partition_point(|bound| bucket(*bound) <= fine);
        buckets[position].1 += count;
        sum_ns += middle_ns(fine) as f64 * count as f64;
        total += count;
    }
    (sum_ns / 1e9, total, buckets)
}

#[cfg(test)]
mod tests {
    use profiler_common::interference::InterferenceKey;
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn sums() -> Sums {
        let mut sums = Sums::default();
        let names = Names {
            pid: 7,
            comm: "qemu \"x\"\n".to_owned(),
            cgroup: "/machine".to_owned(),
        };
        sums.vms.insert(3, names);
        let mut histogram = Box::new(Histogram::EMPTY);
        for ns in [100, 300, 5000, u64::MAX] {
            histogram.buckets[bucket(ns)] += 1;
        }
        let figures = Figures {
            callbacks: 4,
            young: Some(1),
            histogram: Some(histogram),
            ..Figures::default()
        };
        sums.figures.insert((3, Kind::TestYoung), figures);
        let key = InterferenceKey {
            vm: 3,
            what: What::FaultWait as u8,
            aging: 1,
            zero: 0,
        };
        let mut waits = Box::new(Histogram::EMPTY);
        waits.buckets[bucket(2000)] = 5;
        sums.held_up.insert(key, waits);
        sums.lost = vec![("callbacks", "the table was full", 0)];
        sums
    }

    fn text(sums: Sums) -> String {
        let mut text = String::new();
        encode(&mut text, &registry(Arc::new(Mutex::new(sums)))).expect("text");
        text
    }

    #[test]
    fn a_bound_divides_exactly_what_was_counted_below_and_above_it() {
        let mut histogram = Histogram::EMPTY;
        for ns in [255, 256, 1023, 1024] {
            histogram.buckets[bucket(ns)] += 1;
        }
        let (_, count, buckets) = coarse(&histogram);
        assert_eq!(count, 4);
        let counts: Vec<u64> = buckets.iter().map(|(_, count)| *count).take(4).collect();
        assert_eq!(counts, [1, 2, 1, 0]);
    }

    #[test]
    fn names_are_escaped_and_what_is_not_seen_has_no_series() {
        let text = text(sums());
        let callbacks = r#"rmapscope_callbacks_total{vm="3",pid="7",comm="qemu \"x\"\n",kind="test_young"} 4.0"#;
        assert!(text.contains(callbacks), "{text}");
        assert!(text.contains("rmapscope_young_total{"), "{text}");
        assert!(!text.contains("rmapscope_wait_seconds_total{"), "{text}");
        let all = r#"rmapscope_callback_seconds_bucket{le="+Inf",vm="3","#;
        let all = text.lines().find(|line| line.starts_with(all));
        assert!(all.is_some_and(|line| line.ends_with(" 4")), "{text}");
        let waits = r#"rmapscope_held_up_seconds_count{vm="3","#;
        let waits = text.lines().find(|line| line.starts_with(waits));
        let waits = waits.expect("a wait was seen");
        assert!(waits.contains(r#"what="fault_wait",aging="yes""#) && waits.ends_with(" 5"));
        let none = r#"rmapscope_lost_total{signal="callbacks",cause="the table was full"} 0.0"#;
        assert!(text.contains(none), "a loss that was not is 0: {text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
