//! Every scheme against a plain map, over random sequences of all operations.
//!
//! One thread: what is checked here is that the answers are right. What may happen
//! at the same time is the model checker's business.
#![cfg(not(any(loom, shuttle)))]

mod oracle;

use oracle::Oracle;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rmap::{
    Access, AccessedBits, FaultOutcome, Gfn, GfnRange, Level, LockKind, Mapping, MemslotConfig,
    Mmu, MmuConfig, RmapError, SchemeInfo, Vcpu, Zapped,
};

/// Enough columns for a chain of three descriptors.
const ALIASES: u32 = 32;

/// The recycling threshold of the MMUs under test: chains do reach it.
const RECYCLE_THRESHOLD: u32 = 30;

/// Two slots that share a 1 GiB page, start in the middle of 2 MiB pages, and leave
/// a gap; and one beyond.
const SLOTS: [MemslotConfig; 3] = [
    MemslotConfig {
        base_gfn: Gfn(510),
        npages: 4,
    },
    MemslotConfig {
        base_gfn: Gfn(1023),
        npages: 2,
    },
    MemslotConfig {
        base_gfn: Gfn(1 << 18),
        npages: 3,
    },
];

#[derive(Debug, Clone)]
enum Op {
    Fault(Mapping, bool),
    /// Faults in many aliases of one page, so that chains get long.
    FaultMany(Mapping, u32),
    Zap(Mapping),
    Unmap(GfnRange),
    Age(GfnRange),
    AgeBeforeEviction(GfnRange),
    TestAge(GfnRange),
    Touch(Mapping),
    WriteProtect(GfnRange),
    SetYoungShare(GfnRange, bool),
    /// Gives a shadow page away, works on it in vain, and takes it back.
    ReusePage(Mapping),
}

/// Mostly gfns in the slots, sometimes beside them.
fn gfn() -> impl Strategy<Value = Gfn> {
    prop_oneof![
        8 => 510..514_u64,
        4 => 1023..1025_u64,
        4 => (1_u64 << 18)..(1 << 18) + 3,
        1 => prop_oneof![Just(0), Just(509), Just(514), Just(1025), Just(u64::MAX)],
    ]
    .prop_map(Gfn)
}

fn mapping() -> impl Strategy<Value = Mapping> {
    let level = prop::sample::select(Level::ALL.to_vec());
    let alias = prop_oneof![20 => 0..ALIASES, 1 => Just(ALIASES), 1 => Just(u32::MAX)];
    (gfn(), level, alias).prop_map(|(gfn, level, alias)| Mapping::new(gfn, level, alias))
}

fn range() -> impl Strategy<Value = GfnRange> {
    let npages = prop_oneof![6 => 1..4_u64, 1 => 4..2000_u64, 1 => Just(0), 1 => Just(u64::MAX)];
    (gfn(), npages).prop_map(|(start, npages)| GfnRange::pages(start, npages))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (mapping(), any::<bool>()).prop_map(|(mapping, write)| Op::Fault(mapping, write)),
        4 => (mapping(), 1..ALIASES).prop_map(|(mapping, n)| Op::FaultMany(mapping, n)),
        6 => mapping().prop_map(Op::Zap),
        2 => range().prop_map(Op::Unmap),
        4 => range().prop_map(Op::Age),
        2 => range().prop_map(Op::AgeBeforeEviction),
        4 => range().prop_map(Op::TestAge),
        4 => mapping().prop_map(Op::Touch),
        1 => range().prop_map(Op::WriteProtect),
        1 => (range(), any::<bool>()).prop_map(|(range, young)| Op::SetYoungShare(range, young)),
        1 => mapping().prop_map(Op::ReusePage),
    ]
}

/// An MMU and what it should be.
struct Pair {
    mmu: Box<dyn Mmu>,
    vcpu: Vcpu,
    oracle: Oracle,
}

