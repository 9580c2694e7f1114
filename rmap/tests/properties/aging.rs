//! What the aging callbacks must answer, and what they leave young.

use rmap::{Aging, GfnRange, SchemeInfo, scheme::NeedsMmuLock};

use crate::oracle::{Key, Oracle};

/// How a scheme ages rmaps with a descriptor. All others, and the TDP MMU, it ages
/// without a lock, unless it needs mmu_lock for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Everything, always with mmu_lock.
    Locked,
    /// Everything without mmu_lock.
    Everything,
    /// It passes them over.
    SkipsChains,
    /// It takes mmu_lock for each.
    LocksChains,
    /// It takes mmu_lock and asks everything again if nothing else was young.
    LocksIfOld,
}

impl Sight {
    /// What the registry's line claims, which the scheme then has to live up to.
    pub(crate) fn of(scheme: &SchemeInfo) -> Self {
        match scheme.needs_mmu_lock {
            NeedsMmuLock::Always => Self::Locked,
            _ if scheme.stops_when_fast => Self::LocksIfOld,
            NeedsMmuLock::Never => Self::Everything,
            NeedsMmuLock::Chains => Self::LocksChains,
            NeedsMmuLock::SkipsChains => Self::SkipsChains,
        }
    }
}

impl Oracle {
    /// What of the range is reached without looking into rmaps with a descriptor.
    fn quick_keys(&self, range: GfnRange) -> Vec<Key> {
        let mut keys = self.keys(range);
        keys.retain(|key| !self.is_chain(key));
        keys
    }

    /// What aging reaches of the range.
    fn aged_keys(&self, range: GfnRange) -> Vec<Key> {
        let quick = self.quick_keys(range);
        match self.sight() {
            Sight::SkipsChains => quick,
            Sight::LocksIfOld if self.any_young(&quick) => quick,
            _ => self.keys(range),
        }
    }

    /// Whether aging the range needs no mmu_lock.
    fn is_fast(&self, range: GfnRange) -> bool {
        match self.sight() {
            Sight::Locked => false,
            Sight::Everything | Sight::SkipsChains => true,
            Sight::LocksChains => !self.keys(range).iter().any(|key| self.is_chain(key)),
            Sight::LocksIfOld => !self.has_shadow() || self.any_young(&self.quick_keys(range)),
        }
    }

    fn age_keys(&mut self, keys: &[Key], fast: bool) -> Aging {
        let young = self.any_young(keys);
        self.make_old(keys);
        Aging { young, fast }
    }

    /// What test-age answers.
    pub(crate) fn test_age(&self, range: GfnRange) -> bool {
        self.any_young(&self.aged_keys(range))
    }

    /// What age answers; the SPTEs it reaches are old afterwards, the others stay.
    pub(crate) fn age(&mut self, range: GfnRange) -> Aging {
        let fast = self.is_fast(range);
        self.age_keys(&self.aged_keys(range), fast)
    }

    /// The same without mmu_lock. Who needs it for everything cannot answer.
    pub(crate) fn age_fast_only(&mut self, range: GfnRange) -> Aging {
        let reached = match self.sight() {
            Sight::Locked => {
                return Aging {
                    young: false,
                    fast: false,
                };
            }
            Sight::Everything => self.keys(range),
            Sight::SkipsChains | Sight::LocksChains | Sight::LocksIfOld => self.quick_keys(range),
        };
        self.age_keys(&reached, true)
    }

    /// What the last look before an eviction answers: the truth.
    pub(crate) fn age_before_eviction(&mut self, range: GfnRange) -> bool {
        let reached = match self.sight() {
            Sight::LocksIfOld => self.aged_keys(range),
            _ => self.keys(range),
        };
        self.age_keys(&reached, true).young
    }
}
