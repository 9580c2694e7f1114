//! Threads at full speed over one small MMU, for every scheme.
//!
//! What the model checker explores in small, this does in large and on the real
//! machine: long chains, every operation of the trait, many rmaps. Only the check of
//! the whole MMU waits until nothing else runs, as it has to.
#![cfg(not(any(loom, shuttle)))]

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use rmap::{
    Access, AccessedBits, FaultOutcome, Gfn, GfnRange, Level, Mapping, Mmu, MmuConfig, RmapError,
    SchemeInfo, Vcpu,
};

/// The memslot: one whole 2 MiB page, so that its SPTEs are collapsible.
const SLOT: GfnRange = GfnRange {
    start: Gfn(0),
    end: Gfn(512),
};
/// The pages that are fought over.
const HOT: GfnRange = GfnRange {
    start: Gfn(0),
    end: Gfn(4),
};
/// Pages of at most one SPTE, faulted and zapped beside agers of all of them at once:
/// a scheme may walk a wide range otherwise than page by page.
const WIDE: GfnRange = GfnRange {
    start: Gfn(8),
    end: Gfn(40),
};
const VCPUS: u32 = 2;
/// Names schemes to leave out, separated by commas: ThreadSanitizer knows the
/// language's memory model and not the machine's, on which a scheme may rely.
const WITHOUT: &str = "RMAPSCOPE_STRESS_WITHOUT";
/// Names the only schemes to run: those left out above are a negative control.
const ONLY: &str = "RMAPSCOPE_STRESS_ONLY";
/// Columns of shadow pages all vCPUs use; each has one more to itself.
const SHARED_ALIASES: u32 = 40;
const OPS_PER_VCPU: u32 = 20_000;

/// A small generator of our own, so that a failure names the seed that shows it.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn level(&mut self) -> Level {
        Level::ALL[self.below(8).saturating_sub(5) as usize]
    }

    /// The one place of a page of the wide range.
    fn lone_mapping(&mut self) -> Mapping {
        let gfn = WIDE.start.0 + self.below(WIDE.npages());
        Mapping::new(Gfn(gfn), Level::Size4K, 0)
    }

    /// A place in a shared column or in the vCPU's own, where there is one.
    fn mapping(&mut self, scheme: &SchemeInfo, own_alias: u32) -> Mapping {
        let alias = self.below(u64::from(SHARED_ALIASES) + 1) as u32;
        let alias = if alias < SHARED_ALIASES {
            alias
        } else {
            own_alias
        };
        let alias = alias.min(scheme.max_aliases() - 1);
        Mapping::new(Gfn(self.below(HOT.end.0)), self.level(), alias)
    }
}

/// How often the rarer things happened, so that a run without them is noticed.
#[derive(Debug, Default)]
struct Tally {
    recycled: u32,
    protected: u64,
    collapsed: u64,
    reused: u32,
}

/// A vCPU thread, with a column of shadow pages that it alone faults in and touches:
/// only such a page may be given away, for nobody may touch it meanwhile.
struct Worker<'a> {
    mmu: &'a dyn Mmu,
    scheme: &'a SchemeInfo,
    seed: u64,
    rng: Rng,
    vcpu: Vcpu,
    own_alias: u32,
    tally: Tally,
}

impl<'a> Worker<'a> {
    fn new(mmu: &'a dyn Mmu, scheme: &'a SchemeInfo, number: u32) -> Self {
        let seed = u64::from(number) + 1;
        Self {
            mmu,
            scheme,
            seed,
            rng: Rng(seed),
            vcpu: Vcpu::new(),
            own_alias: (SHARED_ALIASES + number).min(scheme.max_aliases() - 1),
            tally: Tally::default(),
        }
    }

    fn run(mut self) -> Tally {
        for _ in 0..OPS_PER_VCPU {
            self.step();
        }
        self.tally
    }

    /// Mostly faults, zaps and touches, now and then a whole rmap or more.
    fn step(&mut self) {
        let Self { mmu, seed, .. } = *self;
        let mapping = self.rng.mapping(self.scheme, self.own_alias);
        let page = GfnRange::single(mapping.gfn);
        match self.rng.below(1000) {
            0..500 => self.fault(mapping),
            500..650 => self.zap(mapping),
            650..770 => {
                let lone = self.rng.lone_mapping();
                self.fault(lone);
            }
            770..850 => {
                let lone = self.rng.lone_mapping();
                self.zap(lone);
            }
            850..970 => drop(mmu.touch(mapping)),
            970..975 => {
                let unmap = mmu.unmap_range(&mut self.vcpu, page);
                assert!(unmap.is_ok(), "seed {seed}: {unmap:?}");
            }
            975..982 => self.tally.protected += mmu.write_protect(page),
            982..985 => mmu.set_young_share(HOT, 500, seed),
            985..988 => mmu.set_young_share(WIDE, 500, seed),
            988..993 => self.reuse_page(mapping.level),
            993 => {
                let zapped = mmu.zap_collapsible(&mut self.vcpu, SLOT);
                assert!(zapped.is_ok(), "seed {seed}: {zapped:?}");
                self.tally.collapsed += zapped.unwrap_or(0);
            }
            994..997 => drop((mmu.deferred_descs(), mmu.deferred_tables())),
            _ => {
                let len = mmu.chain_len(mapping.gfn, mapping.level);
                assert!(len.is_ok(), "seed {seed}: {len:?}");
            }
        }
    }

