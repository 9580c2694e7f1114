//! Where everything lies in the guest, and the guest's own page tables.
//!
//! The guest has two memslots: a low one for code, control page and page tables, and one for the
//! data pages; a third that it never touches if asked for. Data page `i` is mapped at `aliases` virtual addresses, each through its own
//! guest page-table page, which makes shadow paging build one SPTE per alias.
//!
//! Invariant: table pages come from the low memslot only and never overlap code or control page.

use crate::memory::Mapping;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes a page-table page of the last level maps.
pub(crate) const TABLE_SPAN: u64 = 512 * PAGE_SIZE;

/// Guest physical address of the code.
pub(crate) const CODE_GPA: u64 = 0x1000;
/// Guest physical address of the control page.
pub(crate) const CONTROL_GPA: u64 = 0x2000;
/// Guest physical address of the program of L1, where the guest is nested.
pub(crate) const L1_CODE_GPA: u64 = 0x3000;
/// Guest physical address of L2's VMCB.
pub(crate) const VMCB_GPA: u64 = 0x4000;
/// Guest physical address of the page where VMRUN may save L1's state.
pub(crate) const HSAVE_GPA: u64 = 0x5000;
/// Guest physical address, for L1 and for L2, of L2's own page tables.
pub(crate) const L2_TABLES_GPA: u64 = 0x6000;
/// Guest physical address no memslot backs: a write to it ends KVM_RUN.
pub(crate) const EXIT_GPA: u64 = 0xd000_0000;
/// Guest physical address of the first data page.
pub(crate) const DATA_GPA: u64 = 0x1_0000_0000;

/// Virtual address of the code.
pub(crate) const CODE_VA: u64 = 0x40_0000;
/// Virtual address of the control page.
pub(crate) const CONTROL_VA: u64 = 0x40_1000;
/// Virtual address of the page that ends KVM_RUN.
pub(crate) const EXIT_VA: u64 = 0x40_2000;
/// Virtual address of the program of L1.
pub(crate) const L1_CODE_VA: u64 = 0x40_3000;
/// Virtual address of L2's VMCB.
pub(crate) const VMCB_VA: u64 = 0x40_4000;
/// Virtual address of the first alias of the first data page.
pub(crate) const DATA_VA: u64 = 0x10_0000_0000;

const FIRST_TABLE_GPA: u64 = 0x10_0000;
/// The low memslot ends below the page that is left unbacked.
const LOW_LIMIT: u64 = 0xc000_0000;
/// User half of a four-level address space.
const VA_LIMIT: u64 = 1 << 47;
/// Physical address bits every 64-bit CPU has.
const PHYSICAL_BITS: u32 = 36;
/// Physical address bits every CPU with nested paging has: what L2's gpas must fit.
pub(crate) const L2_PHYSICAL_BITS: u32 = 40;

/// Present, writable, user, accessed, dirty: nothing left for the CPU to set.
pub(crate) const LEAF_FLAGS: u64 = 0x67;
pub(crate) const TABLE_FLAGS: u64 = 0x27;
const PRESENT: u64 = 1;
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Virtual distance between two aliases of the same page.
pub(crate) fn alias_stride(pages: u64) -> u64 {
    (pages * PAGE_SIZE).next_multiple_of(TABLE_SPAN)
}

/// Page-table pages a guest needs that maps each page `mappings` times, with room to spare.
pub(crate) fn table_pages(pages: u64, mappings: u64) -> u64 {
    let last_level = mappings * pages.div_ceil(512);
    // One directory per 512 last-level tables and one per 512 of those, and the edges of the
    // address spaces of L1 and L2.
    last_level + last_level.div_ceil(512) + last_level.div_ceil(512 * 512) + 32
}

/// Bytes of the low memslot.
pub(crate) fn low_bytes(pages: u64, mappings: u64) -> u64 {
    (FIRST_TABLE_GPA + table_pages(pages, mappings) * PAGE_SIZE).next_multiple_of(TABLE_SPAN)
}

/// Shadow pages KVM may keep, so that it never recycles one of ours.
pub(crate) fn shadow_pages(pages: u64, mappings: u64) -> u64 {
    4096 + 2 * table_pages(pages, mappings)
}

/// Most data pages that fit the guest's address spaces with `aliases` aliases (at least 1). The
/// aliases of a nested guest are physical addresses of L2's, and L1 maps each page once more.
pub(crate) fn max_pages(aliases: u64, nested: bool) -> u64 {
    let (limit, mappings) = if nested {
        (1 << L2_PHYSICAL_BITS, aliases + 1)
    } else {
        (VA_LIMIT, aliases)
    };
    let by_physical = ((1u64 << PHYSICAL_BITS) - DATA_GPA) / PAGE_SIZE;
    let by_virtual = (limit - DATA_VA) / aliases / TABLE_SPAN * 512;
    let table_room = (LOW_LIMIT - FIRST_TABLE_GPA) / PAGE_SIZE - 64;
    // Directories cost one page in 512 on top of the last level.
    let by_tables = table_room / 513 * 512 / mappings * 512;
    by_physical.min(by_virtual).min(by_tables)
}

/// Guest physical address of the spare memslot, behind the data pages.
pub(crate) fn spare_gpa(pages: u64) -> u64 {
    DATA_GPA + pages * PAGE_SIZE
}

/// Most pages a spare memslot behind `pages` data pages has room for.
pub(crate) fn max_spare_pages(pages: u64) -> u64 {
    let data = pages.saturating_mul(PAGE_SIZE);
    ((1u64 << PHYSICAL_BITS) - DATA_GPA).saturating_sub(data) / PAGE_SIZE
}

