//! khugepaged's scan settings, made fast for a while.
//!
//! Invariant: while settings are changed, the values from before are in a file that this process
//! holds a lock on. The lock dies with the process, so the next guest can tell that a killed one
//! left its values behind and puts the old ones back first.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::DriverError;
use crate::error::PathError;

/// The settings that make khugepaged scan soon and much, and the values we want.
const FAST: [(&str, u64); 2] = [("scan_sleep_millisecs", 10), ("pages_to_scan", 4096)];

const SAVED_NAME: &str = "rmapscope-guest-khugepaged";

/// Fast scan settings; dropping them restores what was there before.
#[derive(Debug)]
pub(super) struct ScanSettings {
    sysfs: PathBuf,
    saved: SavedValues,
}

impl ScanSettings {
    /// Saves the settings in `sysfs` and makes khugepaged scan fast.
    pub(super) fn speed_up(sysfs: &Path) -> Result<Self, DriverError> {
        let runtime = Path::new("/run");
        let dir = if runtime.is_dir() {
            runtime.to_owned()
        } else {
            std::env::temp_dir()
        };
        Self::speed_up_with(sysfs, &dir)
    }

    fn speed_up_with(sysfs: &Path, dir: &Path) -> Result<Self, DriverError> {
        let mut saved = SavedValues::lock(dir.join(SAVED_NAME))?;
        // Written by a guest that was killed before it could restore them.
        saved.restore(sysfs)?;
        saved.save(sysfs)?;
        let settings = Self {
            sysfs: sysfs.to_owned(),
            saved,
        };
        for (name, value) in FAST {
            write(&sysfs.join(name), &value.to_string())?;
        }
        Ok(settings)
    }

    /// Scans of all memory khugepaged has finished since boot.
    pub(super) fn full_scans(&self) -> Result<u64, DriverError> {
        Ok(read_number(&self.sysfs.join("full_scans"))?)
    }
}

impl Drop for ScanSettings {
    fn drop(&mut self) {
        // Nobody is left to be told; the file stays for the next guest if this fails.
        if self.saved.restore(&self.sysfs).is_ok() {
            let _ = fs::remove_file(&self.saved.path);
        }
    }
}

/// The locked file with the values from before, one `name value` a line.
#[derive(Debug)]
struct SavedValues {
    path: PathBuf,
    file: File,
}

impl SavedValues {
    fn lock(path: PathBuf) -> Result<Self, DriverError> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|cause| PathError::new("create", &path, cause))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(DriverError::KhugepagedTaken { lock: path });
                }
                Err(TryLockError::Error(cause)) => {
                    return Err(PathError::new("lock", path, cause).into());
                }
            }
            if is_still_at(&file, &path) {
                return Ok(Self { path, file });
            }
            // Its last owner removed it between our open and our lock: take the new one.
        }
    }

    fn save(&mut self, sysfs: &Path) -> Result<(), DriverError> {
        let mut text = String::new();
        for (name, _) in FAST {
            let value = read_number(&sysfs.join(name))?;
            text += &format!("{name} {value}\n");
        }
        self.replace(&text)
            .map_err(|cause| PathError::new("write", &self.path, cause).into())
    }

    fn replace(&mut self, text: &str) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }

    /// Writes back what the file holds, if it holds anything.
    fn restore(&mut self, sysfs: &Path) -> Result<(), DriverError> {
        let mut text = String::new();
        self.file
            .rewind()
            .and_then(|()| self.file.read_to_string(&mut text))
            .map_err(|cause| PathError::new("read", &self.path, cause))?;
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            // Only names of ours are ever written, whatever the file says.
            if FAST.iter().any(|(known, _)| *known == name) {
                write(&sysfs.join(name), value)?;
            }
        }
        Ok(())
    }
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => ours.ino() == there.ino() && ours.dev() == there.dev(),
        _ => false,
    }
}

fn read_number(path: &Path) -> Result<u64, PathError> {
    fs::read_to_string(path)
        .and_then(|text| {
            let number = text.trim().parse();
            number.map_err(|_| std::io::ErrorKind::InvalidData.into())
        })
        .map_err(|cause| PathError::new("read", path, cause))
}

fn write(path: &Path, value: &str) -> Result<(), PathError> {
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|cause| PathError::new("write", path, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            let fixture = Self(tempfile::tempdir().expect("temporary directory"));
            fixture.set("scan_sleep_millisecs", "60000");
            fixture.set("pages_to_scan", "8");
            fixture.set("full_scans", "7\n");
            fixture
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn set(&self, name: &str, value: &str) {
            fs::write(self.path().join(name), value).expect("file");
        }

        fn get(&self, name: &str) -> String {
            fs::read_to_string(self.path().join(name)).expect("file")
        }

        fn speed_up(&self) -> Result<ScanSettings, DriverError> {
            ScanSettings::speed_up_with(self.path(), self.path())
        }
    }

    #[test]
    fn settings_are_fast_while_held_and_restored_after() {
        let host = Fixture::new();
        let settings = host.speed_up().expect("speeds up");
        assert_eq!(host.get("scan_sleep_millisecs"), "10");
        assert_eq!(settings.full_scans().expect("number"), 7);
        drop(settings);
        assert_eq!(host.get("scan_sleep_millisecs"), "60000");
        assert_eq!(host.get("pages_to_scan"), "8");
        assert!(!host.path().join(SAVED_NAME).exists());
    }

    #[test]
    fn a_second_guest_is_refused_while_the_first_lives() {
        let host = Fixture::new();
        let first = host.speed_up().expect("speeds up");
        let refused = host.speed_up();
        assert!(matches!(refused, Err(DriverError::KhugepagedTaken { .. })));
        drop(first);
        assert!(host.speed_up().is_ok());
    }

    #[test]
    fn what_a_killed_guest_left_is_restored_first() {
        let host = Fixture::new();
        host.set("scan_sleep_millisecs", "10");
        host.set(SAVED_NAME, "scan_sleep_millisecs 60000\nfull_scans 1\nx\n");
        drop(host.speed_up().expect("speeds up"));
        assert_eq!(host.get("scan_sleep_millisecs"), "60000");
        assert_eq!(host.get("full_scans"), "7\n", "not a setting of ours");
    }

    #[test]
    fn nothing_is_changed_when_a_setting_is_missing() {
        let host = Fixture::new();
        fs::remove_file(host.path().join("pages_to_scan")).expect("removed");
        assert!(host.speed_up().is_err());
        assert_eq!(host.get("scan_sleep_millisecs"), "60000");
    }
}
