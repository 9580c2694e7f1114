//! Histograms that are made when their first value arrives.
//!
//! A histogram takes 4 KB on every CPU, so none is made before it is needed. The
//! kernel gives a program that much only while it has some at hand: when
//! several keys turn up at once it refuses, however much memory is free. Then the
//! value goes into a spare histogram of the same key, of which some are there from
//! the beginning. User space adds both up.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, PerCpuHashMap},
};
use profiler_common::histogram::{BUCKETS, Histogram, bucket};

/// Never written: the value of a new histogram.
#[map]
static ZERO_HISTOGRAM: Array<Histogram> = Array::with_max_entries(1, 0);

/// The histogram of `key`, made if it is new; `None` if that is refused or the map is full.
#[inline(always)]
fn find_or_make<K>(map: &PerCpuHashMap<K, Histogram>, key: &K) -> Option<*mut Histogram> {
    if let Some(histogram) = map.get_ptr_mut(key) {
        return Some(histogram);
    }
    let _ = map.insert(key, ZERO_HISTOGRAM.get(0)?, u64::from(BPF_NOEXIST));
    map.get_ptr_mut(key)
}

/// Counts `ns` in the histogram of `key`; `None` if it cannot be made and no spare one is left.
#[inline(always)]
pub(crate) fn add<K>(
    map: &PerCpuHashMap<K, Histogram>,
    spare: &PerCpuHashMap<K, Histogram>,
    key: K,
    ns: u64,
) -> Option<()> {
    let histogram = match find_or_make(map, &key) {
        Some(histogram) => histogram,
        None => find_or_make(spare, &key)?,
    };
    // The compiler knows the bound and would drop the check; the verifier does not and needs it.
    let bucket = core::hint::black_box(bucket(ns));
    if bucket < BUCKETS {
        // SAFETY: in bounds, in a live map value.
        unsafe {
            *(&raw mut (*histogram).buckets).cast::<u64>().add(bucket) += 1;
        }
    }
    Some(())
}
