//! What every model has in common: the bound, a small MMU, and its threads.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use loom::thread;
use rmap::{
    Access, Aging, FaultOutcome, Gfn, GfnRange, Level, Mapping, Mmu, MmuConfig, SchemeInfo, Vcpu,
};

/// Preemptions explored in each history: every history with at most this many is.
pub(crate) const PREEMPTIONS: usize = 3;

/// The gfn whose rmap is fought over: the first of a page of any size, and not gfn 0, so
/// that a memslot can have a batch of heads before it.
pub(crate) const GFN: Gfn = Gfn(4);

/// Pages in the memslot, from [`GFN`] on: one of the model's 2 MiB pages.
pub(crate) const NPAGES: u64 = 2;

/// SPTEs the rmap can hold: enough for two descriptors in the model.
pub(crate) const ALIASES: u32 = 4;

/// Builds an MMU; called inside the model.
pub(crate) type Build = fn(&MmuConfig) -> Result<Box<dyn Mmu>, rmap::RmapError>;

/// The SPTE of column `alias` that maps [`GFN`].
pub(crate) fn mapping(alias: u32) -> Mapping {
    Mapping::new(GFN, Level::Size4K, alias)
}

/// Explores every history of `model` within the bound, and makes sure that there
/// was more than one: a model that never switches threads proves nothing.
pub(crate) fn explore(model: impl Fn() + Send + Sync + 'static) {
    explore_within(PREEMPTIONS, model);
}

/// The same with a bound of one's own.
pub(crate) fn explore_within(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let histories = Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let counter = Arc::clone(&histories);
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    let histories = histories.load(Relaxed);
    println!("{histories} histories");
    assert!(histories > 1, "the model has only one history");
}

/// An MMU whose one rmap holds aliases 0 to `len` less one, all young and writable.
pub(crate) fn mmu_with_chain(build: Build, len: u32, recycle_threshold: u32) -> Arc<Box<dyn Mmu>> {
    let mut config = MmuConfig::new(GFN, NPAGES, ALIASES);
    config.recycle_threshold = recycle_threshold;
    configured_mmu_with_chain(build, &config, len)
}

