//! Who else used the CPUs while we measured.
//!
//! A measurement is disturbed when the hypervisor stole time from its CPUs, or
//! when a measuring thread was moved, or was ready to run and kept waiting for a
//! CPU. A thread that sleeps in a futex because its lock is taken is not
//! disturbed: that is the scheme at work. Disturbed rounds are kept and counted;
//! a figure with too many of them is marked.

use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use perf_event::Counter;
use report::Observed;
use report::host::CoreWatch;
use report::schema::Disturbance;

use crate::counters;

/// A thread that waited for a CPU for more than this share of its interval was
/// disturbed.
const TOLERATED_WAIT: f64 = 0.01;
/// Being put on an idle CPU takes up to this long and is no wait for it, ns.
const WAKE_UP_NS: u64 = 10_000;
/// Where the kernel tells how long the calling thread waited in a run queue.
const SCHEDSTAT: &str = "/proc/thread-self/schedstat";
/// A figure is marked when more than this share of its rounds were disturbed.
const TOLERATED_SHARE: f64 = 0.25;

/// What disturbed one measuring thread.
#[derive(Debug, Clone, PartialEq)]
pub struct ThreadDisturbance {
    /// Times it was switched out against its will.
    pub involuntary_switches: Observed<u64>,
    /// Times it was moved to another CPU.
    pub migrations: Observed<u64>,
    /// Share of the interval it was ready to run and waited for a CPU, less
    /// 10 us for every time it was put on one.
    pub wait_share: Observed<f64>,
}

impl ThreadDisturbance {
    /// Where the kernel keeps no account of the wait, being switched out against
    /// its will counts as one.
    fn is_disturbed(&self) -> bool {
        let any = |count: &Observed<u64>| count.value().is_some_and(|&n| n > 0);
        let waited = match self.wait_share.value() {
            Some(&share) => share > TOLERATED_WAIT,
            None => any(&self.involuntary_switches),
        };
        waited || any(&self.migrations)
    }
}

/// Watches the calling thread over one interval.
pub struct ThreadWatch {
    migrations: Result<Counter, String>,
    switches: Result<u64, String>,
    queue: Result<RunQueue, String>,
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
            queue: RunQueue::of_this_thread(),
            wall: Instant::now(),
        }
    }

    /// What happened to the thread since.
    #[must_use]
    pub fn stop(self) -> ThreadDisturbance {
        let (wall, queue_end) = (self.wall.elapsed(), RunQueue::of_this_thread());
        let switches_end = switches();
        let wait_share = self.queue.and_then(|start| {
            let waited_ns = queue_end?.waited_since(start);
            Ok(waited_ns as f64 / wall.as_nanos().max(1) as f64)
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
            wait_share: wait_share.into(),
        }
    }
}

fn switches() -> Result<u64, String> {
    getrusage(UsageWho::RUSAGE_THREAD)
        .map(|usage| usage.involuntary_context_switches().max(0) as u64)
        .map_err(|e| format!("getrusage failed: {}", e.desc()))
}

/// A thread's account with the run queues since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RunQueue {
    waited_ns: u64,
    /// Times it was put on a CPU.
    runs: u64,
}

impl RunQueue {
    fn of_this_thread() -> Result<Self, String> {
        let text = std::fs::read_to_string(SCHEDSTAT).map_err(|e| format!("{SCHEDSTAT}: {e}"))?;
        Self::parse(&text).ok_or_else(|| format!("{SCHEDSTAT} does not tell the time waited"))
    }

    /// Time on CPUs, time waited, times put on a CPU. A kernel that keeps no
    /// such account prints zeros, but whoever reads it was put on a CPU.
    fn parse(schedstat: &str) -> Option<Self> {
        let mut fields = schedstat.split_whitespace().skip(1).map(str::parse);
        let (waited_ns, runs) = (fields.next()?.ok()?, fields.next()?.ok()?);
        (runs > 0).then_some(Self { waited_ns, runs })
    }

