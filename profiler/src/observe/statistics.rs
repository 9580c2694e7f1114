//! BPF run-time statistics: on for as long as they are needed.
//!
//! While they are on, the kernel reads its clock twice for every run of every
//! program on the host, which costs about as much as our programs do. A limit on
//! what observing costs needs them throughout. Without one they go off once they
//! have shown what a run costs, and the rest is that cost times the runs, which
//! the programs count themselves. They cannot come back: by then the capability
//! that switches them on is given up.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use aya::{
    maps::MapError,
    sys::{Stats, enable_stats},
};
use profiler_common::aging::Totals;

use super::{Session, attach::Probes, own_cost};

/// Callbacks, and samples on each CPU that is sampled, after which mean costs are known well
/// enough: the first runs of a program, and those on a CPU that was idle, take several times as
/// long as others.
const ENOUGH: u64 = 1000;

/// Whether so much is counted that the statistics have shown what a run costs.
fn is_enough(totals: &Totals, sampled_cpus: usize) -> bool {
    totals.callbacks >= ENOUGH && totals.samples >= ENOUGH * sampled_cpus as u64
}

/// The statistics, and what they have shown.
pub(crate) struct Statistics {
    state: State,
    since: Instant,
}

enum State {
    Refused(String),
    On { _keeps_them_on: OwnedFd },
    Off { lasted: Duration, shown: Box<Shown> },
}

/// What makes a program run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Callback,
    Sample,
    Fault,
    Wait,
}

impl Cause {
    const ALL: [Self; 4] = [Self::Callback, Self::Sample, Self::Fault, Self::Wait];

    fn of(program: &str) -> Self {
        match program {
            "rs_sample" => Self::Sample,
            fault if fault.starts_with("rs_fault_") => Self::Fault,
            wait if wait.starts_with("rs_wait_") => Self::Wait,
            _ => Self::Callback,
        }
    }

    /// How often it made programs run.
    fn count(self, totals: &Totals) -> u64 {
        match self {
            Self::Callback => totals.callbacks,
            Self::Sample => totals.samples,
            Self::Fault => totals.fault_runs,
            Self::Wait => totals.wait_runs,
        }
    }
}

/// What the statistics had shown when they went off.
struct Shown {
    run_time_ns: u64,
    totals: Totals,
    /// Mean time for each of [`Cause::ALL`].
    ns_each: [f64; 4],
}

impl Statistics {
    /// Before there is anything to count.
    pub(crate) fn none() -> Self {
        Self {
            state: State::Refused("not recording".to_owned()),
            since: Instant::now(),
        }
    }

    /// Switches them on, if the kernel lets us.
    pub(crate) fn on() -> Self {
        let state = match enable_stats(Stats::RunTime) {
            Ok(fd) => State::On { _keeps_them_on: fd },
            Err(error) => State::Refused(format!("BPF statistics are refused: {}", error.io_error)),
        };
        Self {
            state,
            since: Instant::now(),
        }
    }

    /// Why there are none, if there are none.
    pub(crate) fn refused(&self) -> Option<&str> {
        match &self.state {
            State::Refused(reason) => Some(reason),
            State::On { .. } | State::Off { .. } => None,
        }
    }

    /// How long they were on.
    pub(crate) fn lasted(&self) -> Duration {
        match &self.state {
            State::Refused(_) => Duration::ZERO,
            State::On { .. } => self.since.elapsed(),
            State::Off { lasted, .. } => *lasted,
        }
    }

    /// Switches them off if they have shown enough; `totals` are the counters now.
    fn spare(&mut self, probes: &Probes, totals: Totals) {
        let is_on = matches!(self.state, State::On { .. });
        if !is_on || !is_enough(&totals, probes.sampled_cpus()) {
            return;
        }
        if let Some(shown) = Shown::now(probes, totals) {
            let lasted = self.since.elapsed();
            let shown = Box::new(shown);
            self.state = State::Off { lasted, shown };
        }
    }

