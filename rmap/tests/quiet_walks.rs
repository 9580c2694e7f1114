//! No walk allocates and none makes a system call, under any scheme and any mmu_lock.
//!
//! Allocations are counted by an allocator of the test's own. System calls are the
//! kernel's to notice: a child process walks under a seccomp filter that allows none
//! and is killed by the first. A walk that panics allocates its message and writes it,
//! so either test would see that too.
//!
//! Two things are left out, as they are in `docs/rmap.md`. A thread's first walk on a
//! read side gets it its word, once. And whoever waits for a *contended* mmu_lock may
//! give its CPU away or sleep; nothing contends here.
#![cfg(all(target_os = "linux", not(any(loom, shuttle, miri))))]

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use rmap::{
    Access, AccessedBits, Gfn, GfnRange, Level, LockKind, Mapping, Mmu, MmuConfig, SchemeInfo,
    Vcpu,
    head::{HeadWord, RmapHead},
    scheme::{AgeOp, AgerContext, Scheme},
    schemes::bitlock::{self, Bitlock},
    shadow_mmu::ShadowMmu,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

const NPAGES: u64 = 1024;
const SLOT: GfnRange = GfnRange {
    start: Gfn(0),
    end: Gfn(NPAGES),
};
/// Pages with one SPTE each, from gfn 0 on.
const LONE: u64 = 512;
/// Chains of these lengths, one page each, from gfn [`LONE`] on: one descriptor, a full
/// one, two, three.
const CHAINS: [u32; 5] = [2, 14, 15, 29, 32];
/// Which scheme a child process walks under.
const CHILD: &str = "RMAPSCOPE_QUIET_WALKS_CHILD";
const CHILD_TEST: &str = "child_walks_under_a_filter";
/// The child could not be confined.
const NO_FILTER: i32 = 3;
/// What the kernel kills with.
const SIGSYS: i32 = 31;

/// The bit lock with something in its walk that no walk may do.
enum Noisy<const CALLS: bool> {}

// SAFETY: I-life: the bit lock's.
unsafe impl<const CALLS: bool> Scheme for Noisy<CALLS> {
    type Guard<'a> = ();

    fn enter(_: AgerContext<'_>) {}

    fn walk(guard: &mut (), head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        if CALLS {
            thread::yield_now();
        } else {
            drop(std::hint::black_box(Box::new(0_u64)));
        }
        Bitlock::walk(guard, head, op)
    }

    fn was_fast((): &()) -> bool {
        true
    }

    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        Bitlock::lock_for_edit(head)
    }

    fn publish(head: &RmapHead, word: HeadWord) {
        Bitlock::publish(head, word);
    }
}

static ALLOCATES: SchemeInfo = SchemeInfo {
    name: "allocates",
    build: ShadowMmu::<Noisy<false>>::boxed,
    ..bitlock::INFO
};

static CALLS: SchemeInfo = SchemeInfo {
    name: "calls",
    build: ShadowMmu::<Noisy<true>>::boxed,
    ..bitlock::INFO
};

fn every_scheme() -> impl Iterator<Item = &'static SchemeInfo> {
    rmap::schemes().iter().chain(rmap::ablations())
}

/// One MMU for each lock and kind of Accessed bits, with lone SPTEs, chains and pages of
/// every level.
fn mmus(scheme: &SchemeInfo) -> Vec<Box<dyn Mmu>> {
    let kinds = [AccessedBits::AD, AccessedBits::AccessTracking];
    let each = LockKind::ALL.map(|lock| kinds.map(|accessed| (lock, accessed)));
    let mmus = each.into_iter().flatten().map(|(lock, accessed)| {
        let config = MmuConfig::new(SLOT.start, NPAGES, 32)
            .with_lock(lock)
            .with_accessed(accessed);
        let mmu = (scheme.build)(&config).expect("the configuration is valid");
        fill(&*mmu, scheme);
        mmu
    });
    mmus.collect()
}

fn fill(mmu: &dyn Mmu, scheme: &SchemeInfo) {
    let mut vcpu = Vcpu::new();
    let mut fault = |gfn, level, alias| {
        let fault = mmu.fault(
            &mut vcpu,
            Mapping::new(Gfn(gfn), level, alias),
            Access::Write,
        );
        assert!(fault.is_ok(), "{fault:?}");
    };
    // Where a gfn has one place only, smaller pages later take the larger one's.
    fault(0, Level::Size1G, 0);
    fault(0, Level::Size2M, 0);
    for gfn in 0..LONE {
        fault(gfn, Level::Size4K, 0);
    }
    for (len, gfn) in CHAINS.into_iter().zip(LONE..) {
        for alias in 0..scheme.aliases(len) {
            fault(gfn, Level::Size4K, alias);
        }
    }
}

