//! Reading the time in a measured loop, and what one reading costs.
//!
//! The time-stamp counter is used where it is invariant (it ticks at one rate in
//! every power state and on every CPU); elsewhere `clock_gettime` is. Both are
//! read between fences, so no load of the measured code is counted outside its
//! interval. The cost of a reading is measured once, at [`Clock::calibrate`], and
//! [`Clock::elapsed_ns`] subtracts it.

use std::fmt;
use std::time::{Duration, Instant};

/// How long the two clocks are compared to learn the counter's rate.
const CALIBRATION: Duration = Duration::from_millis(20);
/// Attempts to read both clocks at the same moment.
const PAIRED_READINGS: usize = 64;
/// Back-to-back readings from which the cost of one is taken.
const OVERHEAD_READINGS: usize = 4096;

/// What the time is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The invariant time-stamp counter.
    Tsc,
    /// `clock_gettime(CLOCK_MONOTONIC)`.
    Monotonic,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tsc => "invariant TSC",
            Self::Monotonic => "clock_gettime, because this machine has no invariant TSC",
        })
    }
}

/// A calibrated clock; copy it into every measuring thread.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    source: Source,
    origin: Instant,
    ns_per_tick: f64,
    overhead_ticks: u64,
}

impl Clock {
    /// Picks the best source and measures its rate and the cost of reading it.
    /// Takes about 20 ms; call it once, on a pinned thread.
    #[must_use]
    pub fn calibrate() -> Self {
        let source = if tsc::is_invariant() {
            Source::Tsc
        } else {
            Source::Monotonic
        };
        Self::with_source(source)
    }

    fn with_source(source: Source) -> Self {
        let mut clock = Self {
            source,
            origin: Instant::now(),
            ns_per_tick: 1.0,
            overhead_ticks: 0,
        };
        if source == Source::Tsc {
            clock.ns_per_tick = clock.measure_rate();
        }
        clock.overhead_ticks = clock.measure_overhead();
        clock
    }

    /// What the time is read from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// The cost of one reading, in ns.
    #[must_use]
    pub fn overhead_ns(&self) -> f64 {
        self.overhead_ticks as f64 * self.ns_per_tick
    }

    /// The time now, in ticks of this clock.
    #[inline(always)]
    #[must_use]
    pub fn now(&self) -> u64 {
        match self.source {
            Source::Tsc => tsc::read(),
            Source::Monotonic => self.origin.elapsed().as_nanos() as u64,
        }
    }

    /// Ticks in a duration.
    #[must_use]
    pub fn ticks(&self, duration: Duration) -> u64 {
        (duration.as_nanos() as f64 / self.ns_per_tick) as u64
    }

    /// Nanoseconds between two readings, less the cost of one reading.
    #[inline(always)]
    #[must_use]
    pub fn elapsed_ns(&self, start: u64, end: u64) -> f64 {
        end.saturating_sub(start)
            .saturating_sub(self.overhead_ticks) as f64
            * self.ns_per_tick
    }

    fn measure_rate(&self) -> f64 {
        let (start, start_ticks) = self.both_now();
        std::thread::sleep(CALIBRATION);
        let (end, end_ticks) = self.both_now();
        let ticks = end_ticks.saturating_sub(start_ticks).max(1);
        (end - start).as_nanos() as f64 / ticks as f64
    }

    /// The same moment on both clocks. The closest of many attempts: a thread
    /// switched out between the two readings would bend the rate.
    fn both_now(&self) -> (Instant, u64) {
        let attempt = || {
            let before = self.now();
            let instant = Instant::now();
            let after = self.now();
            (
                after.saturating_sub(before),
                instant,
                before.midpoint(after),
            )
        };
        let (_, instant, ticks) =
            (1..PAIRED_READINGS)
                .map(|_| attempt())
                .fold(
                    attempt(),
                    |best, next| if next.0 < best.0 { next } else { best },
                );
        (instant, ticks)
    }

    /// The median of back-to-back readings: the least would be too kind, the mean
    /// would count interrupts.
    fn measure_overhead(&self) -> u64 {
        let mut costs: Vec<u64> = (0..OVERHEAD_READINGS)
            .map(|_| {
                let start = self.now();
                self.now().saturating_sub(start)
            })
            .collect();
        costs.sort_unstable();
        costs[costs.len() / 2]
    }
}

#[cfg(target_arch = "x86_64")]
mod tsc {
    use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};

    /// CPUID leaf with the invariant-TSC bit, and that bit in EDX.
    const POWER_LEAF: u32 = 0x8000_0007;
    const INVARIANT_TSC: u32 = 1 << 8;

    pub(super) fn is_invariant() -> bool {
        let highest = __cpuid(0x8000_0000).eax;
        highest >= POWER_LEAF && __cpuid(POWER_LEAF).edx & INVARIANT_TSC != 0
    }

    #[inline(always)]
    pub(super) fn read() -> u64 {
        // SAFETY: LFENCE and RDTSC exist on every x86-64 CPU, touch no memory,
        // and Linux leaves RDTSC enabled for user space unless a process
        // forbids it for itself, which this one never does.
        unsafe {
            _mm_lfence();
            let ticks = _rdtsc();
            _mm_lfence();
            ticks
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod tsc {
    pub(super) fn is_invariant() -> bool {
        false
    }

    pub(super) fn read() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> [Clock; 2] {
        [Clock::calibrate(), Clock::with_source(Source::Monotonic)]
    }

    #[test]
    fn a_slept_interval_is_measured_within_its_bounds() {
        for clock in both() {
            let (outer, start) = (Instant::now(), clock.now());
            std::thread::sleep(Duration::from_millis(30));
            let ns = clock.elapsed_ns(start, clock.now());
            let most = outer.elapsed().as_nanos() as f64 * 1.02;
            assert!(
                (29.4e6..=most).contains(&ns),
                "{:?}: {ns} ns",
                clock.source()
            );
        }
    }

    #[test]
    fn two_calibrations_agree_whatever_else_runs() {
        let (one, two) = (Clock::calibrate(), Clock::calibrate());
        let off = (one.ns_per_tick / two.ns_per_tick - 1.0).abs();
        assert!(off < 1e-3, "{} {}", one.ns_per_tick, two.ns_per_tick);
    }

    #[test]
    fn the_time_is_read_from_the_counter_only_where_the_kernel_trusts_it_too() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find(|line| line.starts_with("flags"));
        let invariant = flags.is_some_and(|l| l.split(' ').any(|flag| flag == "nonstop_tsc"));
        let source = Clock::calibrate().source();
        assert_eq!(source == Source::Tsc, invariant, "{source}");
        let why = Source::Monotonic.to_string();
        assert!(why.contains("no invariant TSC"), "{why}");
    }

    #[test]
    fn the_cost_of_a_reading_is_subtracted() {
        for clock in both() {
            assert!(clock.overhead_ns() > 0.0 && clock.overhead_ns() < 20_000.0);
            assert_eq!(clock.elapsed_ns(100, 100 + clock.overhead_ticks), 0.0);
            assert!(clock.elapsed_ns(100, 1000 + clock.overhead_ticks) > 0.0);
        }
    }

    #[test]
    fn ticks_and_nanoseconds_agree() {
        for clock in both() {
            let ticks = clock.ticks(Duration::from_millis(1));
            let ns = clock.elapsed_ns(0, ticks + clock.overhead_ticks);
            assert!((ns - 1e6).abs() < 10.0, "{ns}");
        }
    }
}