impl Pair {
    fn new(scheme: &SchemeInfo, accessed: AccessedBits, lock: LockKind) -> Self {
        let config = MmuConfig {
            memslots: SLOTS.to_vec(),
            aliases: ALIASES,
            accessed,
            lock,
            recycle_threshold: RECYCLE_THRESHOLD,
        };
        Self {
            mmu: (scheme.build)(&config).expect("the configuration is valid"),
            vcpu: Vcpu::new(),
            oracle: Oracle::new(&config, scheme),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Fault(mapping, write) => self.fault(mapping, write)?,
            Op::FaultMany(mapping, n) => {
                for alias in 0..n {
                    self.fault(Mapping { alias, ..mapping }, false)?;
                }
            }
            Op::Zap(mapping) => self.zap(mapping)?,
            Op::Unmap(range) => {
                let expected = self.oracle.unmap(range);
                prop_assert_eq!(self.mmu.unmap_range(&mut self.vcpu, range), Ok(expected));
            }
            Op::Age(range) => self.age(range)?,
            Op::AgeBeforeEviction(range) => {
                let expected = self.oracle.age_before_eviction(range);
                prop_assert_eq!(self.mmu.age_before_eviction(range).young, expected);
            }
            Op::TestAge(range) => {
                prop_assert_eq!(self.mmu.test_age(range).young, self.oracle.test_age(range));
            }
            Op::Touch(mapping) => {
                prop_assert_eq!(self.mmu.touch(mapping), self.oracle.touch(mapping));
            }
            Op::WriteProtect(range) => {
                let expected = self.oracle.write_protect(range);
                prop_assert_eq!(self.mmu.write_protect(range), expected);
            }
            Op::SetYoungShare(range, young) => {
                self.mmu
                    .set_young_share(range, if young { 1000 } else { 0 }, 7);
                self.oracle.set_young(range, young);
            }
            Op::ReusePage(mapping) => self.reuse_page(mapping)?,
        }
        prop_assert_eq!(self.mmu.verify(), Ok(()));
        Ok(())
    }

    /// I-young: exact schemes say what is; the others say it of SPTEs that are alone
    /// in their rmap, and call the rest old. What age has reached is old.
    fn age(&mut self, range: GfnRange) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.mmu.age(range).young, self.oracle.age(range));
        prop_assert_eq!(self.mmu.test_age(range).young, self.oracle.test_age(range));
        Ok(())
    }

    fn fault(&mut self, mapping: Mapping, write: bool) -> Result<(), TestCaseError> {
        let access = if write { Access::Write } else { Access::Read };
        let outcome = self.mmu.fault(&mut self.vcpu, mapping, access);
        if let Err(expected) = self.oracle.check(mapping) {
            prop_assert_eq!(outcome, Err(expected));
            return Ok(());
        }
        if self.oracle.fault(mapping, write) {
            prop_assert_eq!(outcome, Ok(FaultOutcome::Spurious));
            return self.check_len(mapping);
        }
        let chain_len = match self.oracle.is_tdp(mapping) {
            true => 1,
            false => self.oracle.rmap_len(mapping),
        };
        if chain_len > RECYCLE_THRESHOLD {
            prop_assert_eq!(outcome, Ok(FaultOutcome::Recycled { zapped: chain_len }));
            self.oracle.zap_rmap(mapping);
        } else {
            prop_assert_eq!(outcome, Ok(FaultOutcome::Installed { chain_len }));
        }
        self.check_len(mapping)
    }

    fn zap(&mut self, mapping: Mapping) -> Result<(), TestCaseError> {
        let zapped = self.mmu.zap(&mut self.vcpu, mapping);
        if let Err(expected) = self.oracle.check(mapping) {
            prop_assert_eq!(zapped, Err(expected));
            return Ok(());
        }
        let expected = match self.oracle.zap(mapping) {
            None => Zapped::NotPresent,
            Some(true) => Zapped::Young,
            Some(false) => Zapped::Old,
        };
        prop_assert_eq!(zapped, Ok(expected));
        self.check_len(mapping)
    }

    fn reuse_page(&mut self, mapping: Mapping) -> Result<(), TestCaseError> {
        let given = self.mmu.give_page_away(&mut self.vcpu, mapping);
        let given = match (given, self.oracle.check(mapping)) {
            (Ok(given), Ok(())) => given,
            (given, expected) => {
                prop_assert_eq!(given.map(|_| ()), expected);
                return Ok(());
            }
        };
        self.oracle.zap_page(mapping);
        prop_assert_eq!(self.mmu.verify(), Ok(()));
        let refused = Err(RmapError::PageGivenAway(mapping));
        let fault = self.mmu.fault(&mut self.vcpu, mapping, Access::Read);
        prop_assert_eq!(fault.map(|_| ()), refused.clone());
        prop_assert_eq!(self.mmu.zap(&mut self.vcpu, mapping).map(|_| ()), refused);
        let whole = GfnRange::pages(Gfn(0), u64::MAX);
        self.age(whole)?;
        self.mmu.set_young_share(whole, 0, 0);
        self.oracle.set_young(whole, false);
        prop_assert_eq!(self.mmu.take_page_back(given), 0);
        self.check_len(mapping)
    }

    fn check_len(&self, mapping: Mapping) -> Result<(), TestCaseError> {
        let len = self.mmu.chain_len(mapping.gfn, mapping.level);
        prop_assert_eq!(len, Ok(self.oracle.chain_len(mapping)));
        Ok(())
    }
}

