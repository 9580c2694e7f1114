//! vCPUs: every operation that changes mappings.

use rmap::{Access, FaultOutcome, GfnRange, Mapping, Mmu, Vcpu};

use super::{
    outcome::{Tally, Violation, must},
    phase::Shared,
};
use crate::rng::Rng;

/// Operations between two looks at the phase's state.
const LOT: u64 = 64;

/// A vCPU thread of one phase.
pub(super) struct VcpuThread<'a> {
    shared: &'a Shared<'a>,
    mmu: &'a dyn Mmu,
    rng: Rng,
    vcpu: Vcpu,
    tally: Tally,
}

impl<'a> VcpuThread<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, rng: Rng) -> Self {
        Self {
            shared,
            mmu: &*shared.arena.mmu,
            rng,
            vcpu: Vcpu::new(),
            tally: Tally::default(),
        }
    }

    /// Does `ops` operations, or fewer if the phase is over before.
    pub(super) fn run(mut self, ops: u64) -> (Tally, Result<(), Violation>) {
        for _ in 0..ops.div_ceil(LOT) {
            for _ in 0..LOT {
                if let Err(violation) = self.step() {
                    return (self.tally, Err(violation));
                }
            }
            if !self.shared.did(LOT) {
                break;
            }
        }
        (self.tally, Ok(()))
    }

    /// Mostly faults, zaps and touches, now and then a whole rmap or more.
    fn step(&mut self) -> Result<(), Violation> {
        let arena = self.shared.arena;
        let place = arena.hot_place(&mut self.rng);
        let page = GfnRange::single(place.gfn);
        match self.rng.below(1000) {
            0..500 => self.fault(place)?,
            500..650 => self.zap(place)?,
            650..800 => {
                self.mmu.touch(place);
            }
            800..970 => self.beside_pinned()?,
            970..976 => {
                let zapped = self.mmu.unmap_range(&mut self.vcpu, page);
                self.tally.zapped += must("unmap_range", zapped)?;
            }
            976..984 => self.tally.protected += self.mmu.write_protect(page),
            984..990 => {
                let seed = self.rng.next_u64();
                self.mmu.set_young_share(arena.hot(), 500, seed);
            }
            990 => {
                let zapped = self.mmu.zap_collapsible(&mut self.vcpu, arena.shared());
                self.tally.collapsed += must("zap_collapsible", zapped)?;
            }
            991..996 => drop(self.mmu.deferred_descs()),
            _ => drop(must(
                "chain_len",
                self.mmu.chain_len(place.gfn, place.level),
            )?),
        }
        Ok(())
    }

    fn fault(&mut self, place: Mapping) -> Result<(), Violation> {
        let access = if self.rng.below(2) == 0 {
            Access::Read
        } else {
            Access::Write
        };
        match must("fault", self.mmu.fault(&mut self.vcpu, place, access))? {
            FaultOutcome::Spurious => {}
            FaultOutcome::Installed { .. } => self.tally.installed += 1,
            FaultOutcome::Recycled { .. } => self.tally.recycled += 1,
        }
        Ok(())
    }

    fn zap(&mut self, place: Mapping) -> Result<(), Violation> {
        let zapped = must("zap", self.mmu.zap(&mut self.vcpu, place))?;
        self.tally.zapped += u64::from(zapped.was_present());
        Ok(())
    }

    /// Lengthens or shortens the chain with the SPTE that stays.
    fn beside_pinned(&mut self) -> Result<(), Violation> {
        match self.shared.arena.beside_pinned(&mut self.rng) {
            Some(place) if self.rng.below(2) == 0 => self.fault(place),
            Some(place) => self.zap(place),
            None => Ok(()),
        }
    }
}