/// The same with a configuration of one's own.
pub(crate) fn configured_mmu_with_chain(
    build: Build,
    config: &MmuConfig,
    len: u32,
) -> Arc<Box<dyn Mmu>> {
    let mmu = build(config).expect("the model's configuration is valid");
    let mut vcpu = Vcpu::new();
    for alias in 0..len {
        let outcome = mmu.fault(&mut vcpu, mapping(alias), Access::Write);
        assert!(
            matches!(outcome, Ok(FaultOutcome::Installed { .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(mmu.chain_len(GFN, Level::Size4K), Ok(len));
    Arc::new(mmu)
}

/// Which aging callback runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ager {
    Age,
    TestAge,
    /// Of the whole memslot, which schemes may walk otherwise than page by page.
    AgeSlot,
    TestAgeSlot,
}

impl Ager {
    pub(crate) const ALL: [Self; 4] = [Self::Age, Self::TestAge, Self::AgeSlot, Self::TestAgeSlot];

    pub(crate) fn run(self, mmu: &dyn Mmu) -> Aging {
        match self {
            Self::Age => mmu.age(GfnRange::single(GFN)),
            Self::TestAge => mmu.test_age(GfnRange::single(GFN)),
            Self::AgeSlot => mmu.age(GfnRange::pages(GFN, NPAGES)),
            Self::TestAgeSlot => mmu.test_age(GfnRange::pages(GFN, NPAGES)),
        }
    }
}

/// What runs beside the ager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutator {
    /// Faults in the next alias.
    Add,
    /// Zaps alias 0.
    Remove,
    /// Zaps the last alias, which is a shadow SPTE where there are two.
    RemoveLast,
    /// Faults in the next alias, which makes the rmap so long that it is recycled.
    ZapAll,
    /// Unmaps the range.
    Unmap,
    /// Write-protects the range, under mmu_lock and without the rmap's lock.
    WriteProtect,
    /// Zaps what could be mapped huge, walking without the rmap's lock.
    Collapse,
}

/// What a mutator has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effect {
    installed: u32,
    zapped: u32,
    protected: u32,
}

impl Effect {
    fn installed(installed: u32) -> Self {
        Self {
            installed,
            ..Self::default()
        }
    }

    fn zapped(zapped: u32) -> Self {
        Self {
            zapped,
            ..Self::default()
        }
    }

    fn protected(protected: u32) -> Self {
        Self {
            protected,
            ..Self::default()
        }
    }

    /// SPTEs there are afterwards, where there were `len`.
    pub(crate) fn len_after(self, len: u32) -> u32 {
        len + self.installed - self.zapped
    }
}

impl Mutator {
    pub(crate) const ALL: [Self; 7] = [
        Self::Add,
        Self::Remove,
        Self::RemoveLast,
        Self::ZapAll,
        Self::Unmap,
        Self::WriteProtect,
        Self::Collapse,
    ];

    /// Chain lengths at which it takes a different path: no SPTE, one, the first
    /// descriptor, a full one, a second one. Where the first SPTE is the TDP MMU's, the
    /// rmap's chain is shorter by one.
    pub(crate) const fn lengths(self) -> &'static [u32] {
        match self {
            Self::Add => &[0, 1, 2, 3],
            Self::Remove => &[1, 2, 3],
            Self::RemoveLast => &[2, 3],
            Self::Unmap => &[1, 3],
            Self::ZapAll | Self::WriteProtect | Self::Collapse => &[1, 2],
        }
    }

    /// Does it to a chain that had `len` SPTEs.
    pub(crate) fn run(self, scheme: &SchemeInfo, mmu: &dyn Mmu, len: u32) -> Effect {
        let vcpu = &mut Vcpu::new();
        match self {
            Self::Add | Self::ZapAll => {
                let alias = scheme.aliases(len + 1) - 1;
                match mmu.fault(vcpu, mapping(alias), Access::Write) {
                    Ok(FaultOutcome::Spurious) => Effect::default(),
                    Ok(FaultOutcome::Installed { .. }) => Effect::installed(1),
                    Ok(FaultOutcome::Recycled { zapped }) => Effect {
                        installed: 1,
                        ..Effect::zapped(zapped)
                    },
                    Err(error) => panic!("I-chain: fault: {error}"),
                }
            }
            Self::Remove | Self::RemoveLast => {
                let alias = if self == Self::Remove { 0 } else { len - 1 };
                let zapped = mmu.zap(vcpu, mapping(alias)).expect("I-chain: zap");
                Effect::zapped(u32::from(zapped.was_present()))
            }
            Self::Unmap => {
                let zapped = mmu.unmap_range(vcpu, GfnRange::single(GFN));
                Effect::zapped(zapped.expect("I-chain: unmap") as u32)
            }
            Self::WriteProtect => {
                Effect::protected(mmu.write_protect(GfnRange::single(GFN)) as u32)
            }
            Self::Collapse => {
                let zapped = mmu.zap_collapsible(vcpu, GfnRange::pages(GFN, NPAGES));
                Effect::zapped(zapped.expect("I-chain: collapse") as u32)
            }
        }
    }

    /// What it does where no other mutator is about, to a chain of `len` of which the
    /// first `gone` are not there any more.
    pub(crate) fn alone(self, scheme: &SchemeInfo, len: u32, gone: u32) -> Effect {
        match self {
            Self::Add => Effect::installed(1),
            Self::Remove | Self::RemoveLast => Effect::zapped(1),
            Self::ZapAll => Effect {
                installed: 1,
                ..Effect::zapped(len + 1 - scheme.tdp_aliases())
            },
            Self::Unmap | Self::Collapse => Effect::zapped(len - gone),
            Self::WriteProtect => Effect::protected(len - gone),
        }
    }

    /// What has to be true when it is done and nothing runs any more.
    fn check_effect(self, mmu: &dyn Mmu) {
        if self == Self::WriteProtect {
            let still_writable = mmu.write_protect(GfnRange::single(GFN));
            assert_eq!(still_writable, 0, "the ager brought write permission back");
        }
    }

    /// Whether a scheme can have it happen to a page with `len` SPTEs.
    pub(crate) fn applies(self, scheme: &SchemeInfo, len: u32) -> bool {
        match self {
            Self::Add => len < scheme.max_aliases(),
            Self::ZapAll => len < scheme.max_aliases() && len >= scheme.tdp_aliases(),
            _ => len <= scheme.max_aliases(),
        }
    }

    /// Whether it finds something to do, or to undo, in a chain of `len`.
    pub(crate) fn may_meet(self, len: u32) -> bool {
        self.lengths().iter().any(|&own| own <= len)
    }

    /// SPTEs of a chain of `len` that stay mapped all the time.
    pub(crate) fn survivors(self, scheme: &SchemeInfo, len: u32) -> u32 {
        match self {
            Self::Add | Self::WriteProtect => len,
            Self::Remove | Self::RemoveLast => len - 1,
            Self::ZapAll => scheme.tdp_aliases(),
            Self::Unmap | Self::Collapse => 0,
        }
    }

    pub(crate) fn recycle_threshold(self, scheme: &SchemeInfo, len: u32) -> u32 {
        match self {
            Self::ZapAll => len - scheme.tdp_aliases(),
            _ => ALIASES,
        }
    }
}

/// One ager against one mutator on one rmap of `len` young SPTEs; `without_first`: of
/// which the first has been zapped.
pub(crate) fn ager_against_mutator(
    scheme: &'static SchemeInfo,
    ager: Ager,
    mutator: Mutator,
    len: u32,
    without_first: bool,
) {
    let gone = u32::from(without_first);
    explore(move || {
        let mmu = mmu_with_chain(scheme.build, len, mutator.recycle_threshold(scheme, len));
        if without_first {
            let zapped = mmu.zap(&mut Vcpu::new(), mapping(0)).expect("I-chain: zap");
            assert!(zapped.was_present());
        }
        let side = {
            let mmu = Arc::clone(&mmu);
            thread::spawn(move || mutator.run(scheme, &**mmu, len))
        };
        let aging = ager.run(&**mmu);
        let effect = side.join().expect("the mutator does not panic");
        let expected = mutator.alone(scheme, len, gone);
        assert_eq!(effect, expected, "{}", scheme.name);
        if scheme.consistent && mutator.survivors(scheme, len) > gone {
            assert!(aging.young, "I-young: a young SPTE that stayed was missed");
        }
        mutator.check_effect(&**mmu);
        check_at_rest(&**mmu, scheme, effect.len_after(len - gone));
    });
}

/// Two mutators on one rmap of `len` SPTEs: one after the other where mmu_lock sees to
/// that, beside each other where it is held for read.
pub(crate) fn mutator_against_mutator(
    scheme: &'static SchemeInfo,
    mutators: [Mutator; 2],
    len: u32,
) {
    let recycles = mutators.contains(&Mutator::ZapAll);
    let threshold = if recycles {
        Mutator::ZapAll.recycle_threshold(scheme, len)
    } else {
        ALIASES
    };
    explore(move || {
        let mmu = mmu_with_chain(scheme.build, len, threshold);
        let [mine, other] = mutators;
        let side = {
            let mmu = Arc::clone(&mmu);
            thread::spawn(move || other.run(scheme, &**mmu, len))
        };
        let effect = mine.run(scheme, &**mmu, len);
        let other = side.join().expect("the mutator does not panic");
        let both = Effect {
            installed: effect.installed + other.installed,
            zapped: effect.zapped + other.zapped,
            ..effect
        };
        // I-chain: each SPTE is installed once and zapped once.
        check_at_rest(&**mmu, scheme, both.len_after(len));
    });
}

/// One ager against the reuse of the page that holds the SPTE of column `alias`.
pub(crate) fn ager_against_page_reuse(
    scheme: &'static SchemeInfo,
    ager: Ager,
    len: u32,
    alias: u32,
) {
    explore(move || {
        let mmu = mmu_with_chain(scheme.build, len, ALIASES);
        let side = {
            let mmu = Arc::clone(&mmu);
            thread::spawn(move || mmu.give_page_away(&mut Vcpu::new(), mapping(alias)))
        };
        ager.run(&**mmu);
        let given = side.join().expect("the mutator does not panic");
        let changed = mmu.take_page_back(given.expect("the page was there"));
        assert_eq!(changed, 0, "I-life: a stranger's words were changed");
        check_at_rest(&**mmu, scheme, len - 1);
    });
}

/// The invariants once nothing runs any more.
pub(crate) fn check_at_rest(mmu: &dyn Mmu, scheme: &SchemeInfo, len: u32) {
    assert_eq!(mmu.verify(), Ok(()), "{}", scheme.name);
    assert_eq!(
        mmu.chain_len(GFN, Level::Size4K),
        Ok(len),
        "{}",
        scheme.name
    );
    assert_eq!(
        mmu.deferred_descs(),
        0,
        "I-life: every deferred descriptor is freed in the end"
    );
    assert_eq!(mmu.deferred_tables(), 0, "I-life: the same of tables");
    let range = GfnRange::single(GFN);
    // Once more for schemes that stop at a fast answer.
    mmu.age(range);
    mmu.age(range);
    assert!(
        !mmu.test_age(range).young,
        "{}: everything was just aged",
        scheme.name
    );
    if scheme.exact && len > 0 {
        let touched = (0..ALIASES).any(|alias| mmu.touch(mapping(alias)));
        assert!(
            touched && mmu.test_age(range).young,
            "{}: I-young",
            scheme.name
        );
    }
}
