//! The MMU under stress and what must be true of it when nothing runs.
//!
//! Three memslots, each in a 1 GiB page of its own, so that a huge mapping in one
//! never takes the place of small ones in another:
//!
//! | slot | who changes it | what it shows |
//! |---|---|---|
//! | shared | all vCPUs, at all levels | I-chain, I-bit, I-zap |
//! | stranger's | the stranger alone; its shadow pages are given away and come back | I-life |
//! | pinned | one SPTE stays, others beside it come and go; one ager alone ages it | I-young |

use rmap::{
    Access, Gfn, GfnRange, Level, LockKind, Mapping, MemslotConfig, Mmu, MmuConfig, RmapError,
    SchemeInfo, Vcpu,
};

use super::outcome::{Violation, must};
use crate::rng::Rng;

/// One 2 MiB page a slot, so that its small pages are collapsible.
const SLOT_NPAGES: u64 = Level::Size2M.npages();
/// SPTEs one gfn can have, where the scheme allows several.
const ALIASES: u32 = 40;
/// Below [`ALIASES`]: shared rmaps are recycled now and then.
const RECYCLE_THRESHOLD: u32 = 30;
/// Below the threshold: the pinned rmap never is.
const PINNED_ALIASES: u32 = 20;
/// The shared gfns that are fought over.
const HOT_NPAGES: u64 = 4;

fn slot(number: u64) -> GfnRange {
    GfnRange::pages(Gfn(number * Level::Size1G.npages()), SLOT_NPAGES)
}

/// An MMU and the plan of its memory.
pub(super) struct Arena {
    pub(super) mmu: Box<dyn Mmu>,
    pub(super) scheme: &'static SchemeInfo,
    aliases: u32,
    pinned: Mapping,
}

impl Arena {
    pub(super) fn build(
        scheme: &'static SchemeInfo,
        lock: LockKind,
        rng: &mut Rng,
    ) -> Result<Self, RmapError> {
        let aliases = scheme.aliases(ALIASES);
        let mut config = MmuConfig::new(Gfn(0), 1, aliases).with_lock(lock);
        config.memslots = (0..3)
            .map(|number| MemslotConfig {
                base_gfn: slot(number).start,
                npages: SLOT_NPAGES,
            })
            .collect();
        config.recycle_threshold = RECYCLE_THRESHOLD;
        if rng.below(2) == 0 {
            config.accessed = rmap::AccessedBits::AccessTracking;
        }
        let mmu = (scheme.build)(&config)?;
        let pinned_alias = rng.below(u64::from(aliases.min(2))) as u32;
        let pinned = Mapping::new(slot(2).start, Level::Size4K, pinned_alias);
        mmu.fault(&mut Vcpu::new(), pinned, Access::Write)?;
        Ok(Self {
            mmu,
            scheme,
            aliases,
            pinned,
        })
    }

    /// All of the shared slot.
    pub(super) fn shared(&self) -> GfnRange {
        slot(0)
    }

    /// The shared gfns that are fought over.
    pub(super) fn hot(&self) -> GfnRange {
        GfnRange::pages(slot(0).start, HOT_NPAGES)
    }

    /// The slot whose shadow pages are given away.
    pub(super) fn strangers(&self) -> GfnRange {
        slot(1)
    }

    /// Everything but the pinned slot.
    pub(super) fn all_but_pinned(&self) -> GfnRange {
        GfnRange::new(slot(0).start, slot(1).end)
    }

    /// The SPTE that stays.
    pub(super) fn pinned(&self) -> Mapping {
        self.pinned
    }

    /// A column of the stranger's shadow pages. Two are enough: where there are two
    /// MMUs, they are one of each.
    pub(super) fn strangers_alias(&self, rng: &mut Rng) -> u32 {
        rng.below(u64::from(self.aliases.min(2))) as u32
    }

    /// An SPTE that is fought over: mostly of a small page.
    pub(super) fn hot_place(&self, rng: &mut Rng) -> Mapping {
        let gfn = Gfn(slot(0).start.0 + rng.below(HOT_NPAGES));
        let level = Level::ALL[rng.below(8).saturating_sub(5) as usize];
        Mapping::new(gfn, level, rng.below(u64::from(self.aliases)) as u32)
    }

    /// An SPTE in the pinned one's rmap; `None` where there is no room for one.
    pub(super) fn beside_pinned(&self, rng: &mut Rng) -> Option<Mapping> {
        let alias = rng.below(u64::from(self.aliases.min(PINNED_ALIASES))) as u32;
        let place = Mapping {
            alias,
            ..self.pinned
        };
        (alias != self.pinned.alias).then_some(place)
    }

    /// The invariants while nothing runs.
    pub(super) fn check(&self, rng: &mut Rng) -> Result<(), Violation> {
        let Self { mmu, pinned, .. } = self;
        let verified = || mmu.verify().map_err(|broken| Violation(broken.to_string()));
        verified()?;
        let everything = GfnRange::new(slot(0).start, slot(2).end);
        mmu.age(everything);
        if self.scheme.stops_when_fast {
            mmu.age(everything);
        }
        expect(
            !mmu.test_age(everything).young,
            "I-young: aged pages are young",
        )?;
        expect(mmu.touch(*pinned), "I-zap: an SPTE nobody zapped is gone")?;
        let alone = must("chain_len", mmu.chain_len(pinned.gfn, pinned.level))? == 1;
        if self.scheme.exact || alone {
            let young = mmu.test_age(GfnRange::single(pinned.gfn)).young;
            expect(
                young,
                "I-young: with nothing else running a young page was missed",
            )?;
        }
        if rng.below(4) == 0 {
            must("unmap", mmu.unmap_range(&mut Vcpu::new(), slot(0)))?;
            let revived = (0..self.aliases)
                .flat_map(|alias| Level::ALL.map(|level| Mapping::new(slot(0).start, level, alias)))
                .any(|place| mmu.touch(place));
            expect(!revived, "I-zap: a zapped SPTE is there again")?;
            verified()?;
        }
        Ok(())
    }
}

/// `Ok` if the statement of an invariant holds.
pub(super) fn expect(holds: bool, broken: &str) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    Err(Violation(broken.to_owned()))
}
