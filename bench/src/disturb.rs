//! Who else used the CPUs while we measured.
//!
//! A measurement is disturbed when the hypervisor stole time from its CPUs, or
//! when a measuring thread was switched out, moved, or got less than 99 % of
//! the wall-clock time of its own interval. Disturbed rounds are kept and
//! counted; a figure with too many of them is marked.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use perf_event::Counter;
use report::Observed;
use report::schema::Disturbance;

use crate::counters;

/// A thread that got less than this share of its interval was disturbed.
const LEAST_CPU_SHARE: f64 = 0.99;
/// A figure is marked when more than this share of its rounds were disturbed.
const TOLERATED_SHARE: f64 = 0.25;

/// What disturbed one measuring thread.
#[derive(Debug, Clone, PartialEq)]
pub struct ThreadDisturbance {
    /// Times it was switched out against its will.
    pub involuntary_switches: Observed<u64>,
    /// Times it was moved to another CPU.
    pub migrations: Observed<u64>,
    /// Share of the interval it was on a CPU.
    pub cpu_share: Observed<f64>,
}

impl ThreadDisturbance {
    fn is_disturbed(&self) -> bool {
        self.migrations.value().is_some_and(|&n| n > 0)
            || self
                .cpu_share
                .value()
                .is_some_and(|&share| share < LEAST_CPU_SHARE)
    }
}

/// Watches the calling thread over one interval.
pub struct ThreadWatch {
    migrations: Result<Counter, String>,
    switches: Result<u64, String>,
    cpu: Result<Duration, String>,
    wall: Instant,
}

impl ThreadWatch {
    /// Starts watching the calling thread.
    #[must_use]
    pub fn start() -> Self {
        let migrations = counters::open("cpu-migrations").and_then(|mut counter| {
            counter.enable().map_err(|e| e.to_string())?;
            Ok(counter)
        });
        Self {
            migrations,
            switches: switches(),
            cpu: cpu_time(),
            wall: Instant::now(),
        }
    }

    /// What happened to the thread since.
    #[must_use]
    pub fn stop(self) -> ThreadDisturbance {
        let (wall, cpu_end, switches_end) = (self.wall.elapsed(), cpu_time(), switches());
        let cpu_share = self.cpu.and_then(|start| {
            let used = cpu_end?.saturating_sub(start);
            Ok(used.as_secs_f64() / wall.as_secs_f64().max(f64::MIN_POSITIVE))
        });
        let switches = self
            .switches
            .and_then(|start| Ok(switches_end?.saturating_sub(start)));
        let migrations = self
            .migrations
            .and_then(|mut counter| counter.read().map_err(|e| e.to_string()));
        ThreadDisturbance {
            involuntary_switches: switches.into(),
            migrations: migrations.into(),
            cpu_share: cpu_share.into(),
        }
    }
}

fn switches() -> Result<u64, String> {
    getrusage(UsageWho::RUSAGE_THREAD)
        .map(|usage| usage.involuntary_context_switches().max(0) as u64)
        .map_err(|e| format!("getrusage failed: {}", e.desc()))
}

fn cpu_time() -> Result<Duration, String> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .map_err(|e| format!("the thread's CPU clock failed: {}", e.desc()))
}

/// Time the hypervisor stole from the given CPUs since boot, ms.
fn stolen_ms(cpus: &[usize]) -> Result<u64, String> {
    let stat = std::fs::read_to_string("/proc/stat").map_err(|e| format!("/proc/stat: {e}"))?;
    let ticks = stolen_ticks(&stat, cpus).ok_or("/proc/stat has no steal column for these CPUs")?;
    let hz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|hz| u64::try_from(hz).ok())
        .filter(|&hz| hz > 0)
        .ok_or("the kernel did not tell the length of a clock tick")?;
    Ok(ticks * 1000 / hz)
}

fn stolen_ticks(stat: &str, cpus: &[usize]) -> Option<u64> {
    /// Column of steal, after the CPU's name.
    const STEAL: usize = 7;
    cpus.iter()
        .map(|cpu| {
            let name = format!("cpu{cpu}");
            let line = stat
                .lines()
                .find(|l| l.split_whitespace().next() == Some(name.as_str()))?;
            line.split_whitespace().nth(1 + STEAL)?.parse::<u64>().ok()
        })
        .sum()
}

/// Watches a whole run and adds up what its measurements report.
pub struct RunWatch {
    cpus: Vec<usize>,
    steal_at_start: Result<u64, String>,
    steal_at_last: Result<u64, String>,
    switches: Observed<u64>,
    migrations: Observed<u64>,
}