    /// What all programs took so far, in ns: measured while the statistics are on,
    /// estimated from the runs since.
    fn own_ns(&self, probes: &Probes, totals: &Totals) -> Option<u64> {
        match &self.state {
            State::Refused(_) => None,
            State::On { .. } => own_cost::run_time_ns(probes.loaded()),
            State::Off { shown, .. } => Some(shown.own_ns(totals)),
        }
    }
}

impl Shown {
    /// `None` where the kernel does not say.
    fn now(probes: &Probes, totals: Totals) -> Option<Self> {
        let mut taken_ns = [0; 4];
        for (cause, taken_ns) in Cause::ALL.into_iter().zip(&mut taken_ns) {
            let programs = probes.loaded();
            let programs = programs.filter(|program| Cause::of(program.name) == cause);
            *taken_ns = own_cost::run_time_ns(programs)?;
        }
        Some(Self::of(taken_ns, totals))
    }

    /// From what the programs of each cause took. What has not happened yet is
    /// taken to cost what a callback does.
    fn of(taken_ns: [u64; 4], totals: Totals) -> Self {
        let each = |cause: usize| match Cause::ALL[cause].count(&totals) {
            0 => None,
            count => Some(taken_ns[cause] as f64 / count as f64),
        };
        let callback = each(0).unwrap_or(0.0);
        Self {
            run_time_ns: taken_ns.iter().sum(),
            totals,
            ns_each: [0, 1, 2, 3].map(|cause| each(cause).unwrap_or(callback)),
        }
    }

    fn own_ns(&self, totals: &Totals) -> u64 {
        let since = totals.since(&self.totals);
        let causes = Cause::ALL.iter().zip(self.ns_each);
        let ns = causes.map(|(cause, ns_each)| cause.count(&since) as f64 * ns_each);
        self.run_time_ns + ns.sum::<f64>() as u64
    }
}

impl Session<'_> {
    /// Switches the statistics off once they have shown enough, unless a limit
    /// needs them.
    pub(super) fn spare_statistics(&mut self) -> Result<(), MapError> {
        if let (Some(probes), None) = (&self.probes, self.observe.max_overhead) {
            self.statistics.spare(probes, self.counters.totals()?);
        }
        Ok(())
    }

    /// What our programs took so far, in ns, if the kernel lets us know.
    pub(crate) fn own_ns(&self) -> Option<u64> {
        let probes = self.probes.as_ref()?;
        self.statistics.own_ns(probes, self.counted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_goes_on_with_the_runs_when_the_statistics_are_off() {
        let mut totals = Totals {
            callbacks: 40,
            samples: 1,
            fault_runs: 10,
            ..Totals::default()
        };
        let shown = Shown::of([4000, 1000, 500, 0], totals);
        assert_eq!(shown.own_ns(&totals), 5500);
        totals.callbacks += 3;
        totals.samples += 2;
        totals.fault_runs += 4;
        assert_eq!(shown.own_ns(&totals), 5500 + 300 + 2000 + 200);
        totals.wait_runs += 1;
        assert_eq!(shown.own_ns(&totals), 8100, "as much as a callback");
    }

    #[test]
    fn statistics_stay_on_until_callbacks_and_samples_have_shown_what_they_cost() {
        let enough = |callbacks, samples, cpus| {
            let totals = Totals {
                callbacks,
                samples,
                ..Totals::default()
            };
            is_enough(&totals, cpus)
        };
        assert!(enough(1000, 4000, 4) && enough(1000, 0, 0));
        assert!(!enough(999, 4000, 4), "few callbacks");
        assert!(!enough(100_000, 3999, 4), "few samples for four CPUs");
    }

    #[test]
    fn every_program_has_what_makes_it_run() {
        let of_fault = ["rs_fault_enter", "rs_fault_return"].map(Cause::of);
        assert!(of_fault.iter().all(|cause| *cause == Cause::Fault));
        assert!(Cause::of("rs_wait_ends") == Cause::Wait);
        assert!(Cause::of("rs_sample") == Cause::Sample);
        assert!(Cause::of("rs_age_hva") == Cause::Callback);
    }
}
