//! Nothing is allocated under mmu_lock by a mutator, under any scheme and any mmu_lock.
//!
//! Descriptors and page tables come from the vCPU's caches, topped up before the lock is
//! taken, and what is retired goes into room reserved before that. The allocator is the
//! test's own: it asks the lock, as lockdep would, whether the thread that allocates holds
//! it. Each operation has a thread and a vCPU of its own, so that whatever is done only
//! once is done here. Freeing under the lock is not looked at: the kernel allows it.
//!
//! Before and after the lock a mutator may allocate, and which schemes' do is held here
//! as well, since it is a part of what their operations cost.
#![cfg(not(any(loom, shuttle, miri)))]
#![cfg(debug_assertions)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ops::ControlFlow,
    sync::Arc,
    thread,
};

use rmap::{
    Access, FaultOutcome, Gfn, GfnRange, Level, LockKind, Mapping, Mmu, MmuConfig, Mmus,
    SchemeInfo, Vcpu,
    config::RECYCLE_THRESHOLD,
    head::{HeadWord, RmapHead},
    mmu_lock::is_held_here,
    scheme::{AgeOp, AgerContext, Scheme},
    schemes::bitlock::{self, Bitlock},
    shadow_mmu::ShadowMmu,
};

thread_local! {
    static UNDER_LOCK: Cell<u64> = const { Cell::new(0) };
    static ANYWHERE: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which notes what is allocated, and what of it under mmu_lock.
struct Watched;

fn note() {
    ANYWHERE.with(|count| count.set(count.get() + 1));
    if is_held_here() {
        UNDER_LOCK.with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: the system's allocator does it all; noting allocates nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: from the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: from the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: from the caller.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: from the caller.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The bit lock with a mutator that allocates while it holds mmu_lock.
enum Allocates {}

// SAFETY: I-life: the bit lock's.
unsafe impl Scheme for Allocates {
    type Guard<'a> = ();

    fn enter(_: AgerContext<'_>) {}

    fn walk(guard: &mut (), head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        Bitlock::walk(guard, head, op)
    }

    fn was_fast((): &()) -> bool {
        true
    }

    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        drop(std::hint::black_box(Box::new(0_u64)));
        Bitlock::lock_for_edit(head)
    }

    fn publish(head: &RmapHead, word: HeadWord) {
        Bitlock::publish(head, word);
    }
}

static ALLOCATES: SchemeInfo = SchemeInfo {
    name: "allocates",
    build: ShadowMmu::<Allocates>::boxed,
    ..bitlock::INFO
};

/// Pages of a 1 GiB page: all a [`Case`] may have.
const HUGEST: u64 = 512 * 512;
/// SPTEs of a full descriptor.
const FULL: u32 = 14;

/// Who does something, and to what.
struct Subject {
    scheme: &'static SchemeInfo,
    mmu: Arc<dyn Mmu>,
    vcpu: Vcpu,
    npages: u64,
}

impl Subject {
    fn slot(&self) -> GfnRange {
        GfnRange::pages(Gfn(0), self.npages)
    }

    fn fault(&mut self, gfn: u64, level: Level, alias: u32) -> FaultOutcome {
        let mapping = Mapping::new(Gfn(gfn), level, alias);
        let outcome = self.mmu.fault(&mut self.vcpu, mapping, Access::Write);
        outcome.expect("the mapping is valid")
    }

    /// As many SPTEs for gfn 0 as the scheme has, up to `len`.
    fn chain(&mut self, len: u32) {
        for alias in 0..self.scheme.aliases(len) {
            self.fault(0, Level::Size4K, alias);
        }
    }

    /// A page of that size at gfn 0.
    fn map(&mut self, level: Level) {
        self.fault(0, level, 0);
    }

    fn add(&mut self, alias: u32) {
        self.fault(0, Level::Size4K, self.scheme.aliases(alias + 1) - 1);
    }

    fn zap(&mut self, alias: u32) {
        let alias = self.scheme.aliases(alias + 1) - 1;
        let mapping = Mapping::new(Gfn(0), Level::Size4K, alias);
        let zapped = self.mmu.zap(&mut self.vcpu, mapping);
        assert!(zapped.expect("valid").was_present());
    }

    fn unmap(&mut self) {
        let slot = self.slot();
        let zapped = self.mmu.unmap_range(&mut self.vcpu, slot);
        assert!(zapped.expect("I-chain") > 0);
    }

    /// Makes an rmap of as many SPTEs as there may be.
    fn fill_up(&mut self) {
        self.chain(RECYCLE_THRESHOLD + self.scheme.tdp_aliases());
    }

    fn recycle(&mut self) {
        if self.scheme.mmus == Mmus::Tdp {
            return;
        }
        let alias = RECYCLE_THRESHOLD + self.scheme.tdp_aliases();
        let outcome = self.fault(0, Level::Size4K, alias);
        assert!(
            matches!(outcome, FaultOutcome::Recycled { .. }),
            "{outcome:?}"
        );
    }

    /// A page in each 2 MiB page.
    fn scatter(&mut self) {
        for gfn in (0..self.npages).step_by(512) {
            self.fault(gfn, Level::Size4K, 0);
        }
    }

    fn collapse(&mut self) {
        let slot = self.slot();
        let zapped = self.mmu.zap_collapsible(&mut self.vcpu, slot);
        assert!(zapped.expect("I-chain") > 0);
    }

    fn give_away(&mut self, level: Level) {
        let mapping = Mapping::new(Gfn(0), level, 0);
        let given = self.mmu.give_page_away(&mut self.vcpu, mapping);
        let changed = self.mmu.take_page_back(given.expect("it is there"));
        assert_eq!(changed, 0);
    }

    /// Enough garbage for what is deferred to be freed, many times.
    fn churn(&mut self) {
        for _ in 0..100 {
            self.scatter();
            self.chain(FULL + 2);
            self.collapse();
        }
    }
}

/// One operation, and how the MMU is before it.
struct Case {
    name: &'static str,
    npages: u64,
    aliases: u32,
    before: fn(&mut Subject),
    operation: fn(&mut Subject),
}

impl Case {
    /// On a rmap of few SPTEs.
    const fn new(
        name: &'static str,
        before: fn(&mut Subject),
        operation: fn(&mut Subject),
    ) -> Self {
        Self {
            name,
            npages: 1024,
            aliases: 32,
            before,
            operation,
        }
    }

    const fn on(self, npages: u64, aliases: u32) -> Self {
        Self {
            npages,
            aliases,
            ..self
        }
    }

    /// Allocations under the lock.
    fn run(&self, scheme: &'static SchemeInfo, lock: LockKind) -> u64 {
        let config = MmuConfig::new(Gfn(0), self.npages, self.aliases).with_lock(lock);
        let mmu = (scheme.build)(&config).expect("the configuration is valid");
        let mmu: Arc<dyn Mmu> = Arc::from(mmu);
        let subject = || Subject {
            scheme,
            mmu: Arc::clone(&mmu),
            vcpu: Vcpu::new(),
            npages: self.npages,
        };
        (self.before)(&mut subject());
        let operation = || {
            let mut subject = subject();
            UNDER_LOCK.with(|count| count.set(0));
            (self.operation)(&mut subject);
            UNDER_LOCK.with(Cell::get)
        };
        thread::scope(|scope| scope.spawn(operation).join()).expect("the operation succeeds")
    }
}

const CASES: &[Case] = &[
    Case::new("add the first", |_| (), |s| s.add(0)),
    Case::new("add the second", |s| s.chain(1), |s| s.add(1)),
    Case::new("append", |s| s.chain(2), |s| s.add(2)),
    Case::new(
        "put a descriptor in front",
        |s| s.chain(FULL),
        |s| s.add(FULL),
    ),
    Case::new("fault for nothing", |s| s.chain(2), |s| s.chain(2)),
    Case::new("remove the only one", |s| s.chain(1), |s| s.zap(0)),
    Case::new("remove from a chain", |s| s.chain(FULL), |s| s.zap(1)),
    Case::new("empty a descriptor", |s| s.chain(FULL + 1), |s| s.zap(FULL)),
    Case::new("unmap a chain", |s| s.chain(FULL + 1), Subject::unmap),
    Case::new("unmap a range", Subject::scatter, Subject::unmap),
    Case::new("recycle", Subject::fill_up, Subject::recycle).on(4, RECYCLE_THRESHOLD + 2),
    Case::new(
        "write-protect",
        |s| s.chain(FULL + 1),
        |s| _ = s.mmu.write_protect(s.slot()),
    ),
    Case::new("collapse", |s| s.chain(FULL + 1), Subject::collapse),
    Case::new("a larger page", Subject::scatter, |s| s.map(Level::Size2M)),
    Case::new("the largest page", Subject::scatter, |s| {
        s.map(Level::Size1G);
    })
    .on(HUGEST, 2),
    Case::new("split", |s| s.map(Level::Size1G), |s| s.add(0)),
    Case::new(
        "give away",
        |s| s.chain(FULL + 1),
        |s| s.give_away(Level::Size4K),
    ),
    Case::new("give away a larger one", Subject::scatter, |s| {
        s.give_away(Level::Size2M);
    }),
    Case::new("give away the largest", Subject::scatter, |s| {
        s.give_away(Level::Size1G);
    })
    .on(HUGEST, 2),
    Case::new("churn", |_| (), Subject::churn),
];

#[test]
fn nothing_is_allocated_under_mmu_lock() {
    for scheme in rmap::schemes().iter().chain(rmap::ablations()) {
        for lock in LockKind::ALL {
            for case in CASES {
                let allocations = case.run(scheme, lock);
                assert_eq!(allocations, 0, "{}, {lock}: {}", scheme.name, case.name);
            }
        }
    }
}

#[test]
fn control_an_allocation_under_mmu_lock_is_counted() {
    let [add, ..] = CASES else {
        panic!("there are cases");
    };
    for lock in LockKind::ALL {
        assert!(add.run(&ALLOCATES, lock) > 0, "{lock}: it was not seen");
    }
}

#[test]
fn descriptors_go_round_without_the_allocator_unless_they_have_to_wait_for_readers() {
    const ROUNDS: u64 = 1000;
    // A chain of 15 gives a descriptor up and takes one, one of 2 keeps its own.
    for (len, comes_and_goes) in [(FULL + 1, true), (2, false)] {
        for scheme in rmap::schemes() {
            let config = MmuConfig::new(Gfn(0), 64, 32);
            let mmu = (scheme.build)(&config).expect("the configuration is valid");
            let mut subject = Subject {
                scheme,
                mmu: Arc::from(mmu),
                vcpu: Vcpu::new(),
                npages: 64,
            };
            let len = len + scheme.tdp_aliases();
            subject.chain(len);
            subject.zap(len - 1);
            subject.add(len - 1);
            ANYWHERE.with(|count| count.set(0));
            for _ in 0..ROUNDS {
                subject.zap(len - 1);
                subject.add(len - 1);
            }
            let allocations = ANYWHERE.with(Cell::get);
            // One to a descriptor.
            let waits = comes_and_goes && scheme.defers_descs;
            let expected = if waits { ROUNDS - 40..2 * ROUNDS } else { 0..1 };
            let what = format!("{}, {len} SPTEs: {allocations}", scheme.name);
            assert!(expected.contains(&allocations), "{what}");
        }
    }
}
