//! MGLRU making a new generation of the guest's memory cgroup.
//!
//! The kernel's debug file takes the command to age one cgroup: it then walks the page tables of
//! its processes and asks the secondary MMUs for every page (`clear_young`). Nothing is reclaimed,
//! so chains stay as they are. Kernels before 6.8 or so walk the page tables without asking.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Aging, DriverError};
use crate::cgroup::Memcg;
use crate::error::PathError;

/// Where generations are shown and made.
const DEBUG_FILE: &str = "/sys/kernel/debug/lru_gen";
/// The mask of MGLRU's parts that are switched on; absent where it is not built in.
const ENABLED: &str = "/sys/kernel/mm/lru_gen/enabled";
/// The walk of page tables needs MGLRU itself and the walk's own part.
const WALKS: u32 = 0x3;

pub(crate) struct Mglru {
    /// The cgroup's name: the last part of the path the debug file shows.
    cgroup: PathBuf,
}

impl Mglru {
    /// Prepares to age the memory charged to `memcg`.
    pub(crate) fn new(memcg: &Memcg) -> Result<Self, DriverError> {
        check_host()?;
        let name = memcg.path().file_name().unwrap_or_default();
        Ok(Self {
            cgroup: name.into(),
        })
    }
}

impl Aging for Mglru {
    fn age_once(&mut self) -> Result<(), DriverError> {
        let text = read(Path::new(DEBUG_FILE))?;
        let generations = newest_generations(&text, &self.cgroup);
        if generations.is_empty() {
            return Err(DriverError::NoGenerations);
        }
        for Newest { memcg, node, seq } in generations {
            // Swappiness 0: file pages only. 1: every page table, whatever the filters say.
            let command = format!("+ {memcg} {node} {seq} 0 1");
            fs::write(DEBUG_FILE, &command)
                .map_err(|cause| PathError::new("write", DEBUG_FILE, cause))?;
        }
        Ok(())
    }
}

/// Checks that this host's MGLRU can be told to age.
pub(super) fn check_host() -> Result<(), DriverError> {
    check(Path::new(ENABLED), Path::new(DEBUG_FILE))
}

/// Checks that MGLRU is built in, on, and can be told to age.
fn check(enabled: &Path, debug_file: &Path) -> Result<(), DriverError> {
    if !enabled.exists() {
        return Err(DriverError::NoMglru);
    }
    let text = read(enabled)?;
    let mask = text.trim().trim_start_matches("0x");
    let mask = u32::from_str_radix(mask, 16).unwrap_or(0);
    if mask & WALKS != WALKS {
        return Err(DriverError::MglruOff);
    }
    read(debug_file).map(drop)
}

fn read(path: &Path) -> Result<String, DriverError> {
    Ok(fs::read_to_string(path).map_err(|cause| PathError::new("read", path, cause))?)
}

/// The youngest generation of a cgroup on one node.
#[derive(Debug, PartialEq, Eq)]
struct Newest {
    memcg: u32,
    node: u32,
    seq: u64,
}

/// The youngest generations of the cgroup called `name`, one per node that has any.
///
/// The file has a line `memcg ID PATH` per cgroup, below it a line `node ID` per node, below that
/// a line per generation, the youngest last, each beginning with its number.
fn newest_generations(text: &str, name: &Path) -> Vec<Newest> {
    let mut found: Vec<Newest> = Vec::new();
    let (mut memcg, mut node) = (None, None);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["memcg", id, path] => {
                let ours = Path::new(path).file_name() == Some(name.as_os_str());
                memcg = ours.then(|| id.parse().ok()).flatten();
                node = None;
            }
            ["memcg", ..] => memcg = None,
            ["node", id] => node = id.parse().ok(),
            [seq, ..] => {
                let (Some(memcg), Some(node), Ok(seq)) = (memcg, node, seq.parse()) else {
                    continue;
                };
                match found
                    .iter_mut()
                    .find(|n| n.memcg == memcg && n.node == node)
                {
                    Some(newest) => newest.seq = newest.seq.max(seq),
                    None => found.push(Newest { memcg, node, seq }),
                }
            }
            [] => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
memcg     1 /
 node     0
          0       1234          0           9
          1        234          0           3
memcg    42 /some/rmapscope-guest-7
 node     0
          4      12345          5           0
          6        345          0        2048
 node     1
          8         45          0           0
memcg    43
 node     0
          9          0          0           0
";

    #[test]
    fn the_youngest_generation_of_every_node_of_the_cgroup_is_found() {
        let found = newest_generations(TEXT, Path::new("rmapscope-guest-7"));
        let newest = |node, seq| Newest {
            memcg: 42,
            node,
            seq,
        };
        assert_eq!(found, [newest(0, 6), newest(1, 8)]);
        assert_eq!(newest_generations(TEXT, Path::new("other")), []);
    }

    #[test]
    fn a_kernel_without_mglru_or_with_it_off_is_told_apart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (enabled, debug) = (dir.path().join("enabled"), dir.path().join("lru_gen"));
        let verdict = || check(&enabled, &debug);
        assert!(matches!(verdict(), Err(DriverError::NoMglru)));
        fs::write(&enabled, "0x0001\n").expect("file");
        assert!(matches!(verdict(), Err(DriverError::MglruOff)));
        fs::write(&enabled, "0x0007\n").expect("file");
        assert!(matches!(verdict(), Err(DriverError::Path(_))));
        fs::write(&debug, "").expect("file");
        verdict().expect("can be told to age");
    }
}
