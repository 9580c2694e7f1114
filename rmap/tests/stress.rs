//! Threads at full speed over one small MMU, for every scheme.
//!
//! What the model checker explores in small, this does in large and on the real
//! machine: long chains, all operations, many rmaps. It is also what the thread
//! sanitizer runs over.
#![cfg(not(loom))]

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use rmap::{Access, AccessedBits, Gfn, GfnRange, Level, Mapping, Mmu, MmuConfig, SchemeInfo, Vcpu};

const NPAGES: u64 = 4;
const ALIASES: u32 = 40;
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

    fn mapping(&mut self) -> Mapping {
        let level = Level::ALL[self.below(8).saturating_sub(5) as usize];
        let alias = self.below(u64::from(ALIASES)) as u32;
        Mapping::new(Gfn(self.below(NPAGES)), level, alias)
    }
}

/// One vCPU's work: mostly faults and zaps, now and then a whole rmap.
fn run_vcpu(mmu: &dyn Mmu, seed: u64) {
    let mut rng = Rng(seed);
    let mut vcpu = Vcpu::new();
    for _ in 0..OPS_PER_VCPU {
        let mapping = rng.mapping();
        match rng.below(100) {
            0..50 => {
                let fault = mmu.fault(&mut vcpu, mapping, Access::Write);
                assert!(fault.is_ok(), "seed {seed}: {fault:?}");
            }
            50..80 => {
                let zap = mmu.zap(&mut vcpu, mapping);
                assert!(zap.is_ok(), "seed {seed}: {zap:?}");
            }
            80..97 => drop(mmu.touch(mapping)),
            97 => {
                let unmap = mmu.unmap_range(&mut vcpu, GfnRange::single(mapping.gfn));
                assert!(unmap.is_ok(), "seed {seed}: {unmap:?}");
            }
            98 => drop(mmu.write_protect(GfnRange::single(mapping.gfn))),
            _ => assert!(
                mmu.chain_len(mapping.gfn, mapping.level).is_ok(),
                "seed {seed}"
            ),
        }
    }
}

fn run_ager(mmu: &dyn Mmu, stop: &AtomicBool) {
    let range = GfnRange::pages(Gfn(0), NPAGES);
    while !stop.load(Relaxed) {
        mmu.test_age(range);
        mmu.age(range);
    }
}

fn stress(scheme: &SchemeInfo, accessed: AccessedBits) {
    let mut config = MmuConfig::new(Gfn(0), NPAGES, ALIASES).with_accessed(accessed);
    config.recycle_threshold = ALIASES - 5;
    let mmu = (scheme.build)(&config).expect("the configuration is valid");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| run_ager(&*mmu, &stop));
        }
        let vcpus = [1, 2].map(|seed| {
            scope.spawn({
                let mmu = &*mmu;
                move || run_vcpu(mmu, seed)
            })
        });
        let results = vcpus.map(thread::ScopedJoinHandle::join);
        stop.store(true, Relaxed);
        assert!(
            results.iter().all(Result::is_ok),
            "{}: a vCPU failed",
            scheme.name
        );
    });
    assert_eq!(mmu.verify(), Ok(()), "{}", scheme.name);
    let mapped = Level::ALL.map(|level| mmu.chain_len(Gfn(0), level));
    assert!(
        mapped.iter().any(|len| *len != Ok(0)),
        "{}: nothing is mapped",
        scheme.name
    );
}

#[test]
fn i_chain_and_i_bit_survive_agers_beside_vcpus() {
    for scheme in rmap::schemes() {
        for accessed in [AccessedBits::AD, AccessedBits::AccessTracking] {
            stress(scheme, accessed);
        }
    }
}
