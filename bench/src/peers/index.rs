//! The four maps, behind one small trait.
//!
//! Each is used as its documentation recommends: entries are changed in place
//! where the map locks them, and replaced by a changed copy where readers are
//! lock-free. A page without SPTEs has no entry.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::ptr::NonNull;

use foldhash::fast::RandomState;
use papaya::Operation;
use parking_lot::RwLock;
use rmap::spte::Spte;

/// An SPTE in a shadow page that lives as long as the index it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SptePtr(NonNull<Spte>);

// SAFETY: I-life: what it points to lives as long as the index; an SPTE is one
// atomic word, to be used from any thread.
unsafe impl Send for SptePtr {}
// SAFETY: as for Send.
unsafe impl Sync for SptePtr {}

impl SptePtr {
    pub(super) fn new(spte: NonNull<Spte>) -> Self {
        Self(spte)
    }

    /// The SPTE.
    #[inline(always)]
    pub(super) fn get(&self) -> &Spte {
        // SAFETY: I-life: shadow pages live as long as their MMU, and an index is
        // dropped before them.
        unsafe { self.0.as_ref() }
    }
}

/// A map from a page of one level to the SPTEs that map it. Only one thread at a
/// time changes it; any number walk it meanwhile.
pub trait Index: Default + Send + Sync + 'static {
    /// Adds an SPTE that is not there yet; returns how many the page has then.
    fn add(&self, page: u64, spte: SptePtr) -> usize;

    /// Removes an SPTE; false if it was not there.
    fn remove(&self, page: u64, spte: SptePtr) -> bool;

    /// Removes all SPTEs of a page.
    fn take(&self, page: u64) -> Vec<SptePtr>;

    /// SPTEs of a page.
    fn len(&self, page: u64) -> usize;

    /// Visits the SPTEs of some pages until `visit` breaks.
    fn walk(
        &self,
        pages: Range<u64>,
        visit: &mut impl FnMut(SptePtr) -> ControlFlow<()>,
    ) -> ControlFlow<()>;
}

/// Takes an SPTE out of a vector; order does not matter.
fn take_out(sptes: &mut Vec<SptePtr>, spte: SptePtr) -> bool {
    let Some(place) = sptes.iter().position(|&entry| entry == spte) else {
        return false;
    };
    sptes.swap_remove(place);
    true
}

/// `RwLock<HashMap<page, Vec<SPTE>>>`.
#[derive(Debug, Default)]
pub struct RwLockIndex(RwLock<HashMap<u64, Vec<SptePtr>, RandomState>>);

impl Index for RwLockIndex {
    fn add(&self, page: u64, spte: SptePtr) -> usize {
        let mut map = self.0.write();
        let sptes = map.entry(page).or_default();
        sptes.push(spte);
        sptes.len()
    }

    fn remove(&self, page: u64, spte: SptePtr) -> bool {
        let mut map = self.0.write();
        let Some(sptes) = map.get_mut(&page) else {
            return false;
        };
        let removed = take_out(sptes, spte);
        if sptes.is_empty() {
            map.remove(&page);
        }
        removed
    }

    fn take(&self, page: u64) -> Vec<SptePtr> {
        self.0.write().remove(&page).unwrap_or_default()
    }

    fn len(&self, page: u64) -> usize {
        self.0.read().get(&page).map_or(0, Vec::len)
    }

    #[inline]
    fn walk(
        &self,
        mut pages: Range<u64>,
        visit: &mut impl FnMut(SptePtr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let map = self.0.read();
        pages.try_for_each(|page| match map.get(&page) {
            Some(sptes) => sptes.iter().copied().try_for_each(&mut *visit),
            None => ControlFlow::Continue(()),
        })
    }
}

/// dashmap: a sharded hash map with a lock per shard.
#[derive(Debug, Default)]
pub struct DashIndex(dashmap::DashMap<u64, Vec<SptePtr>, RandomState>);

impl Index for DashIndex {
    fn add(&self, page: u64, spte: SptePtr) -> usize {
        let mut sptes = self.0.entry(page).or_default();
        sptes.push(spte);
        sptes.len()
    }

