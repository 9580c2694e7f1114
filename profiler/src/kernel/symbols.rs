//! Kernel functions from kallsyms: their text ranges, and names for stacks.
//! And one variable, where kallsyms lists variables.

use std::{collections::HashMap, fs};

use profiler_common::symbols::{MAX_RANGES, TextRange, tag};

use super::KernelError;

/// Functions whose frames mean something, and what.
const FUNCTIONS: &[(&str, u64)] = &[
    ("__mmu_notifier_clear_flush_young", tag::CLEAR_FLUSH_YOUNG),
    ("kvm_mmu_notifier_clear_flush_young", tag::CLEAR_FLUSH_YOUNG),
    ("__mmu_notifier_clear_young", tag::CLEAR_YOUNG),
    ("kvm_mmu_notifier_clear_young", tag::CLEAR_YOUNG),
    ("__mmu_notifier_test_young", tag::TEST_YOUNG),
    ("kvm_mmu_notifier_test_young", tag::TEST_YOUNG),
    ("kvm_age_gfn", tag::AGE_GFN),
    ("kvm_test_age_gfn", tag::AGE_GFN),
    ("kvm_tdp_mmu_age_gfn_range", tag::AGE_GFN),
    ("__kvm_tdp_mmu_age_gfn_range", tag::AGE_GFN),
    ("kvm_tdp_mmu_test_age_gfn", tag::AGE_GFN),
    ("kvm_rmap_age_gfn_range", tag::RMAP),
    ("kvm_age_rmap", tag::RMAP),
    ("kvm_test_age_rmap", tag::RMAP),
    ("kvm_mmu_page_fault", tag::FAULT),
    ("kvm_handle_page_fault", tag::FAULT),
    // The tracepoint's own functions end in a jump to these, so they are often the only frame
    // that says so.
    ("bpf_trace_run1", tag::TRACEPOINT),
    ("bpf_trace_run2", tag::TRACEPOINT),
    ("__bpf_trace_kvm_age_hva", tag::TRACEPOINT),
    ("__bpf_trace_kvm_test_age_hva", tag::TRACEPOINT),
    ("__traceiter_kvm_age_hva", tag::TRACEPOINT),
    ("__traceiter_kvm_test_age_hva", tag::TRACEPOINT),
    ("try_to_free_mem_cgroup_pages", tag::MEMCG),
    ("mem_cgroup_shrink_node", tag::MEMCG),
    ("kswapd", tag::KSWAPD),
    ("balance_pgdat", tag::KSWAPD),
    ("try_to_free_pages", tag::DIRECT),
    ("node_reclaim", tag::DIRECT),
    ("shrink_node", tag::RECLAIM),
    ("shrink_lruvec", tag::RECLAIM),
    ("shrink_folio_list", tag::RECLAIM),
    ("shrink_active_list", tag::RECLAIM),
    ("folio_referenced", tag::RECLAIM),
    ("try_to_inc_max_seq", tag::MGLRU),
    ("lru_gen_look_around", tag::LOOKAROUND),
    ("kdamond_fn", tag::DAMON),
    ("damon_folio_mkold", tag::DAMON),
    ("damon_folio_young", tag::DAMON),
    ("damon_ptep_mkold", tag::DAMON),
    ("damon_pmdp_mkold", tag::DAMON),
    ("khugepaged", tag::KHUGEPAGED),
    ("madvise_collapse", tag::KHUGEPAGED),
    ("hpage_collapse_scan_pmd", tag::KHUGEPAGED),
    // Its place from 7.2 on.
    ("collapse_single_pmd", tag::KHUGEPAGED),
    ("collapse_huge_page", tag::KHUGEPAGED),
    ("collapse_pte_mapped_thp", tag::KHUGEPAGED),
    ("page_idle_bitmap_read", tag::PAGE_IDLE),
    ("page_idle_bitmap_write", tag::PAGE_IDLE),
    ("page_idle_clear_pte_refs", tag::PAGE_IDLE),
];

