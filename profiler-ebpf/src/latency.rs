//! Histograms that are made when their first value arrives.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, PerCpuHashMap},
};
use profiler_common::histogram::{BUCKETS, Histogram, bucket};

/// Never written: the value of a new histogram.
#[map]
static ZERO_HISTOGRAM: Array<Histogram> = Array::with_max_entries(1, 0);

/// Counts `ns` in the histogram of `key`; `None` if the map is full.
#[inline(always)]
pub(crate) fn add<K>(map: &PerCpuHashMap<K, Histogram>, key: K, ns: u64) -> Option<()> {
    let histogram = match map.get_ptr_mut(&key) {
        Some(histogram) => histogram,
        None => {
            let _ = map.insert(&key, ZERO_HISTOGRAM.get(0)?, u64::from(BPF_NOEXIST));
            map.get_ptr_mut(&key)?
        }
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
