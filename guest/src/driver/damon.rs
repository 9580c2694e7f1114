//! DAMON watching the guest's memory, region by region.
//!
//! DAMON makes one page of every region old (`clear_young`), waits, and looks whether it became
//! young (`test_young`). It is told to keep regions so small that nearly every page is one.
//!
//! Invariant: there is a kdamond of ours only while a [`Damon`] exists, and never beside one of
//! somebody else's: its control file has one owner.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::{Aging, DriverError};
use crate::error::PathError;
use crate::layout::PAGE_SIZE;

/// DAMON's control files.
const ADMIN: &str = "/sys/kernel/mm/damon/admin/kdamonds";
/// Time between making a page old and looking at it.
const SAMPLE: Duration = Duration::from_millis(5);
/// Samples in one iteration of the driver.
const SAMPLES: u32 = 20;
/// Most regions: what DAMON can look after in one sample on a slow machine.
const MAX_REGIONS: u64 = 1000;

pub(crate) struct Damon {
    admin: PathBuf,
}

impl Damon {
    /// Prepares a kdamond for `memory` of this process.
    pub(crate) fn new(memory: Range<u64>) -> Result<Self, DriverError> {
        check_host()?;
        let damon = Self {
            admin: ADMIN.into(),
        };
        damon.configure(&memory)?;
        Ok(damon)
    }

    fn configure(&self, memory: &Range<u64>) -> Result<(), DriverError> {
        let pages = (memory.end - memory.start) / PAGE_SIZE;
        let regions = pages.clamp(3, MAX_REGIONS);
        let sample_us = SAMPLE.as_micros();
        let context = "0/contexts/0";
        let target = format!("{context}/targets/0");
        let intervals = format!("{context}/monitoring_attrs/intervals");
        let limits = format!("{context}/monitoring_attrs/nr_regions");
        // "fvaddr" keeps to the region it is given; "vaddr" would look for others by itself.
        for (file, value) in [
            ("nr_kdamonds".to_owned(), "1".to_owned()),
            ("0/contexts/nr_contexts".to_owned(), "1".to_owned()),
            (format!("{context}/operations"), "fvaddr".to_owned()),
            (format!("{intervals}/sample_us"), sample_us.to_string()),
            (format!("{intervals}/aggr_us"), (4 * sample_us).to_string()),
            (format!("{limits}/max"), regions.to_string()),
            (format!("{limits}/min"), regions.to_string()),
            (format!("{context}/targets/nr_targets"), "1".to_owned()),
            (
                format!("{target}/pid_target"),
                std::process::id().to_string(),
            ),
            (format!("{target}/regions/nr_regions"), "1".to_owned()),
            (
                format!("{target}/regions/0/start"),
                memory.start.to_string(),
            ),
            (format!("{target}/regions/0/end"), memory.end.to_string()),
        ] {
            self.write(&file, &value)?;
        }
        Ok(())
    }

    fn write(&self, file: &str, value: &str) -> Result<(), PathError> {
        let path = self.admin.join(file);
        fs::write(&path, value).map_err(|cause| PathError::new("write", path, cause))
    }
}

impl Aging for Damon {
    /// Lets DAMON watch for a while.
    fn age_once(&mut self) -> Result<(), DriverError> {
        self.write("0/state", "on")?;
        thread::sleep(SAMPLE * SAMPLES);
        Ok(self.write("0/state", "off")?)
    }
}

impl Drop for Damon {
    fn drop(&mut self) {
        // Off already unless an iteration failed; nobody is left to be told.
        let _ = self.write("0/state", "off");
        let _ = self.write("nr_kdamonds", "0");
    }
}

/// Checks that DAMON can be controlled on this host.
pub(super) fn check_host() -> Result<(), DriverError> {
    check(Path::new(ADMIN))
}

/// Checks that this kernel has DAMON's control files and that nobody uses them.
fn check(admin: &Path) -> Result<(), DriverError> {
    let path = admin.join("nr_kdamonds");
    if !path.exists() {
        return Err(DriverError::NoDamon);
    }
    let used = fs::read_to_string(&path).map_err(|cause| PathError::new("read", path, cause))?;
    if used.trim() != "0" {
        return Err(DriverError::DamonTaken);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_damon_and_a_damon_in_use_are_told_apart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(matches!(check(dir.path()), Err(DriverError::NoDamon)));
        let count = dir.path().join("nr_kdamonds");
        fs::write(&count, "1\n").expect("file");
        assert!(matches!(check(dir.path()), Err(DriverError::DamonTaken)));
        fs::write(&count, "0\n").expect("file");
        check(dir.path()).expect("free");
    }
}
