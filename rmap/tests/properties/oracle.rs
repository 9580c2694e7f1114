//! What an MMU should be: a map from place to state.
//!
//! SPTEs of the TDP MMU belong to no slot: its tables are the VM's. At most one of them
//! maps a gfn, of whatever size.

use std::collections::{BTreeMap, BTreeSet};

use rmap::{
    Gfn, GfnRange, Level, Mapping, MmuConfig, RmapError, SchemeInfo, memslot::draw_permille,
};

use crate::aging::Sight;

/// The slot of what is in no slot: the SPTEs of the TDP MMU.
const TDP: usize = usize::MAX;

/// Slot, level, index of the page at that level, alias.
pub(crate) type Key = (usize, Level, u64, u32);

/// Slot, level, index of the page at that level.
type Rmap = (usize, Level, u64);

/// The gfns of the page.
fn pages((_, level, index, _): &Key) -> GfnRange {
    GfnRange::pages(Gfn(index * level.npages()), level.npages())
}

fn rmap((slot, level, index, _): &Key) -> Rmap {
    (*slot, *level, *index)
}

#[derive(Debug, Clone, Copy)]
struct State {
    young: bool,
    writable: bool,
}

#[derive(Debug)]
pub(crate) struct Oracle {
    slots: Vec<GfnRange>,
    aliases: u32,
    mapped: BTreeMap<Key, State>,
    /// Rmaps that have held two SPTEs or more since they were last empty.
    with_descriptor: BTreeSet<Rmap>,
    /// Aliases below this are the TDP MMU's.
    tdp_aliases: u32,
    /// What aging can see under the scheme.
    sight: Sight,
}

impl Oracle {
    /// An empty MMU of the scheme.
    pub(crate) fn new(config: &MmuConfig, scheme: &SchemeInfo) -> Self {
        let slots = config.memslots.iter();
        Self {
            slots: slots
                .map(|slot| GfnRange::pages(slot.base_gfn, slot.npages))
                .collect(),
            aliases: scheme.aliases(config.aliases),
            mapped: BTreeMap::new(),
            with_descriptor: BTreeSet::new(),
            tdp_aliases: scheme.tdp_aliases(),
            sight: Sight::of(scheme),
        }
    }

