//! How far a stress run is: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::SchemeOutcome;

/// Lines are not printed more often than this where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The bar is not drawn more often than this.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// Steps of the bar.
const STEPS: u64 = 1000;

/// Tells about one scheme's run on stderr.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    scheme: &'static str,
    ops: u64,
    time: Duration,
    begin: Instant,
    last: Instant,
}

impl Progress {
    pub(super) fn start(scheme: &'static str, ops: u64, time: Duration) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(STEPS), target);
            // The template is a constant; indicatif's own style is the fallback.
            if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(scheme);
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            scheme,
            ops,
            time,
            begin: now,
            last: now,
        }
    }

    pub(super) fn tell(&mut self, ops: u64, checks: u64) {
        let every = if self.bar.is_some() {
            DRAW_EVERY
        } else {
            LINE_EVERY
        };
        if self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        let elapsed = self.begin.elapsed();
        let done = fraction(ops, self.ops, elapsed, self.time);
        let left_s = elapsed.as_secs_f64() * (1.0 - done) / done.max(1e-9);
        let rate = ops as f64 / elapsed.as_secs_f64();
        let text = format!(
            "{:.2e} operations, {rate:.2e}/s, {checks} checks, {left_s:.0} s left",
            ops as f64
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position((done * STEPS as f64) as u64);
                bar.set_message(text);
            }
            None => report::say!("{}: {text}", self.scheme),
        }
    }

    pub(super) fn finish(self, outcome: &SchemeOutcome) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let how = match (&outcome.violation, outcome.interrupted) {
            (Some(violation), _) => violation.as_str(),
            (None, true) if outcome.checks == 0 => "interrupted before anything was checked",
            (None, false) if outcome.checks == 0 => "no time to check anything",
            (None, true) => "interrupted; what was checked is sound",
            (None, false) => "sound",
        };
        report::say!(
            "{}: {:.2e} operations, {} checks: {how}",
            self.scheme,
            outcome.ops as f64,
            outcome.checks
        );
    }
}

/// How much of a run is done that ends with its operations or its time.
fn fraction(ops: u64, all_ops: u64, elapsed: Duration, time: Duration) -> f64 {
    let by_ops = ops as f64 / all_ops.max(1) as f64;
    let by_time = elapsed.as_secs_f64() / time.as_secs_f64().max(1e-9);
    by_ops.max(by_time).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_end_counts() {
        let second = Duration::from_secs(1);
        assert!((fraction(5, 10, second, 10 * second) - 0.5).abs() < 1e-9);
        assert!((fraction(1, 10, second, 2 * second) - 0.5).abs() < 1e-9);
        assert!((fraction(20, 10, second, 10 * second) - 1.0).abs() < 1e-9);
    }
}
