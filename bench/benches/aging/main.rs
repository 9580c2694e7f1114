//! Criterion microbenchmarks of test_age and age, one page a callback, hot
//! caches, all SPTEs young, for every scheme and chain length.
//!
//! `RMAPSCOPE_MEASURE` names a counter (`cycles`, `instructions`,
//! `task-clock-ns`, …) to measure instead of wall-clock time, through
//! criterion's own measurement interface.

mod measurement;

use std::hint::black_box;
use std::time::Duration;

use bench::workloads::vm::{self, Vm};
use criterion::measurement::{Measurement, WallTime};
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput};

use measurement::{CounterMeasurement, VARIABLE};

/// Lengths around the edges of the layout: none, one without a descriptor, a
/// full descriptor, one more, and long chains.
const CHAIN_LENGTHS: [u32; 7] = [0, 1, 2, 14, 15, 64, 256];
/// Pages of the set; one iteration is one callback on each.
const GFNS: u64 = 64;

fn main() {
    let quick = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .sample_size(20)
        .configure_from_args();
    match std::env::var(VARIABLE) {
        Err(_) => all::<WallTime>(quick),
        Ok(name) => match CounterMeasurement::open(&name) {
            Ok(measurement) => all(quick.with_measurement(measurement)),
            Err(reason) => {
                eprintln!("error: {VARIABLE}: {reason}");
                std::process::exit(2);
            }
        },
    }
}

fn all<M: Measurement + 'static>(mut criterion: Criterion<M>) {
    test_age(&mut criterion.benchmark_group("test_age"));
    age(&mut criterion.benchmark_group("age"));
    criterion.final_summary();
}

/// Every scheme with every chain length.
fn cells() -> impl Iterator<Item = (&'static str, u32, Vm)> {
    let schemes = rmap::schemes().iter();
    schemes.flat_map(|scheme| {
        CHAIN_LENGTHS
            .iter()
            .map(|&len| match Vm::build(scheme.name, GFNS, len) {
                Ok(vm) => (scheme.name, len, vm),
                Err(error) => {
                    eprintln!("error: {error:#}");
                    std::process::exit(1);
                }
            })
    })
}

fn test_age<M: Measurement>(group: &mut BenchmarkGroup<'_, M>) {
    group.throughput(Throughput::Elements(GFNS));
    for (scheme, len, vm) in cells() {
        group.bench_function(BenchmarkId::new(scheme, len), |bencher| {
            bencher.iter(|| {
                (0..GFNS)
                    .filter(|&g| vm.mmu().test_age(vm::range(g, 1)).young)
                    .count()
            });
        });
    }
}

fn age<M: Measurement>(group: &mut BenchmarkGroup<'_, M>) {
    group.throughput(Throughput::Elements(GFNS));
    for (scheme, len, vm) in cells() {
        group.bench_function(BenchmarkId::new(scheme, len), |bencher| {
            bencher.iter_batched(
                || vm.set_young(0, GFNS, 1.0),
                |()| {
                    black_box(
                        (0..GFNS)
                            .filter(|&g| vm.mmu().age(vm::range(g, 1)).young)
                            .count(),
                    )
                },
                BatchSize::PerIteration,
            );
        });
    }
}
