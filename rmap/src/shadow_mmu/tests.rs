//! What verify finds: each way in which rmaps and SPTEs can disagree, made by hand.

use super::*;
use crate::{head::Chain, schemes::bitlock::Bitlock, sync::Ordering::Relaxed};

const SPTES: u32 = 16;

const GFN: Gfn = Gfn(1);

fn mapping(alias: u32) -> Mapping {
    Mapping::new(GFN, Level::Size4K, alias)
}

/// An MMU in which one rmap has two descriptors.
fn mmu() -> ShadowMmu<Bitlock> {
    let config = MmuConfig::new(Gfn(0), 4, SPTES);
    let mmu = ShadowMmu::new(&config).expect("the configuration is valid");
    let mut vcpu = Vcpu::new();
    for alias in 0..SPTES {
        let fault = mmu.fault(&mut vcpu, mapping(alias), Access::Read);
        assert!(fault.is_ok(), "{fault:?}");
    }
    assert_eq!(mmu.verify(), Ok(()));
    mmu
}

/// What verify says after `break_it`, which is undone by `mend`.
fn found(
    break_it: impl FnOnce(&Spte, &RmapHead),
    mend: impl FnOnce(&Spte, &RmapHead),
) -> Result<(), Violation> {
    let mmu = mmu();
    let (spte, head) = mmu.resolve(mapping(3)).expect("it exists");
    break_it(spte, head);
    let found = mmu.verify();
    mend(spte, head);
    assert_eq!(mmu.verify(), Ok(()));
    found
}

#[test]
fn i_bit_verify_finds_a_lock_that_nobody_holds() {
    let lock = |_: &Spte, head: &RmapHead| assert!(!head.lock().is_empty());
    let unlock = |_: &Spte, head: &RmapHead| head.unlock(head.load().unlocked());
    let level = Level::Size4K;
    assert_eq!(
        found(lock, unlock),
        Err(Violation::LockedLeaked { gfn: GFN, level })
    );
}

#[test]
fn i_chain_verify_finds_a_present_spte_that_is_in_no_rmap() {
    let word = std::cell::Cell::new(HeadWord::EMPTY);
    let forget = |_: &Spte, head: &RmapHead| {
        word.set(head.load());
        head.publish(HeadWord::EMPTY);
    };
    let remember = |_: &Spte, head: &RmapHead| head.publish(word.get());
    assert_eq!(found(forget, remember), Err(Violation::Missing(mapping(0))));
}

#[test]
fn i_chain_verify_finds_a_zapped_spte_in_an_rmap() {
    let old = std::cell::Cell::new(SpteWord::ZAPPED);
    let zap = |spte: &Spte, _: &RmapHead| old.set(spte.zap());
    let install = |spte: &Spte, _: &RmapHead| spte.install(old.get());
    assert_eq!(
        found(zap, install),
        Err(Violation::Miscounted {
            gfn: GFN,
            level: Level::Size4K,
            in_rmap: SPTES,
            present: SPTES - 1,
        })
    );
}

#[test]
fn i_chain_verify_finds_a_chain_that_does_not_add_up() {
    let add = |n: u32| {
        move |_: &Spte, head: &RmapHead| {
            let Chain::Many(desc) = head.load().chain() else {
                panic!("the rmap has no descriptor");
            };
            // SAFETY: I-life: nobody else has the MMU.
            let count = unsafe { &desc.as_ref().tail_count };
            count.store(count.load(Relaxed).wrapping_add(n), Relaxed);
        }
    };
    let found = found(add(1), add(u32::MAX));
    assert!(
        matches!(
            found,
            Err(Violation::Corrupt {
                gfn: GFN,
                level: Level::Size4K,
                ..
            })
        ),
        "{found:?}"
    );
}