impl RunWatch {
    /// Starts watching these CPUs.
    #[must_use]
    pub fn start(cpus: &[usize]) -> Self {
        let steal = stolen_ms(cpus);
        Self {
            cpus: cpus.to_vec(),
            steal_at_start: steal.clone(),
            steal_at_last: steal,
            switches: Observed::Value(0),
            migrations: Observed::Value(0),
        }
    }

    /// Takes in one measurement's threads; tells whether it was disturbed.
    pub fn judge(&mut self, threads: &[ThreadDisturbance]) -> bool {
        let steal = stolen_ms(&self.cpus);
        let stolen = matches!((&self.steal_at_last, &steal), (Ok(last), Ok(now)) if now > last);
        self.steal_at_last = steal;
        for thread in threads {
            add(&mut self.switches, &thread.involuntary_switches);
            add(&mut self.migrations, &thread.migrations);
        }
        stolen || threads.iter().any(ThreadDisturbance::is_disturbed)
    }

    /// The sum over the run.
    #[must_use]
    pub fn finish(self) -> Disturbance {
        let steal = self
            .steal_at_start
            .and_then(|start| Ok(stolen_ms(&self.cpus)?.saturating_sub(start)));
        Disturbance {
            steal_ms: steal.into(),
            involuntary_switches: self.switches,
            migrations: self.migrations,
        }
    }
}

fn add(sum: &mut Observed<u64>, more: &Observed<u64>) {
    match (&mut *sum, more) {
        (Observed::Value(sum), Observed::Value(more)) => *sum += more,
        (Observed::Value(_), Observed::Missing(reason)) => *sum = Observed::missing(reason.clone()),
        (Observed::Missing(_), _) => {}
    }
}

/// Why a figure should be doubted, if too many of its rounds were disturbed.
/// The sentence is the same for all figures, so that tables print it once.
#[must_use]
pub fn verdict(disturbed: usize, rounds: usize) -> Option<String> {
    let too_many = disturbed as f64 > rounds as f64 * TOLERATED_SHARE;
    too_many.then(|| {
        "more than a quarter of the rounds were disturbed by other work on these CPUs or by the \
         hypervisor"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  10 0 4 98 5 0 60 30 0 0\n\
                        cpu0 5 0 2 49 2 0 30 12 0 0\n\
                        cpu1 5 0 2 49 3 0 30 18 0 0\n\
                        cpu10 5 0 2 49 3 0 30 100 0 0\n";

    #[test]
    fn steal_is_read_for_exactly_the_cpus_used() {
        assert_eq!(stolen_ticks(STAT, &[1]), Some(18));
        assert_eq!(stolen_ticks(STAT, &[0, 1]), Some(30));
        assert_eq!(stolen_ticks(STAT, &[2]), None);
    }

    #[test]
    fn a_thread_off_its_cpu_is_disturbed() {
        let watch = ThreadWatch::start();
        std::thread::sleep(Duration::from_millis(20));
        let slept = watch.stop();
        assert!(*slept.cpu_share.value().unwrap() < 0.5);
        assert!(slept.is_disturbed());
    }

    #[test]
    fn a_reason_is_never_turned_into_a_count() {
        let mut sum = Observed::Value(3);
        add(&mut sum, &Observed::Value(4));
        assert_eq!(sum, Observed::Value(7));
        add(&mut sum, &Observed::missing("no perf events"));
        add(&mut sum, &Observed::Value(1));
        assert_eq!(sum, Observed::missing("no perf events"));
    }

    #[test]
    fn a_figure_is_marked_when_more_than_a_quarter_of_its_rounds_were_disturbed() {
        assert_eq!(verdict(2, 8), None);
        assert!(verdict(3, 8).is_some());
        assert_eq!(verdict(0, 0), None);
    }

    #[test]
    fn a_moved_thread_disturbs_its_measurement() {
        let mut watch = RunWatch::start(&[0]);
        let thread = |migrations| ThreadDisturbance {
            involuntary_switches: Observed::Value(1),
            migrations: Observed::Value(migrations),
            cpu_share: Observed::Value(1.0),
        };
        assert!(watch.judge(&[thread(0), thread(2)]));
        let sum = watch.finish();
        assert_eq!(sum.migrations, Observed::Value(2));
        assert_eq!(sum.involuntary_switches, Observed::Value(2));
    }
}
