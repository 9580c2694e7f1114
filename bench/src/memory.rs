//! How large a working set must be to miss the caches, and how large it may be.
//!
//! Sizes come from sysfs, for the CPU that measures; where sysfs is silent the
//! sizes assumed are stated, because a working set has to have some size.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

/// Assumed where sysfs lists no caches: a small L2 keeps a hot set hot.
const ASSUMED_L2_BYTES: u64 = 256 << 10;
/// Assumed where sysfs lists no caches: a large LLC keeps a cold set cold.
const ASSUMED_LLC_BYTES: u64 = 64 << 20;
/// Share of the free memory that working sets may take.
const USABLE_SHARE: f64 = 0.5;

/// Bytes.
const GIB: f64 = (1_u64 << 30) as f64;

/// Sizes of the caches a measuring CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caches {
    /// Level-2 cache, bytes.
    pub l2_bytes: u64,
    /// Last-level cache, bytes.
    pub llc_bytes: u64,
}

impl Caches {
    /// The caches of one CPU.
    #[must_use]
    pub fn of_cpu(cpu: usize) -> Self {
        Self::below(Path::new(&format!(
            "/sys/devices/system/cpu/cpu{cpu}/cache"
        )))
    }

    fn below(folder: &Path) -> Self {
        let caches: Vec<_> = (0..8).filter_map(|index| cache(folder, index)).collect();
        let l2 = caches.iter().find(|(level, _)| *level == 2);
        let llc = caches.iter().max_by_key(|(level, _)| *level);
        Self {
            l2_bytes: l2.map_or(ASSUMED_L2_BYTES, |c| c.1),
            llc_bytes: llc.map_or(ASSUMED_LLC_BYTES, |c| c.1),
        }
    }
}

/// Level and size of one data or unified cache.
fn cache(folder: &Path, index: u32) -> Option<(u32, u64)> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(folder.join(format!("index{index}")).join(name)).ok()?;
        Some(text.trim().to_owned())
    };
    if read("type")? == "Instruction" {
        return None;
    }
    Some((read("level")?.parse().ok()?, parse_size(&read("size")?)?))
}

fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 10),
        'M' => (&text[..text.len() - 1], 20),
        'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    Some(digits.parse::<u64>().ok()? << shift)
}

/// A run that does not fit into memory.
#[derive(Debug, Error, PartialEq)]
#[error(
    "working sets of {workload} that are compared with each other need {needed_mib} MiB, but only {usable_mib} MiB may be used (half of what is free): choose fewer --schemes or --chain-lengths{}",
    .fitting_vm_gib.map_or_else(String::new, |gib| format!(", or a VM of at most {gib:.2} GiB with --vm-gib"))
)]
pub struct TooLarge {
    workload: String,
    needed_mib: u64,
    usable_mib: u64,
    /// The VM that would fit, where a VM's size was asked for.
    fitting_vm_gib: Option<f64>,
}

/// Memory that working sets may take: half of what is free now; no limit
/// where the kernel does not tell.
#[must_use]
pub fn usable_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    available_bytes(&info).map_or(u64::MAX, |bytes| (bytes as f64 * USABLE_SHARE) as u64)
}

/// Checks that a working set fits, perhaps one of a VM of this size.
///
/// # Errors
/// When it does not.
pub fn check_fits(
    workload: &str,
    needed: u64,
    usable: u64,
    vm_bytes: Option<u64>,
) -> Result<(), TooLarge> {
    if needed <= usable {
        return Ok(());
    }
    Err(TooLarge {
        workload: workload.to_owned(),
        needed_mib: needed.div_ceil(1 << 20),
        usable_mib: usable >> 20,
        // Rounded down to what is printed.
        fitting_vm_gib: vm_bytes.map(|bytes| {
            let gib = bytes as f64 / GIB * (usable as f64 / needed as f64);
            (gib * 100.0).floor() / 100.0
        }),
    })
}

