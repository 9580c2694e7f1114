//! A limit on what observing costs: above it, samples are taken less often.

use std::time::Instant;

/// Sampling rates that were lowered: of several, the highest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lowered {
    /// Seconds since the programs were attached.
    pub(crate) at_s: f64,
    pub(crate) from_hz: u32,
    pub(crate) to_hz: u32,
    /// The cost that was too much, in percent of all CPUs' time.
    pub(crate) overhead_pct: f64,
}

/// Watches the run time of our programs against a limit.
#[derive(Debug)]
pub(crate) struct Ceiling {
    most_pct: f64,
    cpus: f64,
    last: (Instant, u64),
}

impl Ceiling {
    /// Starts to watch; `run_time_ns` is what the programs have taken so far.
    pub(crate) fn new(most_pct: f64, cpus: usize, run_time_ns: u64) -> Self {
        Self {
            most_pct,
            cpus: cpus.max(1) as f64,
            last: (Instant::now(), run_time_ns),
        }
    }

    /// The share of all CPUs' time, in percent, that observing took since it
    /// was last asked, if that is too much.
    pub(crate) fn exceeded(&mut self, now: Instant, run_time_ns: u64) -> Option<f64> {
        let elapsed_ns = now.duration_since(self.last.0).as_nanos() as f64;
        let spent_ns = run_time_ns.saturating_sub(self.last.1) as f64;
        self.last = (now, run_time_ns);
        if elapsed_ns <= 0.0 {
            return None;
        }
        let pct = 100.0 * spent_ns / (elapsed_ns * self.cpus);
        (pct > self.most_pct).then_some(pct)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_share_is_of_all_cpus_and_of_the_time_since_the_last_look() {
        let mut ceiling = Ceiling::new(1.0, 2, 1000);
        let start = ceiling.last.0;
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(ceiling.exceeded(at(1), 1000 + 19_000_000), None);
        let pct = ceiling.exceeded(at(2), 1000 + 19_000_000 + 40_000_000);
        assert!((pct.expect("too much") - 2.0).abs() < 1e-9);
        assert_eq!(ceiling.exceeded(at(2), u64::MAX), None, "no time passed");
    }
}