/// The variable with the start of the kernel's direct map of all memory.
const DIRECT_MAP: &str = "page_offset_base";

/// A function: its name is a part of [`Symbols::names`].
#[derive(Debug)]
struct Symbol {
    address: u64,
    name_at: u32,
    name_len: u32,
}

/// The kernel's functions, by address.
///
/// There are a hundred thousand of them, and a recording waits for this: their names are
/// one string, not one allocation each.
#[derive(Debug)]
pub(crate) struct Symbols {
    sorted: Vec<Symbol>,
    names: String,
    direct_map_at: Option<u64>,
}

impl Symbols {
    /// Reads `/proc/kallsyms`.
    pub(crate) fn read() -> Result<Self, KernelError> {
        let text = fs::read_to_string("/proc/kallsyms").map_err(KernelError::NoKallsyms)?;
        Self::parse(&text)
    }

    pub(super) fn parse(text: &str) -> Result<Self, KernelError> {
        let mut symbols = Self {
            sorted: Vec::new(),
            names: String::new(),
            direct_map_at: None,
        };
        for line in text.lines() {
            symbols.take_line(line);
        }
        symbols.sorted.sort_by_key(|symbol| symbol.address);
        if symbols
            .sorted
            .last()
            .is_none_or(|symbol| symbol.address == 0)
        {
            return Err(KernelError::HiddenAddresses);
        }
        Ok(symbols)
    }

    /// `address kind name [module]`: keeps functions, and the one variable.
    fn take_line(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_ascii_whitespace();
        let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
        let is_function = matches!(kind, "t" | "T" | "w" | "W");
        if !is_function && name != DIRECT_MAP {
            return None;
        }
        let address = u64::from_str_radix(address, 16).ok()?;
        if name == DIRECT_MAP {
            self.direct_map_at = Some(address);
        }
        if is_function {
            self.sorted.push(Symbol {
                address,
                name_at: u32::try_from(self.names.len()).ok()?,
                name_len: u32::try_from(name.len()).ok()?,
            });
            self.names.push_str(name);
        }
        Some(())
    }

    fn name(&self, symbol: &Symbol) -> &str {
        let start = symbol.name_at as usize;
        &self.names[start..start + symbol.name_len as usize]
    }

    /// The address of the variable with the start of the direct map, or why it is not known.
    pub(crate) fn direct_map_at(&self) -> Result<u64, &'static str> {
        self.direct_map_at
            .ok_or("this kernel's kallsyms does not list its variable page_offset_base")
    }

    /// The address of the one function called `name`.
    pub(crate) fn address(&self, name: &'static str) -> Result<u64, KernelError> {
        let mut found = self.sorted.iter().filter(|s| self.name(s) == name);
        match (found.next(), found.next()) {
            (Some(symbol), None) => Ok(symbol.address),
            _ => Err(KernelError::NoFunction(name)),
        }
    }

    /// The name under which the function `name` is entered: its own, or that of the
    /// compiler's clone of it. A part of it that was put elsewhere is no entry.
    pub(crate) fn entered_as(&self, name: &str) -> Option<&str> {
        const PARTS: [&str; 2] = [".cold", ".part."];
        let mut names = self.sorted.iter().map(|symbol| self.name(symbol));
        names.find(|symbol| {
            is_form_of(symbol, name) && !PARTS.iter().any(|part| symbol.contains(part))
        })
    }

    /// Whether `name`, or the compiler's clone or part of it, exists.
    pub(crate) fn has(&self, name: &str) -> bool {
        let mut names = self.sorted.iter().map(|symbol| self.name(symbol));
        names.any(|symbol| is_form_of(symbol, name))
    }

    /// The table of meaningful text ranges, sorted and without overlap. A
    /// kernel that lacks a function lacks what it stands for.
    pub(crate) fn text_ranges(&self) -> Vec<TextRange> {
        let functions: HashMap<&str, u64> = FUNCTIONS.iter().copied().collect();
        let mut ranges = Vec::new();
        for (position, symbol) in self.sorted.iter().enumerate() {
            let name = self.name(symbol);
            let plain = name.split_once('.').map_or(name, |(plain, _)| plain);
            let Some(tag) = functions.get(plain).filter(|_| is_form_of(name, plain)) else {
                continue;
            };
            let next = self.sorted[position..]
                .iter()
                .find(|later| later.address > symbol.address);
            ranges.push(TextRange {
                low: symbol.address,
                high: next.map_or(u64::MAX, |next| next.address),
                tag: *tag,
            });
        }
        ranges.dedup_by_key(|range| range.low);
        ranges.truncate(MAX_RANGES);
        ranges
    }

    /// The name of the function that `address` lies in.
    pub(crate) fn name_of(&self, address: u64) -> String {
        let after = self
            .sorted
            .partition_point(|symbol| symbol.address <= address);
        match after
            .checked_sub(1)
            .and_then(|before| self.sorted.get(before))
        {
            Some(symbol) => self.name(symbol).to_owned(),
            None => format!("{address:#x}"),
        }
    }
}