    fn slot(&self, gfn: Gfn) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.start <= gfn && gfn < slot.end)
    }

    fn key(&self, mapping: Mapping) -> Option<Key> {
        let slot = self.slot(mapping.gfn)?;
        let slot = if self.is_tdp(mapping) { TDP } else { slot };
        let index = mapping.gfn.0 / mapping.level.npages();
        (mapping.alias < self.aliases).then_some((slot, mapping.level, index, mapping.alias))
    }

    /// The mapping would be the TDP MMU's.
    pub(crate) fn is_tdp(&self, mapping: Mapping) -> bool {
        mapping.alias < self.tdp_aliases
    }

    /// The TDP MMU's keys whose pages share a gfn with this page.
    fn tdp_keys(&self, page: GfnRange) -> Vec<Key> {
        let keys = self.mapped.keys().filter(|key| key.0 == TDP);
        let keys = keys.filter(|key| pages(key).intersection(&page).is_some());
        keys.copied().collect()
    }

    /// Splits every TDP page larger than `level` that holds `gfn` over smaller ones.
    fn split_tdp(&mut self, gfn: Gfn, level: Level) {
        for (larger, smaller) in [
            (Level::Size1G, Level::Size2M),
            (Level::Size2M, Level::Size4K),
        ] {
            let key = (TDP, larger, gfn.0 / larger.npages(), 0);
            if larger <= level || !self.mapped.contains_key(&key) {
                continue;
            }
            let first = key.2 * 512;
            if let Some(state) = self.mapped.remove(&key) {
                let parts = (first..first + 512).map(|index| ((TDP, smaller, index, 0), state));
                self.mapped.extend(parts);
            }
        }
    }

    /// Makes place for a TDP SPTE: splits what is larger, zaps what is smaller.
    fn make_place(&mut self, key: &Key) {
        self.split_tdp(pages(key).start, key.1);
        for other in self.tdp_keys(pages(key)) {
            if other != *key {
                self.mapped.remove(&other);
            }
        }
    }

    /// The error a mapping must give, if any.
    pub(crate) fn check(&self, mapping: Mapping) -> Result<(), RmapError> {
        if self.slot(mapping.gfn).is_none() {
            return Err(RmapError::NoMemslot(mapping.gfn));
        }
        if mapping.alias >= self.aliases {
            return Err(RmapError::NoSuchAlias {
                alias: mapping.alias,
                aliases: self.aliases,
            });
        }
        Ok(())
    }

    /// Returns whether it was mapped already.
    pub(crate) fn fault(&mut self, mapping: Mapping, write: bool) -> bool {
        let Some(key) = self.key(mapping) else {
            return false;
        };
        if key.0 == TDP {
            self.make_place(&key);
        }
        let old = self.mapped.get(&key).copied();
        let writable = write || old.is_some_and(|state| state.writable);
        self.mapped.insert(
            key,
            State {
                young: true,
                writable,
            },
        );
        if key.0 != TDP && self.rmap_len(mapping) > 1 {
            self.with_descriptor.insert(rmap(&key));
        }
        old.is_some()
    }

    /// An rmap gives its last descriptor back when its last SPTE goes.
    fn drop_descriptors(&mut self) {
        let mapped = &self.mapped;
        self.with_descriptor.retain(|&(slot, level, index)| {
            let rmap = (slot, level, index, 0)..=(slot, level, index, u32::MAX);
            mapped.range(rmap).next().is_some()
        });
    }

    /// Returns whether it was young, if it was mapped.
    pub(crate) fn zap(&mut self, mapping: Mapping) -> Option<bool> {
        let key = self.key(mapping)?;
        let old = self.mapped.remove(&key);
        self.drop_descriptors();
        old.map(|state| state.young)
    }

    pub(crate) fn zap_rmap(&mut self, mapping: Mapping) {
        if let Some(zapped) = self.key(mapping) {
            self.mapped.retain(|key, _| rmap(key) != rmap(&zapped));
            self.drop_descriptors();
        }
    }

    /// Zaps every entry of the page-table page that holds the mapping's; of the TDP
    /// MMU everything that is mapped where the table is, split off larger pages first.
    pub(crate) fn zap_page(&mut self, mapping: Mapping) {
        if self.is_tdp(mapping) {
            let above = mapping.level.npages() * 512;
            let table = GfnRange::pages(Gfn(mapping.gfn.0 / above * above), above);
            let parent = match mapping.level {
                Level::Size4K => Level::Size2M,
                Level::Size2M | Level::Size1G => Level::Size1G,
            };
            self.split_tdp(mapping.gfn, parent);
            for key in self.tdp_keys(table) {
                self.mapped.remove(&key);
            }
            return;
        }
        if let Some((slot, level, index, alias)) = self.key(mapping) {
            let page = |key: &Key| (key.0, key.1, key.2 / 512, key.3);
            self.mapped
                .retain(|key, _| page(key) != (slot, level, index / 512, alias));
            self.drop_descriptors();
        }
    }

    /// SPTEs in the rmap of the mapping's page.
    pub(crate) fn rmap_len(&self, mapping: Mapping) -> u32 {
        let Some(slot) = self.slot(mapping.gfn) else {
            return 0;
        };
        let of = |alias| {
            let index = mapping.gfn.0 / mapping.level.npages();
            (slot, mapping.level, index, alias)
        };
        self.mapped.range(of(0)..=of(u32::MAX)).count() as u32
    }

    /// SPTEs that map the mapping's page at its level; none outside the slots.
    pub(crate) fn chain_len(&self, mapping: Mapping) -> Option<u32> {
        self.slot(mapping.gfn)?;
        let tdp = self.key(Mapping {
            alias: 0,
            ..mapping
        });
        let tdp = tdp.is_some_and(|key| key.0 == TDP && self.mapped.contains_key(&key));
        Some(self.rmap_len(mapping) + u32::from(tdp))
    }

    pub(crate) fn touch(&mut self, mapping: Mapping) -> bool {
        let state = self.key(mapping).and_then(|key| self.mapped.get_mut(&key));
        state.map(|state| state.young = true).is_some()
    }

    /// The mapping's page shares a gfn with the range and with its own slot.
    fn overlaps(&self, key: &Key, range: GfnRange) -> bool {
        let mut slots = self.slots.iter().enumerate();
        slots.any(|(number, slot)| {
            let part = slot.intersection(&range);
            let part = part.and_then(|part| part.intersection(&pages(key)));
            part.is_some() && (key.0 == TDP || key.0 == number)
        })
    }

    pub(crate) fn keys(&self, range: GfnRange) -> Vec<Key> {
        let keys = self.mapped.keys();
        keys.filter(|key| self.overlaps(key, range))
            .copied()
            .collect()
    }

    pub(crate) fn unmap(&mut self, range: GfnRange) -> u64 {
        let keys = self.keys(range);
        for key in &keys {
            self.mapped.remove(key);
        }
        self.drop_descriptors();
        keys.len() as u64
    }

    /// Zaps the 4 KiB SPTEs whose 2 MiB page lies inside one slot and the range.
    pub(crate) fn zap_collapsible(&mut self, range: GfnRange) -> u64 {
        let huge = Level::Size2M.npages();
        let parts = self.slots.iter().map(|slot| slot.intersection(&range));
        let parts: Vec<_> = parts.collect();
        let is_zapped = |key: &Key| {
            let page = GfnRange::pages(Gfn(key.2 / huge * huge), huge);
            let mut parts = parts.iter().enumerate();
            key.1 == Level::Size4K
                && parts.any(|(slot, part)| {
                    part.and_then(|part| part.intersection(&page)) == Some(page)
                        && (key.0 == slot || key.0 == TDP)
                })
        };
        let before = self.mapped.len();
        self.mapped.retain(|key, _| !is_zapped(key));
        self.drop_descriptors();
        (before - self.mapped.len()) as u64
    }

    /// Whether the page's rmap has a descriptor.
    pub(crate) fn is_chain(&self, key: &Key) -> bool {
        self.with_descriptor.contains(&rmap(key))
    }

    /// Whether any SPTE is the shadow MMU's.
    pub(crate) fn has_shadow(&self) -> bool {
        self.mapped.keys().any(|key| key.0 != TDP)
    }

    pub(crate) fn sight(&self) -> Sight {
        self.sight
    }

    pub(crate) fn any_young(&self, keys: &[Key]) -> bool {
        keys.iter().any(|key| self.mapped[key].young)
    }

    pub(crate) fn make_old(&mut self, keys: &[Key]) {
        for key in keys {
            self.mapped
                .entry(*key)
                .and_modify(|state| state.young = false);
        }
    }

    /// The share is the MMU's to draw; that it is one is checked by
    /// `a_young_share_is_about_what_was_asked_for`.
    pub(crate) fn set_young_share(&mut self, range: GfnRange, permille: u16, seed: u64) {
        for key in self.keys(range) {
            let (_, level, index, alias) = key;
            let mapping = Mapping::new(Gfn(index * level.npages()), level, alias);
            let young = draw_permille(mapping, seed) < permille;
            self.mapped
                .entry(key)
                .and_modify(|state| state.young = young);
        }
    }

    pub(crate) fn write_protect(&mut self, range: GfnRange) -> u64 {
        let mut protected = 0;
        for key in self.keys(range) {
            self.mapped.entry(key).and_modify(|state| {
                protected += u64::from(state.writable);
                state.writable = false;
            });
        }
        protected
    }
}
