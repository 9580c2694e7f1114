//! How far a run is and how long it will still take.
//!
//! The remaining time is the sum of what every outstanding measurement took the
//! last time (in the first round: what the others took on average), not a
//! smoothed rate: cells differ a hundredfold, and a rate would lie. Workloads that
//! have not begun count with the measuring time planned for them, times what those
//! that are done took longer than planned: setting up comes on top.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Lines are not printed more often than this where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What a workload takes, setting up included, times its measuring time, where none
/// is done yet to tell.
const USUAL_PACE: f64 = 1.9;

/// How many times the measuring time planned for them the workloads so far took.
#[must_use]
pub fn pace(took: Duration, planned: Duration) -> f64 {
    if planned.is_zero() {
        return USUAL_PACE;
    }
    took.as_secs_f64() / planned.as_secs_f64()
}

/// What the outstanding measurements of one workload will take.
#[derive(Debug, Clone)]
pub struct Remaining {
    /// Last time of each cell, seconds.
    last_s: Vec<Option<f64>>,
    /// Rounds each cell still has to do.
    outstanding: Vec<u32>,
}

impl Remaining {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(cells: usize, rounds: u32) -> Self {
        Self {
            last_s: vec![None; cells],
            outstanding: vec![rounds; cells],
        }
    }

    /// Takes in one measurement.
    pub fn done(&mut self, cell: usize, took: Duration) {
        self.last_s[cell] = Some(took.as_secs_f64());
        self.outstanding[cell] = self.outstanding[cell].saturating_sub(1);
    }

    /// The remaining time; `None` before the first measurement.
    #[must_use]
    pub fn estimate(&self) -> Option<Duration> {
        let known: Vec<f64> = self.last_s.iter().copied().flatten().collect();
        if known.is_empty() {
            return None;
        }
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let total: f64 = self
            .last_s
            .iter()
            .zip(&self.outstanding)
            .map(|(last, &rounds)| last.unwrap_or(mean) * f64::from(rounds))
            .sum();
        Some(Duration::from_secs_f64(total))
    }
}

/// Tells the user on stderr: a bar on a terminal, plain lines elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    workload: String,
    remaining: Remaining,
    steps: u64,
    done: u64,
    /// Expected of the workloads after this one.
    later: Duration,
    last_line: Instant,
}

impl Progress {
    /// Starts telling about one workload.
    #[must_use]
    pub fn start(workload: &str, cells: usize, rounds: u32, later: Duration) -> Self {
        let steps = cells as u64 * u64::from(rounds);
        let bar = std::io::stderr()
            .is_terminal()
            .then(|| bar(workload, steps));
        let progress = Self {
            bar,
            workload: workload.to_owned(),
            remaining: Remaining::new(cells, rounds),
            steps,
            done: 0,
            later,
            last_line: Instant::now(),
        };
        progress.line("started");
        progress
    }

    /// Building, before the first measurement.
    pub fn preparing(&self, built: usize, cells: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("building {built}/{cells}"));
        }
    }

    /// One more measurement of a cell is done.
    pub fn step(&mut self, cell: usize, took: Duration) {
        self.done += 1;
        self.remaining.done(cell, took);
        let left = self.remaining.estimate().unwrap_or_default();
        let left = time_left(left, self.later);
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            bar.set_message(left);
            return;
        }
        if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.line(&format!(
                "{} of {} measurements, {left}",
                self.done, self.steps
            ));
        }
    }

    /// Ends the bar.
    pub fn finish(self, outcome: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line(outcome);
    }

    fn line(&self, text: &str) {
        if self.bar.is_none() {
            report::say!("{}: {text}", self.workload);
        }
    }
}

/// What is left of this workload and, if others follow, what is expected for all.
fn time_left(left: Duration, later: Duration) -> String {
    let here = format!("{:.0} s left", left.as_secs_f64());
    if later.is_zero() {
        return here;
    }
    let all = (left + later).as_secs_f64();
    format!("{here}, about {all:.0} s with the other workloads")
}

fn bar(workload: &str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    // The template is a constant; indicatif's own style is the fallback.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(workload.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_promised_before_the_first_measurement() {
        assert_eq!(Remaining::new(3, 2).estimate(), None);
    }

    #[test]
    fn the_rest_is_what_each_cell_took_last_time() {
        let mut remaining = Remaining::new(2, 3);
        remaining.done(0, Duration::from_secs(10));
        // Cell 0 has two left at 10 s, cell 1 three at the mean of 10 s.
        assert_eq!(remaining.estimate(), Some(Duration::from_secs(50)));
        remaining.done(1, Duration::from_secs(1));
        assert_eq!(remaining.estimate(), Some(Duration::from_secs(22)));
        remaining.done(0, Duration::from_secs(4));
        assert_eq!(remaining.estimate(), Some(Duration::from_secs(6)));
    }

    #[test]
    fn the_rest_goes_on_at_the_pace_so_far() {
        let seconds = Duration::from_secs;
        assert_eq!(pace(seconds(0), seconds(0)), USUAL_PACE);
        assert_eq!(pace(seconds(30), seconds(20)), 1.5);
    }

    #[test]
    fn what_follows_is_told_apart_from_what_runs() {
        let seconds = Duration::from_secs;
        assert_eq!(time_left(seconds(3), seconds(0)), "3 s left");
        assert_eq!(
            time_left(seconds(3), seconds(40)),
            "3 s left, about 43 s with the other workloads"
        );
    }

    #[test]
    fn nothing_is_left_at_the_end() {
        let mut remaining = Remaining::new(1, 1);
        remaining.done(0, Duration::from_secs(3));
        assert_eq!(remaining.estimate(), Some(Duration::ZERO));
    }
}