    /// Time waited for CPUs that were busy, ns.
    fn waited_since(self, start: Self) -> u64 {
        let wake_ups = self.runs.saturating_sub(start.runs);
        let waited = self.waited_ns.saturating_sub(start.waited_ns);
        waited.saturating_sub(wake_ups.saturating_mul(WAKE_UP_NS))
    }
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
    core: CoreWatch,
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
            core: CoreWatch::start(),
        }
    }

    /// Looks at the core, for who measures in another way than by cells.
    pub fn look(&mut self) {
        self.core.look();
    }

    /// Takes in one measurement's threads; tells whether it was disturbed.
    pub fn judge(&mut self, threads: &[ThreadDisturbance]) -> bool {
        self.look();
        let stolen = self.stolen_since(stolen_ms(&self.cpus));
        for thread in threads {
            let plus = |sum: &mut u64, more: &u64| *sum += more;
            self.switches.add_with(&thread.involuntary_switches, plus);
            self.migrations.add_with(&thread.migrations, plus);
        }
        stolen || threads.iter().any(ThreadDisturbance::is_disturbed)
    }

    /// Whether time was stolen since the last measurement, of so much until now.
    fn stolen_since(&mut self, now_ms: Result<u64, String>) -> bool {
        let stolen = matches!((&self.steal_at_last, &now_ms), (Ok(last), Ok(now)) if now > last);
        self.steal_at_last = now_ms;
        stolen
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
            core_loop: self.core.looks().into(),
        }
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
    use std::time::Duration;

    use super::*;
    use crate::cpus::{CpuList, pin_current_thread};

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
    fn stolen_ticks_are_told_in_milliseconds() {
        /// Of a tick, the same on every Linux.
        const MS: u64 = 10;
        let ticks = || {
            let stat = std::fs::read_to_string("/proc/stat").unwrap();
            stolen_ticks(&stat, &[0]).unwrap()
        };
        let (before, stolen, after) = (ticks(), stolen_ms(&[0]).unwrap(), ticks());
        assert!((before * MS..=after * MS).contains(&stolen), "{stolen}");
    }

    #[test]
    fn the_wait_is_the_second_field_and_zeros_are_no_account() {
        let queue = |waited_ns, runs| RunQueue { waited_ns, runs };
        assert_eq!(RunQueue::parse("0 321 7\n"), Some(queue(321, 7)));
        assert_eq!(RunQueue::parse("0 0 0\n"), None);
        assert_eq!(RunQueue::parse("5000\n"), None);
    }

    #[test]
    fn waking_up_is_not_waiting() {
        let queue = |waited_ns, runs| RunQueue { waited_ns, runs };
        assert_eq!(queue(1_004_000, 1002).waited_since(queue(4000, 2)), 0);
        assert_eq!(
            queue(3_000_000, 2).waited_since(queue(0, 1)),
            3_000_000 - WAKE_UP_NS
        );
    }

    #[test]
    fn a_thread_that_sleeps_is_not_disturbed() {
        let disturbed = || {
            let watch = ThreadWatch::start();
            std::thread::sleep(Duration::from_millis(100));
            watch.stop().is_disturbed()
        };
        // Other work may be on this CPU just when the sleep ends, not every time.
        assert!((0..10).any(|_| !disturbed()));
    }

    #[test]
    fn a_thread_that_shares_its_cpu_is_disturbed() {
        let cpu = CpuList::usable().unwrap().leader();
        let spin = |ms| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(ms) {}
        };
        let spun = std::thread::scope(|scope| {
            scope.spawn(|| {
                pin_current_thread(cpu).unwrap();
                spin(400);
            });
            let watched = scope.spawn(|| {
                pin_current_thread(cpu).unwrap();
                let watch = ThreadWatch::start();
                spin(200);
                watch.stop()
            });
            watched.join().unwrap()
        });
        assert!(*spun.wait_share.value().unwrap() > 0.1, "{spun:?}");
        assert!(*spun.involuntary_switches.value().unwrap() > 0, "{spun:?}");
        assert!(spun.is_disturbed());
    }

    #[test]
    fn a_thread_that_is_moved_while_it_is_watched_is_disturbed() {
        let cpus = CpuList::usable().unwrap();
        let &[from, to, ..] = cpus.as_slice() else {
            return;
        };
        let moved = std::thread::spawn(move || {
            pin_current_thread(from).unwrap();
            let watch = ThreadWatch::start();
            pin_current_thread(to).unwrap();
            watch.stop()
        });
        let moved = moved.join().unwrap();
        if let Observed::Value(times) = moved.migrations {
            assert!(times > 0 && moved.is_disturbed());
        }
    }

    #[test]
    fn a_forced_switch_counts_where_the_wait_is_not_known() {
        let thread = |wait_share, switches| ThreadDisturbance {
            involuntary_switches: Observed::Value(switches),
            migrations: Observed::Value(0),
            wait_share,
        };
        assert!(!thread(Observed::Value(0.002), 1).is_disturbed());
        assert!(thread(Observed::Value(0.02), 0).is_disturbed());
        assert!(thread(Observed::missing("no account"), 1).is_disturbed());
        assert!(!thread(Observed::missing("no account"), 0).is_disturbed());
    }

    #[test]
    fn a_figure_is_marked_when_more_than_a_quarter_of_its_rounds_were_disturbed() {
        assert_eq!(verdict(2, 8), None);
        assert!(verdict(3, 8).is_some());
        assert_eq!(verdict(0, 0), None);
    }

    #[test]
    fn stolen_time_disturbs_the_measurement_it_was_stolen_from() {
        let mut watch = RunWatch::start(&[0]);
        watch.steal_at_last = Ok(10);
        assert!(!watch.stolen_since(Ok(10)));
        assert!(watch.stolen_since(Ok(20)));
        assert!(!watch.stolen_since(Ok(20)));
        assert!(!watch.stolen_since(Err("no account".to_owned())));
        // Far less than this host has ever lost is set, so it has lost some since.
        if stolen_ms(&[0]).is_ok_and(|ms| ms > 0) {
            watch.steal_at_last = Ok(0);
            assert!(watch.judge(&[]));
        }
    }

    #[test]
    fn a_moved_thread_disturbs_its_measurement() {
        let mut watch = RunWatch::start(&[0]);
        let thread = |migrations| ThreadDisturbance {
            involuntary_switches: Observed::Value(1),
            migrations: Observed::Value(migrations),
            wait_share: Observed::Value(0.0),
        };
        assert!(watch.judge(&[thread(0), thread(2)]));
        let sum = watch.finish();
        assert_eq!(sum.migrations, Observed::Value(2));
        assert_eq!(sum.involuntary_switches, Observed::Value(2));
    }
}
