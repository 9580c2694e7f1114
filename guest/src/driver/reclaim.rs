//! Reclaim of the guest's memory cgroup.
//!
//! The kernel asks the secondary MMUs whether each page is young (`clear_flush_young`) before it
//! takes it. What it takes it also unmaps, so chains shrink while reclaim runs and the guest
//! rebuilds them in the pauses.

use std::fs;
use std::path::Path;

use super::{Aging, DriverError};
use crate::cgroup::{Memcg, Reclaimer};
use crate::config::{Backing, GuestConfig};
use crate::error::PathError;

pub(crate) struct Reclaim {
    reclaimer: Reclaimer,
}

impl Reclaim {
    /// Prepares to reclaim the memory charged to `memcg`.
    pub(crate) fn new(memcg: &Memcg, config: &GuestConfig) -> Result<Self, DriverError> {
        if config.backing == Backing::Anonymous && !has_swap(Path::new("/proc/swaps"))? {
            return Err(DriverError::NoSwap);
        }
        let reclaimer = memcg.reclaimer()?;
        Ok(Self { reclaimer })
    }
}

impl Aging for Reclaim {
    fn age_once(&mut self) -> Result<(), DriverError> {
        Ok(self.reclaimer.reclaim()?)
    }
}

/// Whether a swap table has an entry below its heading.
fn has_swap(table: &Path) -> Result<bool, PathError> {
    let text = fs::read_to_string(table).map_err(|cause| PathError::new("read", table, cause))?;
    Ok(text.lines().skip(1).any(|line| !line.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_alone_is_no_swap() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let table = dir.path().join("swaps");
        let heading = "Filename\tType\tSize\tUsed\tPriority\n";
        fs::write(&table, heading).expect("file");
        assert!(!has_swap(&table).expect("read"));
        fs::write(&table, format!("{heading}/swapfile file 1024 0 -2\n")).expect("file");
        assert!(has_swap(&table).expect("read"));
        assert!(has_swap(&dir.path().join("absent")).is_err());
    }
}
