//! A limit on what observing costs: above it, samples are taken less often.
//!
//! It is one for sampling. What runs at every callback, fault and wait costs what it costs;
//! where that alone is too much, fewer samples would not help and are not taken.

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

impl Lowered {
    /// In a few words.
    pub(crate) fn told(&self) -> String {
        format!(
            "the rate was lowered from {} to {} Hz after {:.0} s, because observing took {:.2} % \
             of all CPUs' time",
            self.from_hz, self.to_hz, self.at_s, self.overhead_pct
        )
    }
}

/// A cost above the limit that no rate would have kept below it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Above {
    /// Seconds since the programs were attached.
    pub(crate) at_s: f64,
    /// The limit, in percent.
    pub(crate) most_pct: f64,
    pub(crate) cost: Cost,
    /// Whether the user knows.
    pub(crate) is_told: bool,
}

impl Above {
    /// In a few words.
    pub(crate) fn told(&self) -> String {
        format!(
            "the limit of {} % could not be kept after {:.0} s: observing took {:.2} % of all \
             CPUs' time, {:.2} % of it at every callback, fault and wait, which no sampling rate \
             changes",
            self.most_pct, self.at_s, self.cost.all_pct, self.cost.counting_pct
        )
    }
}

/// What observing took, in percent of all CPUs' time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    pub(crate) all_pct: f64,
    /// The part that is not sampling.
    pub(crate) counting_pct: f64,
}

/// Run time of our programs so far, ns.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) all_ns: u64,
    /// Without the sampler.
    pub(crate) counting_ns: u64,
}

/// Watches the run time of our programs against a limit.
#[derive(Debug)]
pub(crate) struct Ceiling {
    most_pct: f64,
    cpus: f64,
    last: (Instant, Spent),
}

impl Ceiling {
    /// Starts to watch; `spent` is what the programs have taken so far.
    pub(crate) fn new(most_pct: f64, cpus: usize, spent: Spent) -> Self {
        Self {
            most_pct,
            cpus: cpus.max(1) as f64,
            last: (Instant::now(), spent),
        }
    }

    /// The limit, in percent.
    pub(crate) fn most_pct(&self) -> f64 {
        self.most_pct
    }

    /// What observing took since it was last asked, if that is too much.
    pub(crate) fn exceeded(&mut self, now: Instant, spent: Spent) -> Option<Cost> {
        let elapsed_ns = now.duration_since(self.last.0).as_nanos() as f64;
        let before = std::mem::replace(&mut self.last, (now, spent)).1;
        if elapsed_ns <= 0.0 {
            return None;
        }
        let pct = |now: u64, before: u64| {
            100.0 * now.saturating_sub(before) as f64 / (elapsed_ns * self.cpus)
        };
        let cost = Cost {
            all_pct: pct(spent.all_ns, before.all_ns),
            counting_pct: pct(spent.counting_ns, before.counting_ns),
        };
        (cost.all_pct > self.most_pct).then_some(cost)
    }

    /// Whether taking fewer samples can keep the limit.
    pub(crate) fn is_within_reach(&self, cost: Cost) -> bool {
        cost.counting_pct <= self.most_pct
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_share_is_of_all_cpus_and_of_the_time_since_the_last_look() {
        let spent = |all_ns| Spent {
            all_ns,
            counting_ns: all_ns / 4,
        };
        let mut ceiling = Ceiling::new(1.0, 2, spent(1000));
        let start = ceiling.last.0;
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(ceiling.exceeded(at(1), spent(1000 + 19_000_000)), None);
        let cost = ceiling.exceeded(at(2), spent(1000 + 19_000_000 + 40_000_000));
        let cost = cost.expect("too much");
        assert!((cost.all_pct - 2.0).abs() < 1e-9, "{cost:?}");
        assert!((cost.counting_pct - 0.5).abs() < 1e-9, "{cost:?}");
        assert!(ceiling.is_within_reach(cost));
        assert_eq!(
            ceiling.exceeded(at(2), spent(u64::MAX)),
            None,
            "no time passed"
        );
    }

    #[test]
    fn fewer_samples_do_not_help_where_counting_alone_is_too_much() {
        let ceiling = Ceiling::new(1.0, 2, Spent::default());
        let cost = Cost {
            all_pct: 1.8,
            counting_pct: 1.2,
        };
        assert!(!ceiling.is_within_reach(cost));
        let above = Above {
            at_s: 3.2,
            most_pct: 1.0,
            cost,
            is_told: false,
        };
        let told = above.told();
        assert!(
            told.contains("took 1.80 %") && told.contains("1.20 % of it"),
            "{told}"
        );
    }
}
