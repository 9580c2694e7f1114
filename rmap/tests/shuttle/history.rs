//! One random history: what every thread does, and what must be true throughout.
//!
//! The memslot has a region for each purpose, one 1 GiB page of the model each (the
//! models' page tables have two entries, so that is four gfns):
//!
//! | region | who changes it | what it shows |
//! |---|---|---|
//! | shared | all vCPUs, at all levels | I-chain, I-bit, I-zap |
//! | one per vCPU | that vCPU alone; its shadow pages are given away and come back | I-life |
//! | pinned | one SPTE stays, others beside it come and go | I-young |

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rmap::{
    Access, AccessedBits, FaultOutcome, Gfn, GfnRange, Level, Mapping, Mmu, MmuConfig, SchemeInfo,
    Vcpu,
};
use shuttle::{
    rand::{Rng, thread_rng},
    thread,
};

/// gfns of one region.
const REGION_NPAGES: u64 = Level::Size1G.npages();
const VCPUS: u64 = 2;
const REGIONS: u64 = VCPUS + 2;
const SHARED: u64 = 0;
const PINNED: u64 = REGIONS - 1;

const OPS_PER_VCPU: u32 = 6;
const CALLBACKS_PER_AGER: u32 = 4;
/// The most SPTEs of one gfn: with four, shared rmaps are recycled now and then.
const ALIASES: u32 = 4;
const RECYCLE_THRESHOLD: u32 = 3;

/// How often what makes histories worth their while has happened to a scheme. No part of
/// the model, which does not schedule it.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    recycled: AtomicU64,
    collapsed: AtomicU64,
    reused: AtomicU64,
}

impl Happened {
    /// What has never happened and could have.
    pub(crate) fn never(&self, subject: Subject) -> Option<&'static str> {
        let none = |count: &AtomicU64| count.load(Relaxed) == 0;
        let shadow_aliases = subject.aliases - subject.tdp_aliases;
        if none(&self.recycled) && shadow_aliases > subject.recycle_threshold() {
            return Some("no rmap was recycled");
        }
        if none(&self.collapsed) {
            return Some("nothing was collapsed");
        }
        none(&self.reused).then_some("no page was given away")
    }
}

/// Builds an MMU; called inside the model.
pub(crate) type Build = fn(&MmuConfig) -> Result<Box<dyn Mmu>, rmap::RmapError>;

/// What a scheme promises, as far as a history can hold it to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) build: Build,
    pub(crate) aliases: u32,
    /// Of these, SPTEs that are the TDP MMU's and in no rmap.
    pub(crate) tdp_aliases: u32,
    pub(crate) consistent: bool,
    pub(crate) exact: bool,
    pub(crate) happened: &'static Happened,
}

impl Subject {
    pub(crate) fn of(scheme: &SchemeInfo) -> Self {
        Self {
            build: scheme.build,
            aliases: scheme.aliases(ALIASES),
            tdp_aliases: scheme.tdp_aliases(),
            consistent: scheme.consistent,
            exact: scheme.exact,
            happened: Box::leak(Box::default()),
        }
    }

    /// SPTEs of an rmap beyond which it is recycled.
    fn recycle_threshold(self) -> u32 {
        RECYCLE_THRESHOLD - self.tdp_aliases
    }
}

fn region(number: u64) -> GfnRange {
    GfnRange::pages(Gfn(number * REGION_NPAGES), REGION_NPAGES)
}

fn below(n: u64) -> u64 {
    thread_rng().gen_range(0..n)
}

/// One history, to be run inside a model: vCPUs, an ager of everything that is
/// not pinned, an ager of the pinned gfn, and the hardware.
pub(crate) fn random_history(subject: Subject) {
    let mut config = MmuConfig::new(Gfn(0), REGIONS * REGION_NPAGES, subject.aliases);
    config.recycle_threshold = subject.recycle_threshold();
    if below(2) == 0 {
        config = config.with_accessed(AccessedBits::AccessTracking);
    }
    let mmu = (subject.build)(&config).expect("the configuration is valid");
    let mmu: Arc<dyn Mmu> = Arc::from(mmu);
    let pinned = Pinned::install(&*mmu, subject);
    let mut threads: Vec<_> = (0..VCPUS)
        .map(|number| {
            let mmu = Arc::clone(&mmu);
            thread::spawn(move || WorkerVcpu::new(&*mmu, number, pinned).run())
        })
        .collect();
    let others: [fn(&dyn Mmu, Pinned); 3] = [age_all_but_pinned, age_pinned, touch];
    threads.extend(others.map(|run| {
        let mmu = Arc::clone(&mmu);
        thread::spawn(move || run(&*mmu, pinned))
    }));
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    check_at_rest(&*mmu, pinned);
}

