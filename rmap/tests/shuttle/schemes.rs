//! Every scheme of the registry that claims to be sound.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Instant,
};

use rmap::SchemeInfo;

use crate::{
    history::{Subject, random_history},
    schedules::{Schedules, explore, repeat},
};

const TEST: &str = "i_chain_i_bit_i_life_i_young_and_i_zap_over_random_histories";

/// Schedules in which everything that can happen does.
const ENOUGH: u64 = 5_000;

/// Runs one scheme; returns what went wrong and how to see it again.
fn check(scheme: &SchemeInfo, schedules: Schedules) -> Option<String> {
    let begin = Instant::now();
    let subject = Subject::of(scheme);
    let result = explore(schedules, move || random_history(subject));
    let name = scheme.name;
    let Err(failure) = result else {
        println!(
            "{name}: {} schedules from seed {} on, {:.1} s",
            schedules.count,
            schedules.first_seed,
            begin.elapsed().as_secs_f64()
        );
        let never = subject.happened.never(subject);
        return never
            .filter(|_| schedules.count >= ENOUGH)
            .map(|what| format!("{name}: {what} in {} schedules", schedules.count));
    };
    let repeat = repeat(TEST, failure.seed);
    Some(format!(
        "{name}: {} (schedule {}); to repeat: {repeat}",
        failure.message, failure.schedules
    ))
}

#[test]
fn i_chain_i_bit_i_life_i_young_and_i_zap_over_random_histories() {
    let schedules = Schedules::asked_for();
    let sound: Vec<_> = rmap::schemes().iter().filter(|s| s.sound).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = Vec::new();
        while let Some(scheme) = sound.get(next.fetch_add(1, Relaxed)) {
            failures.extend(check(scheme, schedules));
        }
        failures
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(thread::ScopedJoinHandle::join);
        done.flat_map(|failures| failures.expect("a worker reports, it does not panic"))
            .collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