    fn remove(&self, page: u64, spte: SptePtr) -> bool {
        let removed = self
            .0
            .get_mut(&page)
            .is_some_and(|mut sptes| take_out(&mut sptes, spte));
        self.0.remove_if(&page, |_, sptes| sptes.is_empty());
        removed
    }

    fn take(&self, page: u64) -> Vec<SptePtr> {
        self.0
            .remove(&page)
            .map(|(_, sptes)| sptes)
            .unwrap_or_default()
    }

    fn len(&self, page: u64) -> usize {
        self.0.get(&page).map_or(0, |sptes| sptes.len())
    }

    #[inline]
    fn walk(
        &self,
        mut pages: Range<u64>,
        visit: &mut impl FnMut(SptePtr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        pages.try_for_each(|page| match self.0.get(&page) {
            Some(sptes) => sptes.iter().copied().try_for_each(&mut *visit),
            None => ControlFlow::Continue(()),
        })
    }
}

/// papaya: a hash map with lock-free readers; values are replaced, not changed.
#[derive(Debug, Default)]
pub struct PapayaIndex(papaya::HashMap<u64, Vec<SptePtr>, RandomState>);

impl Index for PapayaIndex {
    fn add(&self, page: u64, spte: SptePtr) -> usize {
        let grown = |sptes: &Vec<SptePtr>| {
            let mut more = Vec::with_capacity(sptes.len() + 1);
            more.extend_from_slice(sptes);
            more.push(spte);
            more
        };
        let map = self.0.pin();
        map.update_or_insert_with(page, grown, || vec![spte]).len()
    }

    fn remove(&self, page: u64, spte: SptePtr) -> bool {
        let map = self.0.pin();
        let mut removed = false;
        map.compute(page, |entry| {
            removed = false;
            let Some((_, sptes)) = entry else {
                return Operation::Abort(());
            };
            let mut fewer = sptes.clone();
            removed = take_out(&mut fewer, spte);
            match (removed, fewer.is_empty()) {
                (false, _) => Operation::Abort(()),
                (true, true) => Operation::Remove,
                (true, false) => Operation::Insert(fewer),
            }
        });
        removed
    }

    fn take(&self, page: u64) -> Vec<SptePtr> {
        self.0.pin().remove(&page).cloned().unwrap_or_default()
    }

    fn len(&self, page: u64) -> usize {
        self.0.pin().get(&page).map_or(0, Vec::len)
    }

    #[inline]
    fn walk(
        &self,
        mut pages: Range<u64>,
        visit: &mut impl FnMut(SptePtr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let map = self.0.pin();
        pages.try_for_each(|page| match map.get(&page) {
            Some(sptes) => sptes.iter().copied().try_for_each(&mut *visit),
            None => ControlFlow::Continue(()),
        })
    }
}

/// scc: a hash map with a lock per bucket.
#[derive(Debug, Default)]
pub struct SccIndex(scc::HashMap<u64, Vec<SptePtr>, RandomState>);

impl Index for SccIndex {
    fn add(&self, page: u64, spte: SptePtr) -> usize {
        let mut sptes = self.0.entry_sync(page).or_default();
        sptes.push(spte);
        sptes.len()
    }

    fn remove(&self, page: u64, spte: SptePtr) -> bool {
        let removed = self
            .0
            .update_sync(&page, |_, sptes| take_out(sptes, spte))
            .unwrap_or(false);
        self.0.remove_if_sync(&page, |sptes| sptes.is_empty());
        removed
    }

    fn take(&self, page: u64) -> Vec<SptePtr> {
        self.0
            .remove_sync(&page)
            .map(|(_, sptes)| sptes)
            .unwrap_or_default()
    }

    fn len(&self, page: u64) -> usize {
        self.0.read_sync(&page, |_, sptes| sptes.len()).unwrap_or(0)
    }

    #[inline]
    fn walk(
        &self,
        mut pages: Range<u64>,
        visit: &mut impl FnMut(SptePtr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        pages.try_for_each(|page| {
            let walked = self.0.read_sync(&page, |_, sptes| {
                sptes.iter().copied().try_for_each(&mut *visit)
            });
            walked.unwrap_or(ControlFlow::Continue(()))
        })
    }
}