/// The SPTE that stays.
#[derive(Debug, Clone, Copy)]
struct Pinned {
    subject: Subject,
    mapping: Mapping,
}

impl Pinned {
    /// Maps it, with others beside it in its rmap, before or behind.
    fn install(mmu: &dyn Mmu, subject: Subject) -> Self {
        let alias = below(u64::from(subject.aliases.min(2))) as u32;
        let mapping = Mapping::new(region(PINNED).start, Level::Size4K, alias);
        let pinned = Self { subject, mapping };
        let mut vcpu = Vcpu::new();
        for _ in 0..below(3) {
            if let Some(beside) = pinned.beside() {
                fault(mmu, &mut vcpu, beside, subject.happened);
            }
        }
        fault(mmu, &mut vcpu, mapping, subject.happened);
        pinned
    }

    /// Another SPTE of the same rmap: few enough that it is never recycled.
    fn beside(self) -> Option<Mapping> {
        let aliases = u64::from(self.subject.aliases.min(RECYCLE_THRESHOLD));
        let alias = below(aliases) as u32;
        let mapping = Mapping {
            alias,
            ..self.mapping
        };
        (alias != self.mapping.alias).then_some(mapping)
    }
}

fn fault(mmu: &dyn Mmu, vcpu: &mut Vcpu, mapping: Mapping, happened: &Happened) {
    let access = if below(2) == 0 {
        Access::Read
    } else {
        Access::Write
    };
    let outcome = mmu.fault(vcpu, mapping, access);
    match outcome {
        Ok(FaultOutcome::Recycled { .. }) => happened.recycled.fetch_add(1, Relaxed),
        Ok(_) => 0,
        Err(error) => panic!("I-chain: fault: {error}"),
    };
}

fn zap(mmu: &dyn Mmu, vcpu: &mut Vcpu, mapping: Mapping) {
    let outcome = mmu.zap(vcpu, mapping);
    assert!(outcome.is_ok(), "I-chain: zap: {outcome:?}");
}

/// One vCPU thread.
struct WorkerVcpu<'a> {
    mmu: &'a dyn Mmu,
    vcpu: Vcpu,
    own: u64,
    pinned: Pinned,
}

impl<'a> WorkerVcpu<'a> {
    fn new(mmu: &'a dyn Mmu, number: u64, pinned: Pinned) -> Self {
        Self {
            mmu,
            vcpu: Vcpu::new(),
            own: number + 1,
            pinned,
        }
    }

    fn happened(&self) -> &'static Happened {
        self.pinned.subject.happened
    }

    fn fault(&mut self, mapping: Mapping) {
        let happened = self.happened();
        fault(self.mmu, &mut self.vcpu, mapping, happened);
    }

    fn run(mut self) {
        for _ in 0..OPS_PER_VCPU {
            self.step();
        }
    }

    /// Mostly faults and zaps, now and then a whole rmap or more.
    fn step(&mut self) {
        let number = if below(2) == 0 { SHARED } else { self.own };
        let place = self.place(number);
        match below(16) {
            0..5 => self.fault(place),
            5..8 => zap(self.mmu, &mut self.vcpu, place),
            8 | 9 => self.fault_or_zap_beside_pinned(),
            10 => {
                let range = GfnRange::pages(region(number).start, 1 + below(REGION_NPAGES));
                let unmapped = self.mmu.unmap_range(&mut self.vcpu, range);
                assert!(unmapped.is_ok(), "I-chain: unmap: {unmapped:?}");
            }
            11 => drop(self.mmu.write_protect(region(number))),
            12 => {
                let zapped = self.mmu.zap_collapsible(&mut self.vcpu, region(number));
                let zapped = zapped.expect("I-chain: collapse");
                self.happened().collapsed.fetch_add(zapped as u64, Relaxed);
            }
            _ => self.reuse_page(),
        }
    }

    fn place(&self, number: u64) -> Mapping {
        let gfn = Gfn(region(number).start.0 + below(REGION_NPAGES));
        // Half of all faults hit one rmap, and most of them small pages.
        let gfn = if below(2) == 0 {
            region(number).start
        } else {
            gfn
        };
        let level = Level::ALL[below(8).saturating_sub(5) as usize];
        let alias = below(u64::from(self.pinned.subject.aliases)) as u32;
        Mapping::new(gfn, level, alias)
    }

    fn fault_or_zap_beside_pinned(&mut self) {
        match self.pinned.beside() {
            Some(beside) if below(2) == 0 => {
                self.fault(beside);
            }
            Some(beside) => zap(self.mmu, &mut self.vcpu, beside),
            None => {}
        }
    }

    /// Gives a shadow page of its own region away and takes it back.
    fn reuse_page(&mut self) {
        let start = region(self.own).start;
        let level = [Level::Size4K, Level::Size2M][below(4).saturating_sub(2) as usize];
        let alias = below(u64::from(self.pinned.subject.aliases)) as u32;
        let place = Mapping::new(start, level, alias);
        self.fault(place);
        let given = self.mmu.give_page_away(&mut self.vcpu, place);
        thread::yield_now();
        let changed = match given {
            Ok(given) => {
                self.happened().reused.fetch_add(1, Relaxed);
                self.mmu.take_page_back(given)
            }
            Err(error) => panic!("I-chain: give_page_away: {error}"),
        };
        assert_eq!(changed, 0, "I-life: a stranger's words were changed");
    }
}

