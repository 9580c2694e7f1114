//! `tiered`: the TDP MMU without a lock, then the rmaps under the bit lock.
//!
//! What Linux 6.15 does on a host of nested guests. For age both MMUs are always
//! asked (the second only if shadow SPTEs may exist); for test-age a young SPTE in
//! the TDP MMU ends the callback. What it gives up is what its parts give up
//! ([`tdp`](super::tdp), [`bitlock`](super::bitlock)).
//!
//! Orderings: those of its parts. The count of shadow SPTEs is relaxed: raised before
//! the fault that installs one takes mmu_lock, so whoever knows of the SPTE knows of
//! the count.

use crate::{
    gfn::GfnRange,
    mmu::{Aging, Mmu},
    scheme::NeedsMmuLock,
    schemes::{Mmus, SchemeInfo, bitlock::Bitlock},
    shadow_mmu::ShadowMmu,
    tiered_mmu::{Callback, TieredMmu, Tiers},
};

/// The registry's line.
pub const INFO: SchemeInfo = SchemeInfo {
    name: "tiered",
    origin: "Linux 6.15, nested guests",
    summary: "the TDP MMU without a lock, then rmaps under their spin bits",
    exact: true,
    consistent: true,
    parallel_agers: true,
    sound: true,
    stops_when_fast: false,
    needs_mmu_lock: NeedsMmuLock::Never,
    defers_descs: false,
    mmus: Mmus::Both,
    build: TieredMmu::<Tiered>::boxed,
};

/// The scheme.
#[derive(Debug)]
pub enum Tiered {}

impl Tiers for Tiered {
    type Shadow = Bitlock;

    fn ask(shadow: &ShadowMmu<Bitlock>, range: GfnRange, callback: Callback, young: bool) -> Aging {
        let answer = match callback {
            Callback::Age => shadow.age(range),
            Callback::TestAge => shadow.test_age(range),
        };
        Aging {
            young: young | answer.young,
            fast: true,
        }
    }

    fn ask_fast_only(shadow: &ShadowMmu<Bitlock>, range: GfnRange, young: bool) -> Aging {
        Self::ask(shadow, range, Callback::Age, young)
    }
}
