//! Memslots: the rmap heads of a run of guest memory, and its shadow pages.
//!
//! There is one head per level and page of that level, at index
//! `(gfn >> 9·level) - (base_gfn >> 9·level)`, as in KVM. SPTEs sit in 4 KiB shadow
//! pages of 512; every alias has its own column of them, and the entry for a gfn is
//! number `gfn % 512` in each, which is where KVM puts it when a guest maps one gpa
//! through distinct page-table pages. So walking a chain of K entries touches K
//! cache lines in K pages, at the same offset of each.
//!
//! **I-life**: shadow pages live as long as their MMU.

use std::{
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::{
    config::MmuConfig,
    error::RmapError,
    gfn::{Gfn, GfnRange, LEVEL_SHIFT, Level, Mapping},
    head::RmapHead,
    ranges::SlotRanges,
    spte::{Spte, SpteWord},
};

/// SPTEs in one shadow page.
pub const SPTES_PER_PAGE: usize = 1 << LEVEL_SHIFT;

/// One shadow page: a page table KVM builds for the hardware.
#[derive(Debug)]
#[repr(C, align(4096))]
struct PageTable([Spte; SPTES_PER_PAGE]);

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<PageTable>() == 4096, "one page table is one page");

impl PageTable {
    fn new() -> Self {
        Self(std::array::from_fn(|_| Spte::new()))
    }
}

/// One shadow page and who has it.
#[derive(Debug, Clone, Copy)]
pub struct ShadowPage<'a> {
    table: &'a PageTable,
    /// Set while the page is a stranger's. Written and read under mmu_lock.
    given_away: &'a AtomicBool,
}

impl<'a> ShadowPage<'a> {
    /// The page's SPTEs.
    #[must_use]
    pub fn sptes(&self) -> &'a [Spte] {
        &self.table.0
    }

    /// The page is a stranger's.
    #[must_use]
    pub fn is_given_away(&self) -> bool {
        self.given_away.load(Relaxed)
    }

    /// Notes whose the page is; under mmu_lock held for write.
    pub fn set_given_away(&self, given_away: bool) {
        self.given_away.store(given_away, Relaxed);
    }
}

/// Guest physical addresses end here: 52 bits.
const MAX_GFN: u64 = 1 << 40;

/// One memslot's heads and shadow pages.
#[derive(Debug)]
pub struct Memslot {
    range: GfnRange,
    /// The columns of shadow pages there are.
    aliases: Range<u32>,
    levels: [SlotLevel; Level::COUNT],
}

/// How SPTEs are found by gfn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    /// One head per page and level.
    Rmaps,
    /// Not by the memslot.
    None,
}

/// What a memslot keeps for one level.
#[derive(Debug)]
struct SlotLevel {
    /// Index of the slot's first page among all pages of the level.
    first_index: u64,
    /// `rmap[level][index - first_index]`.
    heads: Vec<RmapHead>,
    /// Number of the slot's first page table among all page tables of the level.
    first_table: u64,
    /// Page tables in one column.
    tables: usize,
    /// The first column's alias.
    first_alias: u32,
    /// Column after column.
    pages: Vec<PageTable>,
    /// For each page, whether it is a stranger's.
    given_away: Vec<AtomicBool>,
}

impl SlotLevel {
    fn new(
        range: &GfnRange,
        level: Level,
        aliases: &Range<u32>,
        index: Index,
    ) -> Result<Self, RmapError> {
        let first_index = range.start.0 >> level.shift();
        let last_index = (range.end.0 - 1) >> level.shift();
        let first_table = first_index >> LEVEL_SHIFT;
        let tables = ((last_index >> LEVEL_SHIFT) - first_table + 1) as usize;
        let heads = match index {
            Index::Rmaps => (last_index - first_index + 1) as usize,
            Index::None => 0,
        };
        let pages = tables.saturating_mul(aliases.len());
        Ok(Self {
            first_index,
            heads: try_collect(heads, RmapHead::new)?,
            first_table,
            tables,
            first_alias: aliases.start,
            pages: try_collect(pages, PageTable::new)?,
            given_away: try_collect(pages, AtomicBool::default)?,
        })
    }

    /// Position in `pages` of the page that holds the entry for `index`.
    fn page_number(&self, index: u64, alias: u32) -> Option<usize> {
        let table = (index >> LEVEL_SHIFT).checked_sub(self.first_table)? as usize;
        let column = alias.checked_sub(self.first_alias)? as usize;
        (table < self.tables).then_some(column * self.tables + table)
    }

