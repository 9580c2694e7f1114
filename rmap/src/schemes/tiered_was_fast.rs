//! `tiered-was-fast`: three questions, each slower than the one before, and an answer
//! that says how far it had to go.
//!
//! The diff attached to the thread, on top of the v5 series. The TDP MMU is asked
//! without a lock, then the rmaps without a lock (the sketch: rmaps with one SPTE;
//! longer chains are passed over), and only if both said old the rmaps once more,
//! all of them, with mmu_lock held for write. [`Aging::fast`] is the series'
//! WAS_FAST: the answer came from the first two.
//!
//! [Lookaround](fn@crate::lookaround) is done where a page was young and the answer
//! fast, and asks about its neighbours with
//! [`age_fast_only`](crate::Mmu::age_fast_only), the series' fast-only notifier.
//!
//! What it gives up:
//! * **Clearing**: a young answer from the fast questions leaves longer chains as they
//!   were, and they are young once more the next time (the thread calls its own choice
//!   "questionable for the clear path").
//! * **Lookaround's truth**: where X is young in the TDP MMU and its neighbours only in
//!   longer chains of the shadow MMU, lookaround sees none of them.
//! * **Faults**, whenever a page is old: then every rmap of the range is walked with
//!   mmu_lock held for write.
//!
//! The rmaps' lock-free half never enters a chain, and the locked half keeps all
//! mutators out. Orderings: those of [`tdp`](super::tdp) and of the lock-free half of
//! [`single_bitlock`](super::single_bitlock).

use crate::{
    gfn::GfnRange,
    mmu::{Aging, Mmu},
    scheme::NeedsMmuLock,
    schemes::{Mmus, SchemeInfo, single_skip::SingleSkip},
    shadow_mmu::ShadowMmu,
    tiered_mmu::{Callback, TieredMmu, Tiers},
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "tiered-was-fast",
    origin: "v5 of the series and the thread's diff",
    summary: "TDP MMU and lone SPTEs lock-free; mmu_lock for chains if both said old",
    exact: true,
    consistent: false,
    parallel_agers: true,
    sound: true,
    stops_when_fast: true,
    needs_mmu_lock: NeedsMmuLock::SkipsChains,
    defers_descs: false,
    mmus: Mmus::Both,
    build: TieredMmu::<WasFast>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum WasFast {}

impl Tiers for WasFast {
    type Shadow = SingleSkip;

    fn ask(
        shadow: &ShadowMmu<SingleSkip>,
        range: GfnRange,
        callback: Callback,
        young: bool,
    ) -> Aging {
        let quick = match callback {
            Callback::Age => shadow.age(range),
            Callback::TestAge => shadow.test_age(range),
        };
        if young || quick.young {
            return Aging {
                young: true,
                fast: true,
            };
        }
        shadow.ask_locked(range, callback)
    }

    fn ask_fast_only(shadow: &ShadowMmu<SingleSkip>, range: GfnRange, young: bool) -> Aging {
        Aging {
            young: young | shadow.age(range).young,
            fast: true,
        }
    }
}
