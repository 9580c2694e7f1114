//! One chain against a plain set, and every error a caller can be shown.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::reclaim::Freed;

/// SPTEs to add and remove, enough for five descriptors.
const SPTES: usize = 64;

/// A chain with its SPTEs, its cache and what it retired.
struct Rig {
    sptes: Vec<Spte>,
    cache: DescCache,
    retired: Retired,
    word: HeadWord,
}

impl Rig {
    fn new() -> Self {
        Self {
            sptes: (0..SPTES).map(|_| Spte::new()).collect(),
            cache: DescCache::new(),
            retired: Retired::new(),
            word: HeadWord::EMPTY,
        }
    }

    fn with(len: usize) -> Self {
        let mut rig = Self::new();
        for index in 0..len {
            rig.add(index).expect("a new SPTE can be added");
        }
        rig
    }

    fn spte(&self, index: usize) -> NonNull<Spte> {
        NonNull::from(&self.sptes[index])
    }

    fn add(&mut self, index: usize) -> Result<u32, PteListError> {
        self.cache.top_up();
        let spte = self.spte(index);
        // SAFETY: the rig owns the chain and everything in it.
        let (word, len) = unsafe { add(self.word, spte, &mut self.cache)? };
        self.word = word;
        Ok(len)
    }

    fn remove(&mut self, index: usize) -> Result<(), PteListError> {
        let spte = self.spte(index);
        // SAFETY: the rig owns the chain and everything in it.
        self.word = unsafe { remove(self.word, spte, &mut self.retired)? };
        self.free();
        Ok(())
    }

    fn zap_all(&mut self) -> Result<u32, PteListError> {
        // SAFETY: the rig owns the chain and everything in it.
        let zapped =
            unsafe { zap_all(self.word, |spte| spte.install(young()), &mut self.retired)? };
        self.word = HeadWord::EMPTY;
        self.free();
        Ok(zapped)
    }

    fn free(&mut self) {
        for garbage in self.retired.drain() {
            // SAFETY: it left the chain, and nobody walks it.
            unsafe {
                garbage.take_apart(|freed| match freed {
                    Freed::Desc(desc) => drop(self.cache.put(desc)),
                    Freed::Table(_) => unreachable!("chains have no tables"),
                });
            }
        }
    }

    fn walked(&self) -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let mut visit = |spte: &Spte| {
            let index = self.sptes.iter().position(|own| std::ptr::eq(own, spte));
            assert!(
                seen.insert(index.expect("ours")),
                "an SPTE is in the chain twice"
            );
            ControlFlow::Continue(())
        };
        // SAFETY: the rig owns the chain and everything in it.
        assert!(unsafe { walk(self.word, &mut visit) }.is_continue());
        seen
    }

    fn checked_len(&self) -> Result<u32, PteListError> {
        // SAFETY: the rig owns the chain and everything in it.
        unsafe { check(self.word, |_| ()) }
    }

    fn first_desc(&self) -> &PteListDesc {
        let Chain::Many(desc) = self.word.chain() else {
            panic!("the chain has no descriptor");
        };
        // SAFETY: the rig owns the chain and everything in it.
        unsafe { desc.as_ref() }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Chain::Many(desc) = self.word.chain() {
            // SAFETY: nobody else has the chain.
            unsafe { Garbage::Chain(desc).take_apart(drop) };
        }
    }
}

fn young() -> crate::spte::SpteWord {
    crate::spte::SpteWord::young(crate::Gfn(1), crate::Access::Read, crate::AccessedBits::AD)
}

