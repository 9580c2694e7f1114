//! Pinned threads that start and end a measurement together.
//!
//! Invariant: every member is pinned and has built its state before the start
//! barrier, and nobody leaves the end barrier before all have stopped measuring,
//! so that no member ever measures beside an idle partner. The barriers spin: a
//! sleeping barrier would start the members tens of microseconds apart. A member
//! that cannot be started or pinned, panics, or leaves without measuring, releases the
//! others; nobody hangs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;

use crate::cpus::{CpuError, pin_current_thread};
use crate::disturb::{ThreadDisturbance, ThreadWatch};

/// Spins before a waiting member offers its CPU to others.
const SPINS_BEFORE_YIELD: u32 = 1 << 14;

/// A barrier that is passed once.
#[derive(Debug)]
struct Barrier {
    waiting_for: AtomicUsize,
}

impl Barrier {
    fn new(members: usize) -> Self {
        Self {
            waiting_for: AtomicUsize::new(members),
        }
    }

    fn wait(&self, broken: &AtomicBool) {
        self.waiting_for.fetch_sub(1, Ordering::AcqRel);
        spin_until(broken, || self.waiting_for.load(Ordering::Acquire) == 0);
    }
}

/// A barrier that is passed again and again.
#[derive(Debug)]
struct Turnstile {
    members: usize,
    /// Arrivals since the beginning.
    arrived: AtomicUsize,
}

impl Turnstile {
    fn wait(&self, broken: &AtomicBool) {
        let before = self.arrived.fetch_add(1, Ordering::AcqRel);
        let all = (before / self.members + 1) * self.members;
        spin_until(broken, || self.arrived.load(Ordering::Acquire) >= all);
    }
}

/// Spins until it is so, or the team has broken up.
fn spin_until(broken: &AtomicBool, is_so: impl Fn() -> bool) {
    let mut spins = 0_u32;
    while !is_so() && !broken.load(Ordering::Acquire) {
        std::hint::spin_loop();
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(SPINS_BEFORE_YIELD) {
            std::thread::yield_now();
        }
    }
}

/// What the members of one team share.
#[derive(Debug)]
struct Gates {
    /// Passed when every member has built its state.
    ready: Barrier,
    /// Passed when every member is being watched.
    start: Barrier,
    /// Passed whenever every member has come to it while measuring.
    meet: Turnstile,
    /// Passed when every member has stopped measuring.
    end: Barrier,
    broken: AtomicBool,
}

/// A member's handle on its team's barriers.
#[derive(Debug)]
pub struct Seat<'team> {
    gates: &'team Gates,
}

impl Seat<'_> {
    /// Runs `timed` between the start and the end barrier; `None` if the team
    /// broke up before the start.
    pub fn measure<T>(&self, timed: impl FnOnce() -> T) -> Option<(T, ThreadDisturbance)> {
        self.gates.ready.wait(&self.gates.broken);
        let watch = ThreadWatch::start();
        self.gates.start.wait(&self.gates.broken);
        if self.gates.broken.load(Ordering::Acquire) {
            return None;
        }
        let result = timed();
        let disturbance = watch.stop();
        self.gates.end.wait(&self.gates.broken);
        Some((result, disturbance))
    }

    /// Waits, while measuring, until every member has come here as often as this one;
    /// false if the team broke up. Members that measure together call it equally often.
    pub fn meet(&self) -> bool {
        self.gates.meet.wait(&self.gates.broken);
        !self.gates.broken.load(Ordering::Acquire)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        // Who has measured has left the end barrier, and nobody looks any more.
        self.gates.broken.store(true, Ordering::Release);
    }
}

/// A member: sets itself up, calls [`Seat::measure`] once, returns what it found.
pub type Member<'a, T> = Box<dyn FnOnce(&Seat<'_>) -> T + Send + 'a>;

/// Runs one member per CPU, each on a thread of its own pinned there.
///
/// # Errors
/// When there are more members than CPUs or a thread cannot be started or pinned.
///
/// # Panics
/// Passes on the panic of a member.
pub fn run<T: Send>(cpus: &[usize], members: Vec<Member<'_, T>>) -> Result<Vec<T>, CpuError> {
    run_on(cpus, members, |_| Builder::new())
}