/// Whether `symbol` is `name` or a part or clone of it that the compiler made.
fn is_form_of(symbol: &str, name: &str) -> bool {
    match symbol.strip_prefix(name) {
        Some("") => true,
        Some(suffix) => [".isra.", ".constprop.", ".part.", ".cold", ".llvm."]
            .iter()
            .any(|form| suffix.starts_with(form)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use guest::live;

    use super::*;

    const TEXT: &str = "\
ffffffff81000100 T kvm_age_gfn
ffffffff81000200 t kvm_rmap_age_gfn_range.isra.0
ffffffff81000200 t alias_of_it
ffffffff81000300 T something
ffffffff81000250 d a_datum
ffffffff82000000 D page_offset_base
ffffffffc0000000 t kswapd_run\t[mod]
";

    #[test]
    fn ranges_end_at_the_next_function_and_include_clones() {
        let symbols = Symbols::parse(TEXT).unwrap();
        let ranges = symbols.text_ranges();
        assert_eq!(ranges.len(), 2, "{ranges:?}");
        assert_eq!(
            (ranges[0].low, ranges[0].high, ranges[0].tag),
            (0xffff_ffff_8100_0100, 0xffff_ffff_8100_0200, tag::AGE_GFN)
        );
        assert_eq!(
            (ranges[1].low, ranges[1].high, ranges[1].tag),
            (0xffff_ffff_8100_0200, 0xffff_ffff_8100_0300, tag::RMAP)
        );
        assert!(symbols.has("kvm_rmap_age_gfn_range") && !symbols.has("kswapd"));
        assert_eq!(symbols.name_of(0xffff_ffff_8100_0150), "kvm_age_gfn");
        assert_eq!(symbols.name_of(1), "0x1");
        assert_eq!(symbols.direct_map_at(), Ok(0xffff_ffff_8200_0000));
        let without = Symbols::parse("ffffffff81000100 T kvm_age_gfn\n").unwrap();
        assert!(without.direct_map_at().is_err());
    }

    /// A function that stacks of a class pass through, as it is called in the
    /// `/proc/kallsyms` of Debian's kernels from one version to another.
    type Known = (u64, &'static str, [(u8, u8); 2]);

    /// In every kernel that was looked at.
    const ALL: [(u8, u8); 2] = [(6, 1), (7, 3)];

    const STOCK: &[Known] = &[
        (
            tag::CLEAR_FLUSH_YOUNG,
            "__mmu_notifier_clear_flush_young",
            ALL,
        ),
        (tag::CLEAR_YOUNG, "__mmu_notifier_clear_young", ALL),
        (tag::TEST_YOUNG, "__mmu_notifier_test_young", ALL),
        (tag::TRACEPOINT, "bpf_trace_run1", ALL),
        (tag::MEMCG, "try_to_free_mem_cgroup_pages", ALL),
        (tag::KSWAPD, "kswapd", ALL),
        (tag::KSWAPD, "balance_pgdat", ALL),
        (tag::DIRECT, "try_to_free_pages", ALL),
        (tag::DIRECT, "node_reclaim", ALL),
        (tag::RECLAIM, "shrink_node", ALL),
        (tag::RECLAIM, "shrink_lruvec", ALL),
        (tag::RECLAIM, "shrink_lruvec.cold", [(7, 3), (7, 3)]),
        (tag::RECLAIM, "folio_referenced", ALL),
        (tag::MGLRU, "try_to_inc_max_seq", ALL),
        (tag::LOOKAROUND, "lru_gen_look_around", ALL),
        (tag::DAMON, "kdamond_fn", [(6, 12), (7, 3)]),
        (tag::DAMON, "damon_folio_mkold", [(6, 12), (7, 3)]),
        (tag::KHUGEPAGED, "khugepaged", ALL),
        (tag::KHUGEPAGED, "madvise_collapse", ALL),
        (
            tag::KHUGEPAGED,
            "hpage_collapse_scan_pmd",
            [(6, 1), (6, 18)],
        ),
        (tag::KHUGEPAGED, "collapse_single_pmd", [(7, 2), (7, 3)]),
    ];

    #[test]
    fn every_class_is_known_by_the_names_that_stock_kernels_have() {
        for kernel in [(6, 1), (6, 12), (6, 18), (7, 2), (7, 3)] {
            let has = |known: &&Known| (known.2[0]..=known.2[1]).contains(&kernel);
            for (tag, name, _) in STOCK.iter().filter(has) {
                let text = format!("ffffffff81000100 t {name}\n");
                let ranges = Symbols::parse(&text).expect("one").text_ranges();
                let tags: Vec<u64> = ranges.iter().map(|range| range.tag).collect();
                assert_eq!(tags, [*tag], "{name} of {kernel:?}");
            }
        }
    }

    #[test]
    fn every_class_that_the_running_kernel_has_is_known_by_a_name_of_its() {
        let name = "every_class_that_the_running_kernel_has_is_known_by_a_name_of_its";
        let able = live::root().map_err(str::to_owned);
        let able = able.and_then(|()| live::kvm().map_err(|error| error.to_string()));
        let Some(()) = live::require(name, able) else {
            return;
        };
        let ranges = Symbols::read().expect("kallsyms").text_ranges();
        let exists = |path: &str| std::path::Path::new(path).exists();
        let classes = [
            (tag::CLEAR_FLUSH_YOUNG, true),
            (tag::CLEAR_YOUNG, true),
            (tag::TEST_YOUNG, true),
            (tag::AGE_GFN, true),
            (tag::TRACEPOINT, true),
            (tag::FAULT, true),
            (tag::MEMCG, exists("/sys/fs/cgroup")),
            (tag::KSWAPD, true),
            (tag::DIRECT, true),
            (tag::RECLAIM, true),
            (tag::MGLRU, exists("/sys/kernel/mm/lru_gen")),
            (tag::LOOKAROUND, exists("/sys/kernel/mm/lru_gen")),
            (tag::DAMON, exists("/sys/kernel/mm/damon")),
            (
                tag::KHUGEPAGED,
                exists("/sys/kernel/mm/transparent_hugepage"),
            ),
            (tag::PAGE_IDLE, exists("/sys/kernel/mm/page_idle")),
        ];
        for (tag, is_configured) in classes {
            let is_known = ranges.iter().any(|range| range.tag == tag);
            assert_eq!(is_known, is_configured, "{tag:#x}");
        }
    }

    #[test]
    fn hidden_addresses_are_an_error() {
        let hidden = "0000000000000000 T kvm_age_gfn\n";
        assert!(matches!(
            Symbols::parse(hidden),
            Err(KernelError::HiddenAddresses)
        ));
        assert!(matches!(
            Symbols::parse(""),
            Err(KernelError::HiddenAddresses)
        ));
    }

    #[test]
    fn the_table_has_room_for_every_function_in_two_forms() {
        assert!(FUNCTIONS.len() * 2 <= MAX_RANGES, "{}", FUNCTIONS.len());
    }
}
