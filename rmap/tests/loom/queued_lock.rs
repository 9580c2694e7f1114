//! The queued rwlock: exclusion and its orderings, by canary, and that all get in.
//!
//! With one call a thread, two threads have few histories, and three that spin have
//! very many: hence the bounds [`PAIR`] and [`TRIO`].

use std::sync::Arc;

use loom::thread;
use rmap::{mmu_lock::queued::QueuedRwLock, sync::Canary};

use crate::model::explore_within;

/// Preemptions explored of two threads.
const PAIR: usize = 6;

/// Preemptions explored of three threads.
const TRIO: usize = 2;

type Work = fn(&QueuedRwLock, &Canary);

const WRITE: Work = |lock, canary| {
    let _guard = lock.write();
    canary.write();
};

const READ: Work = |lock, canary| {
    let _guard = lock.read();
    canary.read();
};

/// The last of `work` is done by the model's first thread.
fn side_by_side(preemptions: usize, work: &'static [Work]) {
    explore_within(preemptions, move || {
        let shared = Arc::new((QueuedRwLock::new(), Canary::new()));
        let (last, others) = work.split_last().expect("there is work");
        let threads: Vec<_> = others
            .iter()
            .map(|work| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || work(&shared.0, &shared.1))
            })
            .collect();
        last(&shared.0, &shared.1);
        for thread in threads {
            thread.join().expect("no thread panics");
        }
    });
}

#[test]
fn i_progress_two_writers_exclude_each_other_and_both_get_in() {
    side_by_side(PAIR, &[WRITE, WRITE]);
}

#[test]
fn i_progress_a_writer_and_a_reader_exclude_each_other_and_both_get_in() {
    side_by_side(PAIR, &[WRITE, READ]);
    side_by_side(PAIR, &[READ, WRITE]);
}

#[test]
fn two_readers_both_get_in() {
    side_by_side(PAIR, &[READ, READ]);
}

#[test]
fn i_progress_two_writers_and_a_reader_queue_up_and_all_get_in() {
    side_by_side(TRIO, &[WRITE, WRITE, READ]);
}

#[test]
fn i_progress_two_readers_and_a_writer_queue_up_and_all_get_in() {
    side_by_side(TRIO, &[READ, READ, WRITE]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn control_a_writer_with_the_lock_for_read_is_caught() {
    const WRITE_AS_READER: Work = |lock, canary| {
        let _guard = lock.read();
        canary.write();
    };
    side_by_side(PAIR, &[WRITE_AS_READER, READ]);
}
