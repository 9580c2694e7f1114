//! What an MMU should be: a map from place to state.

use std::collections::{BTreeMap, BTreeSet};

use rmap::{Gfn, GfnRange, Level, Mapping, MmuConfig, RmapError};

/// Slot, level, index of the page at that level, alias.
type Key = (usize, Level, u64, u32);

/// Slot, level, index of the page at that level.
type Rmap = (usize, Level, u64);

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
    /// Whether aging looks into rmaps with a descriptor.
    ages_chains: bool,
}

impl Oracle {
    /// An empty MMU whose aging sees all SPTEs, or only those alone in their rmap.
    pub(crate) fn new(config: &MmuConfig, ages_chains: bool) -> Self {
        let slots = config.memslots.iter();
        Self {
            slots: slots
                .map(|slot| GfnRange::pages(slot.base_gfn, slot.npages))
                .collect(),
            aliases: config.aliases,
            mapped: BTreeMap::new(),
            with_descriptor: BTreeSet::new(),
            ages_chains,
        }
    }

    fn slot(&self, gfn: Gfn) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.start <= gfn && gfn < slot.end)
    }

    fn key(&self, mapping: Mapping) -> Option<Key> {
        let slot = self.slot(mapping.gfn)?;
        let index = mapping.gfn.0 / mapping.level.npages();
        (mapping.alias < self.aliases).then_some((slot, mapping.level, index, mapping.alias))
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
        let old = self.mapped.get(&key).copied();
        let writable = write || old.is_some_and(|state| state.writable);
        self.mapped.insert(
            key,
            State {
                young: true,
                writable,
            },
        );
        if self.chain_len(mapping) > 1 {
            self.with_descriptor.insert(rmap(&key));
        }
        old.is_some()
    }

    /// An rmap gives its last descriptor back when its last SPTE goes.
    fn drop_descriptors(&mut self) {
        let mapped = &self.mapped;
        self.with_descriptor
            .retain(|of| mapped.keys().any(|key| rmap(key) == *of));
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

    /// Zaps every entry of the page-table page that holds the mapping's.
    pub(crate) fn zap_page(&mut self, mapping: Mapping) {
        if let Some((slot, level, index, alias)) = self.key(mapping) {
            let page = |key: &Key| (key.0, key.1, key.2 / 512, key.3);
            self.mapped
                .retain(|key, _| page(key) != (slot, level, index / 512, alias));
            self.drop_descriptors();
        }
    }

    pub(crate) fn chain_len(&self, mapping: Mapping) -> u32 {
        let first = self.key(Mapping {
            alias: 0,
            ..mapping
        });
        first.map_or(0, |(slot, level, index, _)| {
            self.mapped
                .range((slot, level, index, 0)..=(slot, level, index, u32::MAX))
                .count() as u32
        })
    }

    pub(crate) fn touch(&mut self, mapping: Mapping) -> bool {
        let state = self.key(mapping).and_then(|key| self.mapped.get_mut(&key));
        state.map(|state| state.young = true).is_some()
    }

    /// The mapping's page shares a gfn with the range and with its own slot.
    fn overlaps(&self, key: &Key, range: GfnRange) -> bool {
        let (slot, level, index, _) = *key;
        let page = GfnRange::pages(Gfn(index * level.npages()), level.npages());
        let part = self.slots[slot].intersection(&range);
        part.is_some_and(|part| part.intersection(&page).is_some())
    }

    fn keys(&self, range: GfnRange) -> Vec<Key> {
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

    /// What aging reaches of the range.
    fn aged_keys(&self, range: GfnRange) -> Vec<Key> {
        let mut keys = self.keys(range);
        keys.retain(|key| self.ages_chains || !self.with_descriptor.contains(&rmap(key)));
        keys
    }

    /// What test-age answers.
    pub(crate) fn test_age(&self, range: GfnRange) -> bool {
        let keys = self.aged_keys(range);
        keys.iter().any(|key| self.mapped[key].young)
    }

    /// What age answers; the SPTEs it reaches are old afterwards, the others stay.
    pub(crate) fn age(&mut self, range: GfnRange) -> bool {
        let young = self.test_age(range);
        for key in self.aged_keys(range) {
            self.mapped
                .entry(key)
                .and_modify(|state| state.young = false);
        }
        young
    }

    pub(crate) fn set_young(&mut self, range: GfnRange, young: bool) {
        for key in self.keys(range) {
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
