//! The latency histogram of the exact rung: log-linear, fixed in size.
//!
//! Values below 16 ns have a bucket each; above, every power of two is divided
//! into 16 buckets, so a bucket's bounds differ by at most 1/16. Values of
//! [`MAX_NS`] and more share the last bucket.

/// Buckets per power of two, as a power of two.
pub const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
const TOP_BITS: u32 = 34;

/// The first value that no bucket separates any more: 17 s.
pub const MAX_NS: u64 = 1 << TOP_BITS;

/// Number of buckets.
pub const BUCKETS: usize = (TOP_BITS - SUB_BITS) as usize * SUB + SUB;

/// One histogram, as it lies in the map.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Histogram {
    /// Count per bucket.
    pub buckets: [u64; BUCKETS],
}

impl Histogram {
    /// A histogram without values.
    pub const EMPTY: Self = Self {
        buckets: [0; BUCKETS],
    };
}

/// The bucket that `ns` belongs to; always below [`BUCKETS`].
#[inline(always)]
pub const fn bucket(ns: u64) -> usize {
    if ns < SUB as u64 {
        return ns as usize;
    }
    let capped = if ns >= MAX_NS { MAX_NS - 1 } else { ns };
    let top = 63 - capped.leading_zeros();
    let shift = top - SUB_BITS;
    let within = (capped >> shift) as usize & (SUB - 1);
    (shift as usize + 1) * SUB + within
}

/// The lowest value of a bucket, in ns.
pub const fn lowest_ns(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let shift = (bucket / SUB - 1) as u32;
    ((SUB + bucket % SUB) as u64) << shift
}

/// The value in the middle of a bucket, in ns.
pub const fn middle_ns(bucket: usize) -> u64 {
    let low = lowest_ns(bucket);
    low + (lowest_ns(bucket + 1) - low) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_once_and_in_order() {
        for number in 0..BUCKETS {
            let (low, next) = (lowest_ns(number), lowest_ns(number + 1));
            assert!(low < next, "bucket {number}");
            assert_eq!(bucket(low), number);
            assert_eq!(bucket(next - 1), number);
            assert_eq!(bucket(middle_ns(number)), number);
        }
        assert_eq!(lowest_ns(BUCKETS), MAX_NS);
        assert_eq!(bucket(MAX_NS), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_bucket_is_at_most_a_sixteenth_wide() {
        for number in SUB..BUCKETS {
            let (low, next) = (lowest_ns(number), lowest_ns(number + 1));
            assert!((next - low) * SUB as u64 <= low, "bucket {number}");
        }
    }
}