fn every_scheme(accessed: AccessedBits, lock: LockKind) {
    for scheme in rmap::schemes() {
        let mut runner = TestRunner::new(Config {
            cases: 64,
            failure_persistence: None,
            ..Config::default()
        });
        let ops = prop::collection::vec(op(), 0..80);
        let result = runner.run(&ops, |ops| {
            let mut pair = Pair::new(scheme, accessed, lock);
            ops.iter().try_for_each(|op| pair.apply(op))
        });
        if let Err(error) = result {
            panic!("{}: {error}", scheme.name);
        }
    }
}

#[test]
fn i_chain_and_i_young_with_ad_bits() {
    every_scheme(AccessedBits::AD, LockKind::ParkingLot);
}

#[test]
fn i_chain_and_i_young_with_access_tracking() {
    every_scheme(AccessedBits::AccessTracking, LockKind::Std);
}

#[test]
fn contradictory_configurations_are_errors() {
    let slot = |base: u64, npages| MemslotConfig {
        base_gfn: Gfn(base),
        npages,
    };
    let with = |memslots: &[MemslotConfig], aliases| MmuConfig {
        memslots: memslots.to_vec(),
        aliases,
        ..MmuConfig::new(Gfn(0), 1, 1)
    };
    for scheme in rmap::schemes() {
        let error = |config: &MmuConfig| (scheme.build)(config).err();
        assert_eq!(error(&with(&[slot(0, 1)], 0)), Some(RmapError::NoAliases));
        assert_eq!(
            error(&with(&[slot(0, 1)], 4097)),
            Some(RmapError::NoAliases)
        );
        assert_eq!(
            error(&with(&[slot(9, 0)], 1)),
            Some(RmapError::BadMemslot(Gfn(9)))
        );
        assert_eq!(
            error(&with(&[slot(9, 1 << 40)], 1)),
            Some(RmapError::BadMemslot(Gfn(9)))
        );
        let overlap = with(&[slot(4, 4), slot(0, 5)], 1);
        assert_eq!(
            error(&overlap),
            Some(RmapError::OverlappingMemslots(Gfn(4)))
        );
        assert!(error(&with(&[slot(4, 4), slot(0, 4)], 1)).is_none());
    }
}

#[test]
fn only_whole_huge_pages_inside_the_slot_are_collapsible() {
    for scheme in rmap::schemes() {
        let mmu = (scheme.build)(&MmuConfig::new(Gfn(500), 1600, ALIASES)).expect("valid");
        let mut vcpu = Vcpu::new();
        let pages = [
            (511, 3),
            (512, 30),
            (900, 1),
            (1023, 15),
            (1024, 2),
            (2060, 1),
        ];
        for (gfn, n) in pages {
            for alias in 0..scheme.aliases(n) {
                let mapping = Mapping::new(Gfn(gfn), Level::Size4K, alias);
                assert!(mmu.fault(&mut vcpu, mapping, Access::Read).is_ok());
            }
        }
        let huge = Mapping::new(Gfn(1536), Level::Size2M, 0);
        assert!(mmu.fault(&mut vcpu, huge, Access::Read).is_ok());
        let partly = GfnRange::new(Gfn(500), Gfn(1023));
        assert_eq!(
            mmu.zap_collapsible(&mut vcpu, partly),
            Ok(0),
            "{}",
            scheme.name
        );
        let whole = GfnRange::pages(Gfn(0), u64::MAX);
        let inside = pages.iter().filter(|(gfn, _)| (512..2048).contains(gfn));
        let collapsible = inside.map(|&(_, n)| u64::from(scheme.aliases(n))).sum();
        assert_eq!(
            mmu.zap_collapsible(&mut vcpu, whole),
            Ok(collapsible),
            "{}",
            scheme.name
        );
        for (gfn, n) in pages {
            let left = match gfn {
                512..2048 => 0,
                _ => scheme.aliases(n),
            };
            assert_eq!(
                mmu.chain_len(Gfn(gfn), Level::Size4K),
                Ok(left),
                "{}",
                scheme.name
            );
        }
        assert_eq!(
            mmu.chain_len(Gfn(1536), Level::Size2M),
            Ok(1),
            "{}",
            scheme.name
        );
        assert_eq!(mmu.verify(), Ok(()), "{}", scheme.name);
    }
}
