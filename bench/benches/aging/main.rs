//! Criterion microbenchmarks of test_age and age, one page a callback, hot
//! caches, all SPTEs young, for every scheme and chain length.
//!
//! `RMAPSCOPE_MEASURE` names a counter (`cycles`, `instructions`,
//! `task-clock-ns`, …) to measure instead of wall-clock time, through
//! criterion's own measurement interface.

mod measurement;

use std::time::Duration;

use bench::workloads::vm::{self, Vm};
use criterion::measurement::{Measurement, WallTime};
use criterion::{BatchSize, Bencher, BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use rmap::{Aging, GfnRange};

use measurement::{CounterMeasurement, VARIABLE};

/// Lengths around the edges of the layout: none, one without a descriptor, a
/// full descriptor, one more, and long chains.
const CHAIN_LENGTHS: [u32; 7] = [0, 1, 2, 14, 15, 64, 256];
/// Bytes walked in one iteration, at most: hot in any L2.
const HOT_BYTES: u64 = 128 << 10;

/// Pages of the set; one iteration is one callback on each. As many as stay
/// hot, so that reading the clock around an iteration does not count.
fn pages(chain_len: u32) -> u64 {
    let fits = HOT_BYTES / vm::walked_bytes_per_gfn(chain_len);
    fits.clamp(32, 1024)
}

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
                eprintln!("error: {VARIABLE}={name}: {reason}");
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

/// Runs `measure` for every scheme and every chain length that it can have.
fn for_each_cell<M: Measurement>(
    group: &mut BenchmarkGroup<'_, M>,
    mut measure: impl FnMut(&mut Bencher<'_, M>, &Vm, u64),
) {
    for scheme in rmap::schemes() {
        for len in CHAIN_LENGTHS
            .into_iter()
            .filter(|len| *len <= scheme.max_aliases())
        {
            let pages = pages(len);
            let vm = Vm::build(scheme.name, pages, len).unwrap_or_else(|error| {
                eprintln!("error: {error:#}");
                std::process::exit(1);
            });
            group.throughput(Throughput::Elements(pages));
            group.bench_function(BenchmarkId::new(scheme.name, len), |bencher| {
                measure(bencher, &vm, pages);
            });
        }
    }
}

fn test_age<M: Measurement>(group: &mut BenchmarkGroup<'_, M>) {
    for_each_cell(group, |bencher, vm, pages| {
        bencher.iter(|| young(pages, |range| vm.mmu().test_age(range)));
    });
}

/// The Accessed bits that `age` clears are set again between iterations.
fn age<M: Measurement>(group: &mut BenchmarkGroup<'_, M>) {
    for_each_cell(group, |bencher, vm, pages| {
        bencher.iter_batched(
            || vm.set_young(0, pages, 1.0),
            |()| young(pages, |range| vm.mmu().age(range)),
            BatchSize::PerIteration,
        );
    });
}

/// One callback per page; the number that reported young.
fn young(pages: u64, callback: impl Fn(GfnRange) -> Aging) -> usize {
    (0..pages)
        .filter(|&gfn| callback(vm::range(gfn, 1)).young)
        .count()
}
