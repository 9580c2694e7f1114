//! Cases chosen by hand: what a configuration may not say, and the edges of collapsing.

use rmap::memslot::draw_permille;
use rmap::{
    Access, FaultOutcome, Gfn, GfnRange, Level, Mapping, MemslotConfig, MmuConfig, RmapError, Vcpu,
};

use crate::pair::ALIASES;

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
fn i_chain_only_whole_huge_pages_inside_the_slot_are_collapsible() {
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

/// KVM zaps a whole rmap when a fault makes it longer than this.
const KVM_THRESHOLD: u32 = 1000;

#[test]
#[cfg_attr(miri, ignore = "the interpreter is too slow for a thousand SPTEs")]
fn i_chain_an_rmap_is_recycled_at_kvms_own_threshold_and_not_before() {
    let page = GfnRange::single(Gfn(3));
    for scheme in rmap::schemes().iter().chain(rmap::ablations()) {
        // The TDP MMU's SPTE is in no rmap: it is neither counted nor zapped.
        let outside = scheme.tdp_aliases();
        let sptes = scheme.aliases(outside + KVM_THRESHOLD + 1);
        let mmu = (scheme.build)(&MmuConfig::new(Gfn(0), 8, sptes)).expect("valid");
        let mut vcpu = Vcpu::new();
        let mut fault = |alias| {
            let mapping = Mapping::new(page.start, Level::Size4K, alias);
            mmu.fault(&mut vcpu, mapping, Access::Write)
        };
        for alias in 0..sptes.min(outside + KVM_THRESHOLD) {
            let installed = matches!(fault(alias), Ok(FaultOutcome::Installed { .. }));
            assert!(installed, "{}: SPTE {alias}", scheme.name);
        }
        let expected = if sptes > outside {
            let zapped = KVM_THRESHOLD + 1;
            let recycled = fault(sptes - 1);
            assert_eq!(
                recycled,
                Ok(FaultOutcome::Recycled { zapped }),
                "{}",
                scheme.name
            );
            outside
        } else {
            sptes
        };
        let left = mmu.chain_len(page.start, Level::Size4K);
        assert_eq!(left, Ok(expected), "{}", scheme.name);
        assert_eq!(mmu.test_age(page).young, expected > 0, "{}", scheme.name);
        assert_eq!(mmu.verify(), Ok(()), "{}", scheme.name);
    }
}

#[test]
fn a_young_share_is_about_what_was_asked_for() {
    const PAGES: u64 = 10_000;
    for seed in 0..50 {
        let young = |permille| {
            let draw = |gfn| draw_permille(Mapping::new(Gfn(gfn), Level::Size4K, 0), seed);
            (0..PAGES).filter(|&gfn| draw(gfn) < permille).count() as f64
        };
        assert_eq!([young(0), young(1000)], [0.0, PAGES as f64]);
        for permille in [1, 100, 500, 900] {
            let share = f64::from(permille) / 1000.0;
            let expected = PAGES as f64 * share;
            // Five standard deviations of a binomial.
            let off = 5.0 * (expected * (1.0 - share)).sqrt();
            let seen = young(permille);
            assert!(
                (seen - expected).abs() <= off,
                "{seed}: {seen} of {expected}"
            );
        }
    }
}