#[derive(Debug, Clone)]
enum Op {
    Add(usize),
    Remove(usize),
    ZapAll,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        20 => (0..SPTES).prop_map(Op::Add),
        10 => (0..SPTES).prop_map(Op::Remove),
        1 => Just(Op::ZapAll),
    ];
    prop::collection::vec(op, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i_chain_holds_exactly_what_was_added_and_not_removed(ops in ops()) {
        let mut rig = Rig::new();
        let mut oracle = BTreeSet::new();
        for op in ops {
            match op {
                Op::Add(index) if oracle.insert(index) => {
                    prop_assert_eq!(rig.add(index), Ok(oracle.len() as u32));
                }
                Op::Add(index) => prop_assert_eq!(rig.add(index), Err(PteListError::AlreadyMapped)),
                Op::Remove(index) if oracle.remove(&index) => prop_assert_eq!(rig.remove(index), Ok(())),
                Op::Remove(index) => prop_assert_eq!(rig.remove(index), Err(PteListError::NotMapped)),
                Op::ZapAll => {
                    prop_assert_eq!(rig.zap_all(), Ok(oracle.len() as u32));
                    oracle.clear();
                }
            }
            prop_assert_eq!(rig.walked(), oracle.clone());
            prop_assert_eq!(rig.checked_len(), Ok(oracle.len() as u32));
            // SAFETY: the rig owns the chain.
            prop_assert_eq!(unsafe { count(rig.word) }, oracle.len() as u32);
        }
    }
}

#[test]
fn i_chain_an_empty_cache_is_an_error_and_leaves_the_chain_alone() {
    for len in [1, PTE_LIST_EXT] {
        let mut rig = Rig::with(len);
        while let Some(desc) = rig.cache.take() {
            // SAFETY: the cache gave it away.
            drop(unsafe { Box::from_raw(desc.as_ptr()) });
        }
        let spte = rig.spte(len);
        // SAFETY: the rig owns the chain.
        let added = unsafe { add_absent(rig.word, spte, &mut rig.cache) };
        assert_eq!(added, Err(PteListError::CacheEmpty));
        assert_eq!(rig.walked(), (0..len).collect());
    }
}

#[test]
fn a_walk_that_breaks_goes_no_further() {
    let rig = Rig::with(30);
    let mut visited = 0;
    let mut visit = |_: &Spte| {
        visited += 1;
        if visited == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    // SAFETY: the rig owns the chain.
    assert!(unsafe { walk(rig.word, &mut visit) }.is_break());
    assert_eq!(visited, 3);
}

/// Breaks one field of the first of several descriptors, and restores it.
fn with_corruption(break_it: impl Fn(&PteListDesc), check: impl Fn(&mut Rig)) {
    let mut rig = Rig::with(20);
    let desc = rig.first_desc();
    let count = desc.spte_count.load(Relaxed);
    let tail = desc.tail_count.load(Relaxed);
    let entry = desc.sptes[0].load(Relaxed);
    break_it(desc);
    check(&mut rig);
    let desc = rig.first_desc();
    desc.spte_count.store(count, Relaxed);
    desc.tail_count.store(tail, Relaxed);
    desc.sptes[0].store(entry, Relaxed);
    assert_eq!(
        rig.checked_len(),
        Ok(20),
        "an operation that failed changed the chain"
    );
}

fn assert_corrupt<T: std::fmt::Debug>(result: &Result<T, PteListError>) {
    assert!(
        matches!(result, Err(PteListError::CorruptChain(_))),
        "{result:?}"
    );
}

#[test]
fn i_chain_a_count_that_cannot_be_is_a_corrupt_chain_to_everybody() {
    for count in [0, EXT + 1, u32::MAX] {
        with_corruption(
            |desc| desc.spte_count.store(count, Relaxed),
            |rig| {
                assert_corrupt(&rig.checked_len());
                assert_corrupt(&rig.add(40));
                assert_corrupt(&rig.remove(1));
                assert_corrupt(&rig.zap_all());
            },
        );
    }
}

#[test]
fn i_chain_a_null_entry_is_a_corrupt_chain_to_mutators() {
    with_corruption(
        |desc| desc.sptes[0].store(std::ptr::null_mut(), Relaxed),
        |rig| {
            assert_corrupt(&rig.checked_len());
            assert_corrupt(&rig.remove(1));
            assert_corrupt(&rig.zap_all());
        },
    );
}

#[test]
fn i_chain_a_wrong_tail_count_is_a_corrupt_chain() {
    for tail in [0, 13, 15, u32::MAX] {
        with_corruption(
            |desc| desc.tail_count.store(tail, Relaxed),
            |rig| {
                assert_corrupt(&rig.checked_len());
                assert_corrupt(&rig.zap_all());
            },
        );
    }
}