/// [`run`] on threads made by a builder for each CPU.
fn run_on<T: Send>(
    cpus: &[usize],
    members: Vec<Member<'_, T>>,
    builder: impl Fn(usize) -> Builder,
) -> Result<Vec<T>, CpuError> {
    if members.len() > cpus.len() {
        let list = cpus
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        return Err(CpuError::TooFew {
            threads: members.len(),
            available: cpus.len(),
            cpus: list,
        });
    }
    let gates = Gates {
        ready: Barrier::new(members.len()),
        start: Barrier::new(members.len()),
        meet: Turnstile {
            members: members.len(),
            arrived: AtomicUsize::new(0),
        },
        end: Barrier::new(members.len()),
        broken: AtomicBool::new(false),
    };
    let gates = &gates;
    std::thread::scope(|scope| {
        let start = |(member, &cpu)| {
            builder(cpu)
                .spawn_scoped(scope, move || sit(gates, member, cpu))
                .map_err(|error| {
                    gates.broken.store(true, Ordering::Release);
                    CpuError::System {
                        what: format!("start a thread for CPU {cpu}"),
                        reason: error.to_string(),
                    }
                })
        };
        // All are asked for before any is waited for.
        let handles: Vec<_> = members.into_iter().zip(cpus).map(start).collect();
        handles
            .into_iter()
            .map(|handle| {
                handle?
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

fn sit<T>(gates: &Gates, member: Member<'_, T>, cpu: usize) -> Result<T, CpuError> {
    let seat = Seat { gates };
    if let Err(error) = pin_current_thread(cpu) {
        gates.broken.store(true, Ordering::Release);
        return Err(error);
    }
    Ok(member(&seat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpus::CpuList;
    use std::time::{Duration, Instant};

    fn usable() -> Vec<usize> {
        CpuList::usable().unwrap().as_slice().to_vec()
    }

    #[test]
    fn members_overlap_and_run_on_their_cpus() {
        let cpus = usable();
        let members: Vec<Member<'_, _>> = cpus
            .iter()
            .map(|_| {
                let member = |seat: &Seat<'_>| {
                    seat.measure(|| {
                        let start = Instant::now();
                        while start.elapsed() < Duration::from_millis(20) {}
                        (start, Instant::now(), nix::sched::sched_getcpu().unwrap())
                    })
                };
                Box::new(member) as Member<'_, _>
            })
            .collect();
        type Span = (Instant, Instant, usize);
        let spans: Vec<Option<(Span, ThreadDisturbance)>> = run(&cpus, members).unwrap();
        let spans: Vec<Span> = spans.into_iter().map(|span| span.unwrap().0).collect();
        let last_start = spans.iter().map(|s| s.0).max().unwrap();
        let first_end = spans.iter().map(|s| s.1).min().unwrap();
        assert!(last_start < first_end);
        assert_eq!(spans.iter().map(|s| s.2).collect::<Vec<_>>(), cpus);
    }

    #[test]
    fn nobody_measures_beside_a_late_or_an_idle_partner() {
        let cpus = usable();
        if cpus.len() < 2 {
            return;
        }
        // One builds for long, the other measures for long.
        let spans = run(&cpus[..2], vec![member(300, 0), member(0, 50)]).unwrap();
        let [late, long] = spans[..] else {
            panic!("two members");
        };
        assert!(long.start.abs_diff(late.start) < Duration::from_millis(200));
        assert!(late.left >= long.end);
    }

    #[derive(Clone, Copy)]
    struct Times {
        start: Instant,
        end: Instant,
        left: Instant,
    }

    trait Apart {
        fn abs_diff(self, other: Self) -> Duration;
    }

    impl Apart for Instant {
        fn abs_diff(self, other: Self) -> Duration {
            self.max(other) - self.min(other)
        }
    }

    fn member<'a>(build_ms: u64, measure_ms: u64) -> Member<'a, Times> {
        Box::new(move |seat| {
            std::thread::sleep(Duration::from_millis(build_ms));
            let timed = || {
                let start = Instant::now();
                std::thread::sleep(Duration::from_millis(measure_ms));
                (start, Instant::now())
            };
            let ((start, end), _) = seat.measure(timed).unwrap();
            let left = Instant::now();
            Times { start, end, left }
        })
    }

    #[test]
    fn more_members_than_cpus_are_refused_before_any_starts() {
        let member = || -> Member<'_, ()> { Box::new(|_| unreachable!("started")) };
        let error = run(&[0], vec![member(), member()]).unwrap_err();
        assert!(matches!(
            error,
            CpuError::TooFew {
                threads: 2,
                available: 1,
                ..
            }
        ));
    }

    #[test]
    fn a_member_that_cannot_be_pinned_releases_the_others() {
        let cpus = [usable()[0], nix::sched::CpuSet::count() - 1];
        let member = || -> Member<'_, bool> { Box::new(|seat| seat.measure(|| ()).is_none()) };
        assert!(matches!(
            run(&cpus, vec![member(), member()]),
            Err(CpuError::System { .. })
        ));
    }

    #[test]
    fn a_thread_that_cannot_be_started_releases_the_others() {
        let cpus = usable();
        if cpus.len() < 2 {
            return;
        }
        // No address space holds such a stack.
        let builder = |cpu| match cpu {
            cpu if cpu == cpus[1] => Builder::new().stack_size(1 << 60),
            _ => Builder::new(),
        };
        let member = || -> Member<'_, bool> { Box::new(|seat| seat.measure(|| ()).is_none()) };
        let error = run_on(&cpus[..2], vec![member(), member()], builder).unwrap_err();
        assert!(error.to_string().contains("start a thread"), "{error}");
    }

    #[test]
    fn members_meet_as_often_as_they_like_and_nobody_is_a_step_ahead() {
        const STEPS: usize = 2000;
        let cpus = usable();
        let steps: Vec<AtomicUsize> = cpus.iter().map(|_| AtomicUsize::new(0)).collect();
        let steps = &steps;
        let member = |index: usize| -> Member<'_, bool> {
            Box::new(move |seat| {
                let in_step = |step: usize| {
                    steps[index].store(step, Ordering::Relaxed);
                    let met = seat.meet();
                    let all = steps.iter().all(|s| s.load(Ordering::Relaxed) >= step);
                    met && all && seat.meet()
                };
                seat.measure(|| (1..=STEPS).all(in_step)).unwrap().0
            })
        };
        let all = run(&cpus, (0..cpus.len()).map(member).collect()).unwrap();
        assert_eq!(all, vec![true; cpus.len()]);
    }

    #[test]
    fn a_member_that_panics_releases_those_who_would_meet_it() {
        let cpus = usable();
        if cpus.len() < 2 {
            return;
        }
        let met = AtomicBool::new(true);
        let met = &met;
        let panics: Member<'_, ()> = Box::new(|seat| {
            seat.measure(|| panic!("on purpose"));
        });
        let waits: Member<'_, ()> = Box::new(|seat| {
            seat.measure(|| met.store(seat.meet(), Ordering::Relaxed));
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&cpus[..2], vec![panics, waits])
        }));
        assert!(outcome.is_err() && !met.load(Ordering::Relaxed));
    }

    #[test]
    fn a_member_that_leaves_without_measuring_releases_the_others() {
        let cpus = usable();
        if cpus.len() < 2 {
            return;
        }
        let leaves: Member<'_, bool> = Box::new(|_| false);
        let waits: Member<'_, bool> = Box::new(|seat| seat.measure(|| ()).is_some());
        let measured = run(&cpus[..2], vec![leaves, waits]).unwrap();
        assert_eq!(measured, [false, false]);
    }

    #[test]
    fn a_member_that_panics_releases_the_others() {
        let cpus = usable();
        if cpus.len() < 2 {
            return;
        }
        let panics: Member<'_, ()> = Box::new(|seat| {
            seat.measure(|| panic!("on purpose"));
        });
        let waits: Member<'_, ()> = Box::new(|seat| {
            seat.measure(|| ());
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&cpus[..2], vec![panics, waits])
        }));
        assert!(outcome.is_err());
    }
}
