//! Every subject is an MMU that finds what was mapped, and nothing else.

use rmap::{Access, Gfn, GfnRange, Level, Mapping, MmuConfig, Vcpu};

use super::*;

const PAGES: u64 = 96;

fn build(subject: &Subject, aliases: u32) -> Box<dyn Mmu> {
    subject
        .build(&MmuConfig::new(Gfn(32), PAGES, aliases))
        .unwrap()
}

fn small(gfn: u64, alias: u32) -> Mapping {
    Mapping::new(Gfn(gfn), Level::Size4K, alias)
}

#[test]
fn what_passes_over_chains_and_what_takes_no_lock_is_named_in_the_context() {
    let context = context();
    assert_eq!(context.pass_over_chains, ["single-skip", "tiered-was-fast"]);
    let without = |name: &str| context.age_without_mmu_lock.iter().any(|own| own == name);
    let expected = [
        ("bitlock", true),
        ("rcu", true),
        ("rwlock-write", false),
        ("single-fallback", false),
    ];
    for (scheme, is) in expected {
        assert_eq!(without(scheme), is, "{scheme}");
    }
}

#[test]
fn i_young_aging_finds_exactly_the_pages_that_are_young() {
    for subject in subjects().filter(|s| s.sound && !s.reads_heads_only) {
        for aliases in [1, 15].map(|n: u32| n.min(subject.max_aliases)) {
            let mmu = build(&subject, aliases);
            let mut vcpu = Vcpu::new();
            for gfn in (32..128).step_by(3) {
                for alias in 0..aliases {
                    mmu.fault(&mut vcpu, small(gfn, alias), Access::Read)
                        .unwrap();
                }
            }
            let exact = rmap::scheme(subject.name).is_none_or(|s| s.exact);
            let stops_early = rmap::scheme(subject.name).is_some_and(|s| s.stops_when_fast);
            for gfn in 32..128 {
                let one = GfnRange::single(Gfn(gfn));
                let mapped = (gfn - 32) % 3 == 0 && (exact || aliases == 1);
                assert_eq!(mmu.test_age(one).young, mapped, "{} {gfn}", subject.name);
                assert_eq!(mmu.age(one).young, mapped, "{} {gfn}", subject.name);
                if stops_early {
                    mmu.age(one);
                }
                assert!(!mmu.test_age(one).young, "{} {gfn}", subject.name);
            }
            mmu.verify().unwrap();
            mmu.touch(small(35, 0));
            let all = GfnRange::pages(Gfn(0), 1000);
            assert_eq!(mmu.age(all).young, exact || aliases == 1);
            assert!(!mmu.age(all).young, "{}", subject.name);
        }
    }
}

#[test]
fn i_chain_zaps_and_unmaps_leave_what_they_did_not_touch() {
    for subject in subjects().filter(|s| s.sound && s.concurrent) {
        let aliases = 17.min(subject.max_aliases);
        let mmu = build(&subject, aliases);
        let mut vcpu = Vcpu::new();
        for gfn in 32..128 {
            for alias in 0..aliases {
                mmu.fault(&mut vcpu, small(gfn, alias), Access::Write)
                    .unwrap();
            }
        }
        let spurious = mmu.fault(&mut vcpu, small(40, 0), Access::Write).unwrap();
        assert_eq!(spurious, rmap::FaultOutcome::Spurious);
        assert!(mmu.zap(&mut vcpu, small(40, 0)).unwrap().was_present());
        assert!(!mmu.zap(&mut vcpu, small(40, 0)).unwrap().was_present());
        mmu.verify().unwrap();
        let zapped = mmu.unmap_range(&mut vcpu, GfnRange::pages(Gfn(64), 32));
        assert_eq!(zapped.unwrap(), 32 * u64::from(aliases), "{}", subject.name);
        mmu.verify().unwrap();
        let writable = mmu.write_protect(GfnRange::pages(Gfn(32), PAGES));
        assert_eq!(writable, 64 * u64::from(aliases) - 1, "{}", subject.name);
    }
}

#[test]
fn peers_recycle_a_page_with_too_many_sptes_as_schemes_do() {
    for subject in subjects().filter(|s| s.kind == Kind::Peer) {
        let mut config = MmuConfig::new(Gfn(0), 8, 4);
        config.recycle_threshold = 3;
        let mmu = subject.build(&config).unwrap();
        let mut vcpu = Vcpu::new();
        let last = (0..4).map(|alias| mmu.fault(&mut vcpu, small(1, alias), Access::Read).unwrap());
        assert_eq!(
            last.last(),
            Some(rmap::FaultOutcome::Recycled { zapped: 4 })
        );
        assert_eq!(mmu.chain_len(Gfn(1), Level::Size4K).unwrap(), 0);
        mmu.verify().unwrap();
    }
}

#[test]
fn what_a_peer_cannot_do_is_a_typed_error() {
    for subject in subjects().filter(|s| s.kind != Kind::Scheme) {
        let given = build(&subject, 1).give_page_away(&mut Vcpu::new(), small(32, 0));
        assert!(matches!(given, Err(RmapError::NotSupported(_))));
    }
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = names().collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}
