//! Running a model under many random schedules, each repeatable from its seed.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use shuttle::{
    Config, FailurePersistence, Runner,
    scheduler::{Schedule, Scheduler, Task, TaskId},
};

/// How many schedules each scheme gets. The default is for every day; before a
/// release it is 100,000.
const SCHEDULES: &str = "RMAPSCOPE_SHUTTLE_SCHEDULES";
/// The first seed; the others follow it. With one schedule it repeats a failure.
const SEED: &str = "RMAPSCOPE_SHUTTLE_SEED";

const DEFAULT_SCHEDULES: u64 = 5_000;
/// Everything that goes wrong for want of schedules goes wrong the same way every
/// day, unless somebody asks for other seeds.
const DEFAULT_SEED: u64 = 1;

/// Which schedules are run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedules {
    pub(crate) first_seed: u64,
    pub(crate) count: u64,
}

impl Schedules {
    /// What the environment asks for.
    pub(crate) fn asked_for() -> Self {
        Self {
            first_seed: number(SEED).unwrap_or(DEFAULT_SEED),
            count: number(SCHEDULES).unwrap_or(DEFAULT_SCHEDULES),
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.replace('_', "").parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// A schedule under which a model failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    /// Schedules run, this one included.
    pub(crate) schedules: u64,
    pub(crate) message: String,
}

/// Runs the model under the schedules until one fails.
pub(crate) fn explore(
    schedules: Schedules,
    model: impl Fn() + Send + Sync + 'static,
) -> Result<(), Failure> {
    let seed = Arc::new(AtomicU64::new(schedules.first_seed));
    let scheduler = Seeded::new(schedules, Arc::clone(&seed));
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    let run = AssertUnwindSafe(|| Runner::new(scheduler, config).run(model));
    let Err(panic) = catch_unwind(run) else {
        return Ok(());
    };
    let seed = seed.load(Relaxed);
    Err(Failure {
        seed,
        schedules: seed.wrapping_sub(schedules.first_seed) + 1,
        message: message_of(&*panic),
    })
}

/// How to repeat a failure of the test of that name.
pub(crate) fn repeat(test: &str, seed: u64) -> String {
    format!(
        "{SEED}={seed} {SCHEDULES}=1 RUSTFLAGS=\"--cfg shuttle\" \
         cargo test -p rmap --release --test shuttle {test}"
    )
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<String>().cloned();
    let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    message.unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Chooses the next thread at random, with a bias towards the one that runs.
///
/// A choice at every step alone would hardly ever let one thread go a long way
/// while another stands still half way through. So each schedule has a stickiness
/// of its own, from none to nine in ten.
struct Seeded {
    schedules: Schedules,
    started: u64,
    current_seed: Arc<AtomicU64>,
    choices: SplitMix,
    data: SplitMix,
    sticky_tenths: u64,
}

impl Seeded {
    fn new(schedules: Schedules, current_seed: Arc<AtomicU64>) -> Self {
        Self {
            schedules,
            started: 0,
            current_seed,
            choices: SplitMix(0),
            data: SplitMix(0),
            sticky_tenths: 0,
        }
    }
}

impl Scheduler for Seeded {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.started == self.schedules.count {
            return None;
        }
        let seed = self.schedules.first_seed.wrapping_add(self.started);
        self.started += 1;
        self.current_seed.store(seed, Relaxed);
        let mut seeds = SplitMix(seed);
        self.choices = SplitMix(seeds.next());
        self.data = SplitMix(seeds.next());
        self.sticky_tenths = seeds.next() % 10;
        Some(Schedule::new(seed))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let stays = !is_yielding && self.choices.next() % 10 < self.sticky_tenths;
        let current = current.filter(|id| stays && runnable.iter().any(|task| task.id() == *id));
        current.or_else(|| {
            let chosen = self.choices.next() % runnable.len() as u64;
            runnable.get(chosen as usize).map(|task| task.id())
        })
    }

    fn next_u64(&mut self) -> u64 {
        self.data.next()
    }
}

/// `SplitMix64`: every seed is good.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