    fn spte(&self, index: u64, alias: u32) -> Option<&Spte> {
        let page = self.pages.get(self.page_number(index, alias)?)?;
        page.0.get(index as usize % SPTES_PER_PAGE)
    }

    fn page(&self, index: u64, alias: u32) -> Option<ShadowPage<'_>> {
        let number = self.page_number(index, alias)?;
        Some(ShadowPage {
            table: self.pages.get(number)?,
            given_away: self.given_away.get(number)?,
        })
    }
}

/// `len` values, or an error instead of an abort if they do not fit into memory.
fn try_collect<T>(len: usize, new: fn() -> T) -> Result<Vec<T>, RmapError> {
    let mut values = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    values
        .try_reserve_exact(len)
        .map_err(|_| RmapError::OutOfMemory { bytes })?;
    values.resize_with(len, new);
    Ok(values)
}

impl Memslot {
    /// A slot without mappings.
    fn new(range: GfnRange, aliases: Range<u32>, index: Index) -> Result<Self, RmapError> {
        let [size_4k, size_2m, size_1g] =
            Level::ALL.map(|level| SlotLevel::new(&range, level, &aliases, index));
        Ok(Self {
            range,
            aliases,
            levels: [size_4k?, size_2m?, size_1g?],
        })
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "there is one for each level: no check is left"
    )]
    fn level(&self, level: Level) -> &SlotLevel {
        &self.levels[level.index()]
    }

    /// The slot's gfns.
    #[must_use]
    #[inline]
    pub fn range(&self) -> GfnRange {
        self.range
    }

    /// Aliases there are, counted from 0.
    #[must_use]
    pub fn aliases(&self) -> u32 {
        self.aliases.end
    }

    /// The head of `gfn`'s rmap at `level`.
    #[must_use]
    #[inline]
    pub fn head(&self, gfn: Gfn, level: Level) -> Option<&RmapHead> {
        let level_data = self.level(level);
        let index = (gfn.0 >> level.shift()).checked_sub(level_data.first_index)?;
        level_data.heads.get(index as usize)
    }

    /// The heads of all pages of `level` that hold a gfn of `range`, which must lie
    /// inside the slot; what lies outside is left out.
    #[must_use]
    #[inline]
    pub fn heads(&self, range: &GfnRange, level: Level) -> &[RmapHead] {
        let Some(range) = self.range.intersection(range) else {
            return &[];
        };
        let level_data = self.level(level);
        let first = (range.start.0 >> level.shift()) - level_data.first_index;
        let last = ((range.end.0 - 1) >> level.shift()) - level_data.first_index;
        level_data
            .heads
            .get(first as usize..=last as usize)
            .unwrap_or(&[])
    }

    /// The SPTE of a mapping.
    ///
    /// # Errors
    /// The alias does not exist.
    #[inline]
    pub fn spte(&self, mapping: Mapping) -> Result<NonNull<Spte>, RmapError> {
        let index = mapping.gfn.0 >> mapping.level.shift();
        let spte = self.level(mapping.level).spte(index, mapping.alias);
        spte.map(NonNull::from).ok_or(RmapError::NoSuchAlias {
            alias: mapping.alias,
            aliases: self.aliases.end,
        })
    }

    /// The shadow page that holds a mapping's SPTE.
    ///
    /// # Errors
    /// The alias does not exist.
    pub fn page(&self, mapping: Mapping) -> Result<ShadowPage<'_>, RmapError> {
        let index = mapping.gfn.0 >> mapping.level.shift();
        let page = self.level(mapping.level).page(index, mapping.alias);
        page.ok_or(RmapError::NoSuchAlias {
            alias: mapping.alias,
            aliases: self.aliases.end,
        })
    }

    /// Every SPTE of the page that holds `place`, with its mapping.
    pub fn page_sptes<'a>(
        &self,
        place: Mapping,
        page: ShadowPage<'a>,
    ) -> impl Iterator<Item = (Mapping, &'a Spte)> + use<'a> {
        let Mapping { level, alias, .. } = place;
        let first = place.gfn.0 >> level.shift() >> LEVEL_SHIFT << LEVEL_SHIFT;
        let sptes = page.sptes().iter().zip(first..);
        sptes.map(move |(spte, index)| {
            (
                Mapping::new(Gfn(index << level.shift()), level, alias),
                spte,
            )
        })
    }

    /// Every SPTE of `level` that maps a gfn of `range`, with its mapping, except
    /// those in pages that were given away.
    pub fn sptes(
        &self,
        range: GfnRange,
        level: Level,
    ) -> impl Iterator<Item = (Mapping, &Spte)> + '_ {
        let level_data = self.level(level);
        let indices = match self.range.intersection(&range) {
            Some(range) => range.start.0 >> level.shift()..((range.end.0 - 1) >> level.shift()) + 1,
            None => 0..0,
        };
        indices.flat_map(move |index| {
            self.aliases.clone().filter_map(move |alias| {
                let gfn = Gfn(index << level.shift());
                if level_data.page(index, alias)?.is_given_away() {
                    return None;
                }
                Some((
                    Mapping::new(gfn, level, alias),
                    level_data.spte(index, alias)?,
                ))
            })
        })
    }
}

