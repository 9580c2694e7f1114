//! The read side of real builds: nothing is freed that a reader inside may hold.
//!
//! One thing is linked; a reader enters and looks at it if it finds it linked, while
//! the other side unlinks it, and frees it when the epochs say so. Barriers are full
//! fences here, as where the kernel refuses membarrier.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed as Counted};
use std::sync::{Arc, LazyLock};

use loom::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};
use rmap::{
    reclaim::epochs::{Epochs, Reader},
    sync::Canary,
};

use crate::{controls::must_be_caught, model::explore};

/// The thing, its link, and the epochs.
struct World {
    epochs: Epochs,
    linked: AtomicBool,
    thing: Canary,
}

/// How a reader behaves.
#[derive(Clone, Copy)]
enum Manners {
    /// It announces itself before it reads.
    Announces,
    /// It does not announce itself.
    Sneaks,
    /// It reads the link first.
    AnnouncesLate,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epochs: Epochs::new(),
            linked: AtomicBool::new(true),
            thing: Canary::new(),
        })
    }

    /// Reads once; returns whether the thing was found.
    fn read(&self, reader: &Reader, manners: Manners) -> bool {
        let early = self.linked.load(Relaxed);
        let announces = !matches!(manners, Manners::Sneaks);
        if announces {
            self.epochs.enter(reader);
        }
        let found = match manners {
            Manners::AnnouncesLate => early,
            Manners::Announces | Manners::Sneaks => self.linked.load(Relaxed),
        };
        if found {
            self.thing.read();
        }
        if announces {
            reader.leave();
        }
        found
    }

    /// Unlinks the thing and frees it if `advances` are enough for that; returns
    /// whether they were.
    fn replace(&self, advances: u32) -> bool {
        self.linked.store(false, Relaxed);
        let stamp = self.epochs.stamp();
        let passed = (0..advances).any(|_| self.epochs.advance().has_passed(stamp));
        if passed {
            self.thing.retire();
        }
        passed
    }
}

fn history(manners: Manners, advances: u32, seen: &AtomicUsize, freed: &AtomicUsize) {
    let world = World::new();
    let reader = world.epochs.join();
    let side = {
        let world = Arc::clone(&world);
        thread::spawn(move || world.read(reader, manners))
    };
    let passed = world.replace(advances);
    let found = side.join().expect("the reader does not panic");
    seen.fetch_add(usize::from(found), Counted);
    freed.fetch_add(usize::from(passed), Counted);
}

#[test]
fn i_life_epochs_free_nothing_that_a_reader_holds() {
    static SEEN: LazyLock<AtomicUsize> = LazyLock::new(AtomicUsize::default);
    static FREED: LazyLock<AtomicUsize> = LazyLock::new(AtomicUsize::default);
    explore(|| history(Manners::Announces, 3, &SEEN, &FREED));
    assert!(
        SEEN.load(Counted) > 0,
        "no history had a reader that found it"
    );
    assert!(FREED.load(Counted) > 0, "no history freed anything");
}

#[test]
fn i_life_epochs_hold_for_a_reader_that_comes_again() {
    explore(|| {
        let world = World::new();
        let reader = world.epochs.join();
        let side = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.read(reader, Manners::Announces);
                world.read(reader, Manners::Announces);
            })
        };
        world.replace(2);
        side.join().expect("the reader does not panic");
    });
}

/// Who cuts off is seldom who frees: the stamp changes hands under a lock, after the
/// other side has advanced for reasons of its own.
fn handed_over(seen: &AtomicUsize, freed: &AtomicUsize) {
    let world = World::new();
    let reader = world.epochs.join();
    let waiting = Arc::new(Mutex::new(None));
    let reads = {
        let world = Arc::clone(&world);
        thread::spawn(move || world.read(reader, Manners::Announces))
    };
    let cuts_off = {
        let (world, waiting) = (Arc::clone(&world), Arc::clone(&waiting));
        thread::spawn(move || {
            world.linked.store(false, Relaxed);
            let stamp = world.epochs.stamp();
            *waiting.lock().expect("nobody panics with it") = Some(stamp);
        })
    };
    for _ in 0..2 {
        let _others_garbage = world.epochs.advance();
    }
    let stamp = *waiting.lock().expect("nobody panics with it");
    let passed = stamp.is_some_and(|stamp| world.epochs.advance().has_passed(stamp));
    if passed {
        world.thing.retire();
    }
    cuts_off.join().expect("the other side does not panic");
    let found = reads.join().expect("the reader does not panic");
    seen.fetch_add(usize::from(found), Counted);
    freed.fetch_add(usize::from(passed), Counted);
}

#[test]
fn i_life_epochs_hold_where_another_thread_frees() {
    static SEEN: LazyLock<AtomicUsize> = LazyLock::new(AtomicUsize::default);
    static FREED: LazyLock<AtomicUsize> = LazyLock::new(AtomicUsize::default);
    explore(|| handed_over(&SEEN, &FREED));
    assert!(
        SEEN.load(Counted) > 0,
        "no history had a reader that found it"
    );
    assert!(FREED.load(Counted) > 0, "no history freed anything");
}

#[test]
fn control_a_reader_that_does_not_announce_itself_is_caught() {
    for manners in [Manners::Sneaks, Manners::AnnouncesLate] {
        let nobody = || AtomicUsize::new(0);
        let message = must_be_caught(move || history(manners, 2, &nobody(), &nobody()));
        assert!(
            message.contains("Causality violation"),
            "caught for another reason: {message}"
        );
    }
}