/// The NUMA nodes that hold this process's anonymous memory, most of it first;
/// `None` where the kernel does not tell.
#[must_use]
pub fn nodes() -> Option<Vec<u32>> {
    nodes_in(&std::fs::read_to_string("/proc/self/numa_maps").ok()?)
}

fn nodes_in(maps: &str) -> Option<Vec<u32>> {
    let mut pages: BTreeMap<u32, u64> = BTreeMap::new();
    for line in maps.lines().filter(|line| line.contains(" anon=")) {
        for word in line.split_whitespace() {
            let node = word.strip_prefix('N').and_then(|w| w.split_once('='));
            let Some((node, count)) = node else { continue };
            let (Ok(node), Ok(count)) = (node.parse(), count.parse::<u64>()) else {
                continue;
            };
            *pages.entry(node).or_default() += count;
        }
    }
    let mut nodes: Vec<(u32, u64)> = pages.into_iter().collect();
    nodes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    (!nodes.is_empty()).then(|| nodes.into_iter().map(|(node, _)| node).collect())
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_cache(root: &Path, index: u32, level: u32, kind: &str, size: &str) {
        let folder = root.join(format!("index{index}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("level"), format!("{level}\n")).unwrap();
        std::fs::write(folder.join("type"), format!("{kind}\n")).unwrap();
        std::fs::write(folder.join("size"), format!("{size}\n")).unwrap();
    }

    #[test]
    fn the_last_level_is_the_highest_one_listed() {
        let root = tempfile::tempdir().unwrap();
        write_cache(root.path(), 0, 1, "Data", "32K");
        write_cache(root.path(), 1, 4, "Instruction", "999K");
        write_cache(root.path(), 2, 2, "Unified", "512K");
        write_cache(root.path(), 3, 3, "Unified", "32M");
        assert_eq!(
            Caches::below(root.path()),
            Caches {
                l2_bytes: 512 << 10,
                llc_bytes: 32 << 20
            }
        );
    }

    #[test]
    fn a_machine_that_lists_no_caches_gets_the_stated_sizes() {
        let root = tempfile::tempdir().unwrap();
        let caches = Caches::below(root.path());
        assert_eq!(
            (caches.l2_bytes, caches.llc_bytes),
            (ASSUMED_L2_BYTES, ASSUMED_LLC_BYTES)
        );
    }

    #[test]
    fn a_set_that_does_not_fit_is_refused_with_what_does() {
        assert_eq!(check_fits("walk", 512 << 20, 512 << 20, None), Ok(()));
        let error = check_fits("walk", (512 << 20) + 1, 512 << 20, None).unwrap_err();
        assert_eq!((error.needed_mib, error.usable_mib), (513, 512));
        assert!(!error.to_string().contains("--vm-gib"));
        let error = check_fits("pass", 1 << 30, 512 << 20, Some(8 << 30)).unwrap_err();
        assert!(error.to_string().contains("at most 4.00 GiB"), "{error}");
    }

    #[test]
    fn nodes_are_told_by_the_pages_they_hold() {
        let maps = "55 default file=/bin/x mapped=9 N0=9\n\
                    7f default heap anon=5 dirty=5 N0=2 N1=3 kernelpagesize_kB=4\n\
                    80 default anon=8 N1=8 kernelpagesize_kB=4\n";
        assert_eq!(nodes_in(maps), Some(vec![1, 0]));
        assert_eq!(nodes_in("55 default file=/bin/x mapped=9 N0=9\n"), None);
    }

    #[test]
    fn half_of_what_is_free_may_be_used() {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap();
        let free = available_bytes(&info).unwrap() as f64;
        // Other tests take and leave memory meanwhile.
        let share = usable_bytes() as f64 / free;
        assert!((0.3..0.7).contains(&share), "{share}");
    }

    #[test]
    fn free_memory_is_read_in_bytes() {
        assert_eq!(
            available_bytes("MemTotal: 9 kB\nMemAvailable:  2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
    }
}