fn age_all_but_pinned(mmu: &dyn Mmu, _: Pinned) {
    let end = region(PINNED).start;
    for _ in 0..CALLBACKS_PER_AGER {
        let start = Gfn(below(REGIONS - 1) * REGION_NPAGES);
        if below(4) == 0 {
            mmu.test_age(GfnRange::new(start, end));
        } else {
            mmu.age(GfnRange::new(start, end));
        }
    }
}

/// Nobody else ages the pinned gfn, so what was touched is still young.
fn age_pinned(mmu: &dyn Mmu, pinned: Pinned) {
    let range = GfnRange::single(pinned.mapping.gfn);
    for _ in 0..CALLBACKS_PER_AGER {
        assert!(mmu.touch(pinned.mapping), "I-zap: the pinned SPTE is gone");
        let test_only = below(2) == 0;
        let aging = if test_only {
            mmu.test_age(range)
        } else {
            mmu.age(range)
        };
        assert!(
            aging.young || !pinned.subject.consistent,
            "I-young: a young SPTE that stays mapped was missed"
        );
    }
}

/// The hardware uses pages that nobody gives away.
fn touch(mmu: &dyn Mmu, pinned: Pinned) {
    for _ in 0..CALLBACKS_PER_AGER {
        let gfn = Gfn(region(SHARED).start.0 + below(REGION_NPAGES));
        let alias = below(u64::from(pinned.subject.aliases)) as u32;
        mmu.touch(Mapping::new(gfn, Level::Size4K, alias));
    }
}

/// Says which invariant is broken, if one is.
fn verify(mmu: &dyn Mmu) {
    if let Err(violation) = mmu.verify() {
        panic!("{violation}");
    }
}

fn check_at_rest(mmu: &dyn Mmu, pinned: Pinned) {
    verify(mmu);
    assert_eq!(
        mmu.deferred_descs(),
        0,
        "I-life: every deferred descriptor is freed in the end"
    );
    let whole = GfnRange::pages(Gfn(0), REGIONS * REGION_NPAGES);
    // Once more for schemes that stop at a fast answer.
    mmu.age(whole);
    mmu.age(whole);
    assert_eq!(mmu.deferred_tables(), 0, "I-life: the same of tables");
    assert!(!mmu.test_age(whole).young, "everything was just aged");
    assert!(mmu.touch(pinned.mapping), "I-zap: the pinned SPTE is gone");
    let young = mmu.test_age(GfnRange::single(pinned.mapping.gfn)).young;
    assert!(young || !pinned.subject.exact, "I-young at rest");
    let mut vcpu = Vcpu::new();
    let unmapped = mmu.unmap_range(&mut vcpu, whole);
    assert!(unmapped.is_ok(), "I-chain: {unmapped:?}");
    verify(mmu);
    assert!(!mmu.test_age(whole).young, "I-zap: a zapped SPTE is young");
}