/// A VM's memslots, by gfn.
#[derive(Debug)]
pub struct Memslots(Vec<Memslot>);

impl Memslots {
    /// Builds the configured slots, with columns of shadow pages for the aliases from
    /// `first_alias` on.
    ///
    /// # Errors
    /// The configuration is contradictory or does not fit into memory.
    pub fn new(config: &MmuConfig, first_alias: u32) -> Result<Self, RmapError> {
        Self::with_index(config, first_alias, Index::Rmaps)
    }

    /// The configured slots with their shadow pages and without any rmap head, for
    /// an MMU that finds its SPTEs by other means.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn without_heads(config: &MmuConfig) -> Result<Self, RmapError> {
        Self::with_index(config, 0, Index::None)
    }

    fn with_index(config: &MmuConfig, first_alias: u32, index: Index) -> Result<Self, RmapError> {
        let ranges = SlotRanges::new(config, MAX_GFN)?;
        let slots = ranges
            .iter()
            .map(|&range| Memslot::new(range, first_alias..config.aliases, index));
        Ok(Self(slots.collect::<Result<_, _>>()?))
    }

    /// All slots, by gfn.
    pub fn iter(&self) -> std::slice::Iter<'_, Memslot> {
        self.0.iter()
    }

    /// The slot that holds `gfn`.
    ///
    /// # Errors
    /// There is none.
    #[inline]
    pub fn slot(&self, gfn: Gfn) -> Result<&Memslot, RmapError> {
        let after = self.0.partition_point(|slot| slot.range.start <= gfn);
        let slot = after.checked_sub(1).and_then(|index| self.0.get(index));
        slot.filter(|slot| gfn < slot.range.end)
            .ok_or(RmapError::NoMemslot(gfn))
    }

    /// The slots that hold gfns of `range`, each with the part it holds.
    #[inline]
    pub fn overlapping(&self, range: GfnRange) -> impl Iterator<Item = (&Memslot, GfnRange)> + '_ {
        let first = self.0.partition_point(|slot| slot.range.end <= range.start);
        let slots = self.0.get(first..).unwrap_or(&[]).iter();
        slots.map_while(move |slot| Some((slot, slot.range.intersection(&range)?)))
    }

    /// Makes about `young_permille` of every 1000 present SPTEs of the range young
    /// and the rest old, chosen by `seed` alone.
    pub fn set_young_share(&self, range: GfnRange, young_permille: u16, seed: u64) {
        for (slot, range) in self.overlapping(range) {
            for (mapping, spte) in Level::ALL
                .iter()
                .flat_map(|&level| slot.sptes(range, level))
            {
                let young = draw_permille(mapping, seed) < young_permille;
                let change = if young {
                    SpteWord::touched
                } else {
                    SpteWord::aged
                };
                spte.update_present(change);
            }
        }
    }
}

/// 0 to 999, from the mapping and the seed alone (splitmix64's finish): an SPTE is made
/// young where this is below the share asked for.
#[must_use]
pub fn draw_permille(mapping: Mapping, seed: u64) -> u16 {
    let place = mapping.gfn.0 << 16 | u64::from(mapping.alias) << 2 | mapping.level.index() as u64;
    let mut x = (place ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ x >> 31) % 1000) as u16
}

impl<'a> IntoIterator for &'a Memslots {
    type Item = &'a Memslot;
    type IntoIter = std::slice::Iter<'a, Memslot>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