    /// It worked, or a page was away that this vCPU has not got to itself.
    fn assert_done<T: std::fmt::Debug>(&self, result: &Result<T, RmapError>) {
        let own_pages = self.scheme.max_aliases() > SHARED_ALIASES + VCPUS;
        let is_away = matches!(result, Err(RmapError::PageGivenAway(_)));
        assert!(
            result.is_ok() || is_away && !own_pages,
            "seed {}: {result:?}",
            self.seed
        );
    }

    fn fault(&mut self, mapping: Mapping) {
        let fault = self.mmu.fault(&mut self.vcpu, mapping, Access::Write);
        self.assert_done(&fault);
        let recycled = matches!(fault, Ok(FaultOutcome::Recycled { .. }));
        self.tally.recycled += u32::from(recycled);
    }

    fn zap(&mut self, mapping: Mapping) {
        let zap = self.mmu.zap(&mut self.vcpu, mapping);
        self.assert_done(&zap);
    }

    /// Fills a page of the vCPU's own, gives it away and takes it back.
    fn reuse_page(&mut self, level: Level) {
        let page = Mapping::new(Gfn(0), level, self.own_alias);
        self.fault(page);
        let given = self.mmu.give_page_away(&mut self.vcpu, page);
        self.assert_done(&given);
        let Ok(given) = given else {
            return;
        };
        thread::yield_now();
        let changed = self.mmu.take_page_back(given);
        assert!(
            changed == 0 || !self.scheme.sound,
            "I-life: {}: {changed} words of a stranger were changed",
            self.scheme.name
        );
        self.tally.reused += 1;
    }
}

fn run_ager(mmu: &dyn Mmu, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        for range in [HOT, WIDE] {
            mmu.test_age(range);
            mmu.age(range);
            mmu.age_fast_only(range);
            mmu.age_before_eviction(range);
        }
    }
}

fn stress(scheme: &SchemeInfo, accessed: AccessedBits) {
    let aliases = SHARED_ALIASES + VCPUS;
    let mut config = MmuConfig::new(SLOT.start, SLOT.npages(), aliases).with_accessed(accessed);
    config.recycle_threshold = SHARED_ALIASES - 10;
    let mmu = (scheme.build)(&config).expect("the configuration is valid");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| run_ager(&*mmu, &stop));
        }
        let vcpus: Vec<_> = (0..VCPUS)
            .map(|number| Worker::new(&*mmu, scheme, number))
            .map(|worker| scope.spawn(|| worker.run()))
            .collect();
        let tallies: Vec<_> = vcpus
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Relaxed);
        for tally in tallies {
            let tally = tally.unwrap_or_else(|_| panic!("{}: a vCPU failed", scheme.name));
            let Tally {
                recycled,
                protected,
                collapsed,
                reused,
            } = tally;
            assert!(
                (recycled > 0 || scheme.max_aliases() == 1)
                    && protected > 0
                    && collapsed > 0
                    && reused > 0,
                "{}: something never happened: {tally:?}",
                scheme.name
            );
        }
    });
    assert_eq!(mmu.verify(), Ok(()), "{}", scheme.name);
}

#[test]
fn i_chain_i_bit_and_i_life_survive_agers_beside_vcpus() {
    let named = |variable: &str| std::env::var(variable).ok();
    let (without, only) = (named(WITHOUT), named(ONLY));
    let holds = |names: &Option<String>, scheme: &SchemeInfo| {
        names
            .as_ref()
            .map(|names| names.split(',').any(|name| name == scheme.name))
    };
    let wanted = |scheme: &&SchemeInfo| {
        holds(&only, scheme).unwrap_or(true) && !holds(&without, scheme).unwrap_or(false)
    };
    for scheme in rmap::schemes().iter().filter(wanted) {
        for accessed in [AccessedBits::AD, AccessedBits::AccessTracking] {
            stress(scheme, accessed);
        }
    }
}