/// Every callback, on single pages and on the whole slot, of young pages and of old.
fn walk(mmu: &dyn Mmu, scheme: &SchemeInfo) {
    let pages = [0, 1, LONE - 1].into_iter();
    let chains = LONE..LONE + CHAINS.len() as u64;
    let singles = pages.chain(chains).map(|gfn| GfnRange::single(Gfn(gfn)));
    for range in singles.chain([SLOT, GfnRange::single(Gfn(NPAGES))]) {
        let callbacks = [
            |mmu: &dyn Mmu, range| mmu.test_age(range),
            |mmu: &dyn Mmu, range| mmu.age_fast_only(range),
            |mmu: &dyn Mmu, range| mmu.age_before_eviction(range),
            |mmu: &dyn Mmu, range| mmu.age(range),
        ];
        for callback in callbacks {
            for alias in 0..scheme.aliases(32) {
                mmu.touch(Mapping::new(range.start, Level::Size4K, alias));
            }
            std::hint::black_box(callback(mmu, range));
            std::hint::black_box(callback(mmu, range));
        }
    }
}

/// The thread's first read side: of all callbacks this one enters it whatever the scheme,
/// where the scheme has one at all.
fn get_word(mmu: &dyn Mmu) {
    mmu.age_fast_only(SLOT);
}

/// Allocations of the callbacks under one scheme.
fn allocations(scheme: &SchemeInfo) -> u64 {
    let mmus = mmus(scheme);
    let mut count = 0;
    for mmu in &mmus {
        get_word(&**mmu);
        count += allocation_counter::measure(|| walk(&**mmu, scheme)).count_total;
    }
    count
}

#[test]
fn no_walk_allocates() {
    for scheme in every_scheme() {
        assert_eq!(allocations(scheme), 0, "{}", scheme.name);
    }
}

#[test]
fn control_a_walk_that_allocates_is_counted() {
    assert!(allocations(&ALLOCATES) > 0, "the allocations were not seen");
}

/// A filter that allows no system call at all.
fn nothing_allowed() -> BpfProgram {
    let architecture = TargetArch::try_from(std::env::consts::ARCH);
    let filter = SeccompFilter::new(
        BTreeMap::new(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture.expect("seccompiler knows this machine"),
    );
    let filter = filter.expect("the filter is valid");
    filter.try_into().expect("the filter can be compiled")
}

/// The child's part. Only the thread that walks is confined, and it can do nothing more
/// than say so and spin: even its end would be a system call.
#[test]
#[ignore = "the child process of the tests beside it"]
fn child_walks_under_a_filter() {
    static DONE: AtomicBool = AtomicBool::new(false);
    static REFUSED: AtomicBool = AtomicBool::new(false);
    let name = std::env::var(CHILD).expect("its parent names a scheme");
    let mut schemes = every_scheme().chain([&CALLS]);
    let scheme = schemes.find(|scheme| scheme.name == name);
    let scheme = scheme.expect("its parent knows the schemes");
    thread::spawn(move || {
        let mmus = mmus(scheme);
        let filter = nothing_allowed();
        mmus.iter().for_each(|mmu| get_word(&**mmu));
        if seccompiler::apply_filter(&filter).is_err() {
            REFUSED.store(true, Relaxed);
            return;
        }
        mmus.iter().for_each(|mmu| walk(&**mmu, scheme));
        DONE.store(true, Relaxed);
        loop {
            std::hint::spin_loop();
        }
    });
    while !DONE.load(Relaxed) {
        if REFUSED.load(Relaxed) {
            std::process::exit(NO_FILTER);
        }
        thread::sleep(Duration::from_millis(1));
    }
    std::process::exit(0);
}

fn child(scheme: &str) -> ExitStatus {
    let own = std::env::current_exe().expect("the test knows its own program");
    let mut command = Command::new(own);
    command.args(["--exact", CHILD_TEST, "--ignored", "--nocapture"]);
    let output = command.env(CHILD, scheme).output();
    let output = output.expect("the test's own program can be started");
    assert_ne!(
        output.status.code(),
        Some(NO_FILTER),
        "the kernel refuses seccomp filters, so this cannot be checked here"
    );
    output.status
}

#[test]
fn no_walk_makes_a_system_call() {
    for scheme in every_scheme() {
        let status = child(scheme.name);
        assert_ne!(status.signal(), Some(SIGSYS), "{}: a walk did", scheme.name);
        assert!(status.success(), "{}: {status}", scheme.name);
    }
}

#[test]
fn control_a_walk_that_makes_a_system_call_is_killed() {
    assert_eq!(child(CALLS.name).signal(), Some(SIGSYS));
}
