//! Agers of a whole memslot, which a scheme may walk otherwise than page by page: two
//! empty pages, then two of one SPTE each, the first of which changes meanwhile. In the
//! model a batch of heads is two, and what a scheme does from the second batch on is
//! what it does in long ranges.

use std::sync::Arc;

use loom::thread;
use rmap::{Aging, Gfn, GfnRange, Level, Mapping, Mmu, MmuConfig, SchemeInfo, Vcpu};

use crate::model::{ALIASES, Ager, GFN, Mutator, NPAGES, configured_mmu_with_chain, explore};

const SLOT: GfnRange = GfnRange {
    start: Gfn(GFN.0 - NPAGES),
    end: Gfn(GFN.0 + NPAGES),
};
/// The page that stays as it is.
const NEIGHBOUR: Gfn = Gfn(GFN.0 + NPAGES - 1);

/// What happens to the page that changes, or to the shadow page of both SPTEs.
#[derive(Debug, Clone, Copy)]
enum Beside {
    Mutator(Mutator),
    Reuse,
}

fn mmu_with_two_pages(scheme: &SchemeInfo, ager: Ager, beside: Beside) -> Arc<Box<dyn Mmu>> {
    let threshold = match beside {
        Beside::Mutator(mutator) => mutator.recycle_threshold(scheme, 1),
        Beside::Reuse => ALIASES,
    };
    let mut config = MmuConfig::new(SLOT.start, SLOT.end.0 - SLOT.start.0, ALIASES);
    config.recycle_threshold = threshold;
    let mmu = configured_mmu_with_chain(scheme.build, &config, 1);
    let neighbour = Mapping::new(NEIGHBOUR, Level::Size4K, 0);
    let faulted = mmu.fault(&mut Vcpu::new(), neighbour, rmap::Access::Read);
    assert!(faulted.is_ok(), "{faulted:?}");
    if ager == Ager::TestAgeSlot {
        // A young page would end it before it has seen the other.
        mmu.set_young_share(SLOT, 0, 1);
    }
    mmu
}

impl Beside {
    fn run(self, scheme: &SchemeInfo, mmu: &dyn Mmu) {
        match self {
            Self::Mutator(mutator) => drop(mutator.run(scheme, mmu, 1)),
            Self::Reuse => {
                let place = Mapping::new(GFN, Level::Size4K, 0);
                let given = mmu.give_page_away(&mut Vcpu::new(), place);
                let changed = mmu.take_page_back(given.expect("the page was there"));
                assert_eq!(changed, 0, "I-life: a stranger's words were changed");
            }
        }
    }
}

fn age_slot(ager: Ager, mmu: &dyn Mmu) -> Aging {
    match ager {
        Ager::TestAgeSlot => mmu.test_age(SLOT),
        _ => mmu.age(SLOT),
    }
}

fn ager_of_two_pages(scheme: &'static SchemeInfo, ager: Ager, beside: Beside) {
    println!("{}: {ager:?} against {beside:?}", scheme.name);
    explore(move || {
        let mmu = mmu_with_two_pages(scheme, ager, beside);
        let side = {
            let mmu = Arc::clone(&mmu);
            thread::spawn(move || beside.run(scheme, &**mmu))
        };
        let aging = age_slot(ager, &**mmu);
        side.join().expect("the mutator does not panic");
        assert_eq!(mmu.verify(), Ok(()), "{}", scheme.name);
        assert_eq!(mmu.deferred_descs(), 0, "I-life: all is freed in the end");
        let Beside::Mutator(mutator) = beside else {
            return;
        };
        let neighbour = GfnRange::single(NEIGHBOUR);
        // Collapsing takes the neighbour too.
        let stays = mutator != Mutator::Collapse;
        if ager == Ager::AgeSlot && scheme.consistent && stays {
            assert!(aging.young, "I-young: the neighbour was young");
            assert!(!mmu.test_age(neighbour).young, "I-young: it was just aged");
        }
        let adds = matches!(mutator, Mutator::Add | Mutator::ZapAll);
        if ager == Ager::TestAgeSlot && !adds {
            assert!(!aging.young, "I-young: nothing was young");
        }
    });
}

fn for_every_scheme(beside: Beside) {
    for scheme in rmap::schemes().iter().filter(|scheme| scheme.sound) {
        if let Beside::Mutator(mutator) = beside
            && !mutator.applies(scheme, 1)
        {
            continue;
        }
        for ager in [Ager::AgeSlot, Ager::TestAgeSlot] {
            ager_of_two_pages(scheme, ager, beside);
        }
    }
}

#[test]
fn i_life_and_i_young_agers_of_a_slot_against_every_mutator() {
    for mutator in Mutator::ALL {
        for_every_scheme(Beside::Mutator(mutator));
    }
}

#[test]
fn i_life_agers_of_a_slot_against_the_reuse_of_their_page() {
    for_every_scheme(Beside::Reuse);
}