/// Writes four-level page tables into the low memslot.
pub(crate) struct PageTables<'a> {
    low: &'a Mapping,
    next_table: u64,
    root: u64,
}

impl<'a> PageTables<'a> {
    /// Empty tables in fresh (zeroed) low memory.
    pub(crate) fn new(low: &'a Mapping) -> Self {
        Self {
            low,
            next_table: FIRST_TABLE_GPA + PAGE_SIZE,
            root: FIRST_TABLE_GPA,
        }
    }

    /// The value for CR3.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// Empty tables of another address space, behind these, which are complete.
    pub(crate) fn next(self) -> Self {
        Self {
            low: self.low,
            next_table: self.next_table + PAGE_SIZE,
            root: self.next_table,
        }
    }

    /// Maps code, control page, exit page and every alias of every data page.
    ///
    /// Returns `None` if the low memslot is too small for the tables.
    pub(crate) fn map_guest(&mut self, pages: u64, aliases: u64) -> Option<()> {
        self.map(CODE_VA, CODE_GPA)?;
        self.map(CONTROL_VA, CONTROL_GPA)?;
        self.map(EXIT_VA, EXIT_GPA)?;
        self.map_data(pages, aliases)
    }

    /// Maps every alias of every data page.
    pub(crate) fn map_data(&mut self, pages: u64, aliases: u64) -> Option<()> {
        let stride = alias_stride(pages);
        for alias in 0..aliases {
            let base = DATA_VA + alias * stride;
            for page in 0..pages {
                self.map(base + page * PAGE_SIZE, DATA_GPA + page * PAGE_SIZE)?;
            }
        }
        Some(())
    }

    /// Maps one page.
    pub(crate) fn map(&mut self, va: u64, gpa: u64) -> Option<()> {
        let mut table = self.root;
        for shift in [39, 30, 21] {
            table = self.descend(table, va >> shift & 511)?;
        }
        self.low
            .store(table + (va >> 12 & 511) * 8, gpa | LEAF_FLAGS)
    }

    /// A table beyond the low memslot is noticed when the first entry is stored in it.
    fn descend(&mut self, table: u64, index: u64) -> Option<u64> {
        let slot = table + index * 8;
        let entry = self.low.load(slot)?;
        if entry & PRESENT != 0 {
            return Some(entry & ADDRESS_MASK);
        }
        let new = self.next_table;
        self.next_table += PAGE_SIZE;
        self.low.store(slot, new | TABLE_FLAGS)?;
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn low_for(pages: u64, aliases: u64) -> Mapping {
        Mapping::anonymous(low_bytes(pages, aliases)).expect("anonymous memory")
    }

    /// A walk as the CPU does it: the leaf entry and the gpa of the page table it is in.
    fn walk(low: &Mapping, root: u64, va: u64) -> Option<(u64, u64)> {
        let mut table = root;
        for shift in [39, 30, 21] {
            let entry = low.load(table + (va >> shift & 511) * 8)?;
            if entry & PRESENT == 0 {
                return None;
            }
            table = entry & ADDRESS_MASK;
        }
        Some((low.load(table + (va >> 12 & 511) * 8)?, table))
    }

    #[test]
    fn every_alias_of_a_page_leads_to_it_through_a_table_of_its_own() {
        for (pages, aliases) in [(1, 1), (511, 3), (512, 16), (513, 5)] {
            let low = low_for(pages, aliases);
            let mut tables = PageTables::new(&low);
            tables.map_guest(pages, aliases).expect("tables fit");
            for page in 0..pages {
                let mut seen = HashSet::new();
                for alias in 0..aliases {
                    let va = DATA_VA + alias * alias_stride(pages) + page * PAGE_SIZE;
                    let (leaf, table) = walk(&low, tables.root(), va).expect("mapped");
                    assert_eq!(leaf, (DATA_GPA + page * PAGE_SIZE) | LEAF_FLAGS);
                    assert!(seen.insert(table), "two aliases share a page table");
                }
            }
        }
    }

    #[test]
    fn nothing_but_the_guest_is_mapped() {
        let low = low_for(3, 1);
        let mut tables = PageTables::new(&low);
        tables.map_guest(3, 1).expect("tables fit");
        for (va, gpa) in [
            (CODE_VA, CODE_GPA),
            (CONTROL_VA, CONTROL_GPA),
            (EXIT_VA, EXIT_GPA),
        ] {
            let (leaf, _) = walk(&low, tables.root(), va).expect("mapped");
            assert_eq!(leaf, gpa | LEAF_FLAGS);
        }
        let (beyond, _) = walk(&low, tables.root(), DATA_VA + 3 * PAGE_SIZE).expect("same table");
        assert_eq!(beyond, 0);
        assert_eq!(walk(&low, tables.root(), 0), None);
    }

    #[test]
    fn the_largest_guests_fit_their_tables_and_address_spaces() {
        for (aliases, nested) in [1, 2, 7, 64, 999, 1000]
            .map(|k| [(k, false), (k, true)])
            .concat()
        {
            let pages = max_pages(aliases, nested);
            let low = low_bytes(pages, aliases + u64::from(nested));
            assert!(low <= LOW_LIMIT, "{aliases} aliases");
            let end = DATA_VA + aliases * alias_stride(pages);
            assert!(
                end <= if nested {
                    1 << L2_PHYSICAL_BITS
                } else {
                    VA_LIMIT
                }
            );
            assert!(DATA_GPA + pages * PAGE_SIZE <= 1 << PHYSICAL_BITS);
        }
    }

    #[test]
    fn too_little_low_memory_is_noticed() {
        let low = low_for(1, 1);
        assert_eq!(PageTables::new(&low).map_guest(512, 400), None);
    }
}
