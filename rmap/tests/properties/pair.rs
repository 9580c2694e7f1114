//! An MMU beside its oracle, and what each operation must answer.

use proptest::prelude::*;
use rmap::{
    Access, AccessedBits, FaultOutcome, Gfn, GfnRange, LockKind, Mapping, MemslotConfig, Mmu,
    MmuConfig, RmapError, SchemeInfo, Vcpu, Zapped,
};

use crate::{ops::Op, oracle::Oracle};

/// Enough columns for a chain of three descriptors.
pub(crate) const ALIASES: u32 = 32;

/// The recycling threshold of the MMUs under test: chains do reach it.
pub(crate) const RECYCLE_THRESHOLD: u32 = 30;

/// Where the third slot begins: on a 1 GiB boundary.
pub(crate) const HUGE: u64 = 1 << 18;

/// Two slots that share a 1 GiB page, start in the middle of 2 MiB pages, and leave
/// a gap; and one beyond. Where it is wide it holds a whole 2 MiB page and one gfn of
/// the next.
fn slots(wide: bool) -> Vec<MemslotConfig> {
    let slot = |base: u64, npages| MemslotConfig {
        base_gfn: Gfn(base),
        npages,
    };
    let last = if wide { 513 } else { 3 };
    vec![slot(510, 4), slot(1023, 2), slot(HUGE, last)]
}

/// An MMU and what it should be.
pub(crate) struct Pair<'a> {
    scheme: &'a SchemeInfo,
    mmu: Box<dyn Mmu>,
    vcpu: Vcpu,
    oracle: Oracle,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(
        scheme: &'a SchemeInfo,
        accessed: AccessedBits,
        lock: LockKind,
        wide: bool,
    ) -> Self {
        let config = MmuConfig {
            memslots: slots(wide),
            aliases: ALIASES,
            accessed,
            lock,
            recycle_threshold: RECYCLE_THRESHOLD,
        };
        Self {
            scheme,
            mmu: (scheme.build)(&config).expect("the configuration is valid"),
            vcpu: Vcpu::new(),
            oracle: Oracle::new(&config, scheme),
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
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
            Op::AgeFastOnly(range) => self.age_fast_only(range)?,
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
            Op::ZapCollapsible(range) => {
                let expected = Ok(self.oracle.zap_collapsible(range));
                let zapped = self.mmu.zap_collapsible(&mut self.vcpu, range);
                prop_assert_eq!(zapped, expected);
            }
            Op::SetYoungShare(range, share, seed) => {
                self.mmu.set_young_share(range, share, seed);
                self.oracle.set_young_share(range, share, seed);
            }
            Op::ChainLen(mapping) => self.check_len(mapping)?,
            Op::ReusePage(mapping) => self.reuse_page(mapping)?,
        }
        prop_assert_eq!(self.mmu.verify(), Ok(()));
        self.check_deferred()
    }

    /// I-young: exact schemes say what is; the others say it of SPTEs that are alone
    /// in their rmap, and call the rest old. What age has reached is old.
    fn age(&mut self, range: GfnRange) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.mmu.age(range), self.oracle.age(range));
        prop_assert_eq!(self.mmu.test_age(range).young, self.oracle.test_age(range));
        Ok(())
    }

    /// What it answers, and what is young afterwards: what it did not reach has to
    /// be as it was.
    fn age_fast_only(&mut self, range: GfnRange) -> Result<(), TestCaseError> {
        let expected = self.oracle.age_fast_only(range);
        prop_assert_eq!(self.mmu.age_fast_only(range), expected);
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
        self.oracle.set_young_share(whole, 0, 0);
        prop_assert_eq!(self.mmu.take_page_back(given), 0);
        self.check_len(mapping)
    }

    fn check_len(&self, mapping: Mapping) -> Result<(), TestCaseError> {
        let len = self.mmu.chain_len(mapping.gfn, mapping.level);
        let expected = self.oracle.chain_len(mapping);
        prop_assert_eq!(len, expected.ok_or(RmapError::NoMemslot(mapping.gfn)));
        Ok(())
    }

    /// Descriptors wait only where the scheme says so, and only the TDP MMU has tables
    /// that can.
    fn check_deferred(&self) -> Result<(), TestCaseError> {
        prop_assert!(self.scheme.defers_descs || self.mmu.deferred_descs() == 0);
        prop_assert!(self.scheme.tdp_aliases() > 0 || self.mmu.deferred_tables() == 0);
        Ok(())
    }
}
