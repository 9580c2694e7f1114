//! khugepaged looking at the guest's memory without ever collapsing it.
//!
//! khugepaged asks the secondary MMUs whether a page is young (`test_young`) when the host's own
//! PTE is old. Two things make it ask for nearly every page, again and again, with chains intact:
//! the host's PTEs are made old before each scan (`clear_refs`), and the last page of every huge
//! page range is held by a pipe, so that the scan gives the range up when it gets there, after
//! having asked for the 511 pages before it.
//!
//! Invariant: khugepaged may look at the guest's memory only while [`Khugepaged::age_once`] runs.
//! Taking the permission back waits for a scan that is under way, so nobody is asked after it.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::mman::MmapAdvise;
use nix::unistd::pipe2;

use super::settings::ScanSettings;
use super::{Aging, DriverError};
use crate::error::{GuestError, PathError};
use crate::layout::{PAGE_SIZE, TABLE_SPAN};
use crate::memory::Mapping;
use crate::vm::Machine;

pub(super) const SYSFS: &str = "/sys/kernel/mm/transparent_hugepage";
/// Clears the Accessed bits of this process's PTEs, of which no secondary MMU hears.
const CLEAR_REFS: &str = "/proc/self/clear_refs";
/// A scan of the whole host by khugepaged at our settings takes far less.
const SCAN_TIMEOUT: Duration = Duration::from_secs(120);
/// Pages one pipe holds: what a user may have in a pipe without privileges.
const PIPE_PAGES: usize = 256;

pub(crate) struct Khugepaged {
    settings: ScanSettings,
    // Hold references to pages of the machine's memory, so they go first.
    _pipes: Vec<Pipe>,
    machine: Arc<Machine>,
}

impl Khugepaged {
    /// Prepares the guest's memory, which is populated, and speeds khugepaged up.
    pub(crate) fn new(machine: Arc<Machine>) -> Result<Self, GuestError> {
        check_enabled(Path::new(SYSFS))?;
        let settings = ScanSettings::speed_up(&Path::new(SYSFS).join("khugepaged"))?;
        let pipes = hold_last_pages(machine.data()).map_err(DriverError::Hold)?;
        Ok(Self {
            settings,
            _pipes: pipes,
            machine,
        })
    }

    /// Waits for a whole scan that begins from now on.
    fn wait_for_scan(&self) -> Result<(), DriverError> {
        let first = self.settings.full_scans()?;
        let started = Instant::now();
        // The scan that was under way may have passed us already.
        while self.settings.full_scans()?.wrapping_sub(first) < 2 {
            if started.elapsed() > SCAN_TIMEOUT {
                return Err(DriverError::NoScan {
                    waited: SCAN_TIMEOUT,
                });
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Aging for Khugepaged {
    /// Makes the host's PTEs old and lets khugepaged look at them at least once.
    fn age_once(&mut self) -> Result<(), DriverError> {
        fs::write(CLEAR_REFS, "1").map_err(|cause| PathError::new("write", CLEAR_REFS, cause))?;
        let data = self.machine.data();
        data.advise(MmapAdvise::MADV_HUGEPAGE, "allow huge pages for")?;
        let scanned = self.wait_for_scan();
        data.advise(MmapAdvise::MADV_NOHUGEPAGE, "keep huge pages out of")?;
        scanned
    }
}

/// Checks that this kernel has khugepaged and that it runs.
pub(super) fn check_enabled(sysfs: &Path) -> Result<(), DriverError> {
    let path = sysfs.join("enabled");
    if !sysfs.join("khugepaged").is_dir() {
        return Err(DriverError::NoKhugepaged);
    }
    let modes = fs::read_to_string(&path).map_err(|cause| PathError::new("read", path, cause))?;
    if modes.contains("[never]") {
        return Err(DriverError::HugePagesOff);
    }
    Ok(())
}

/// A pipe that refers to pages of the guest.
struct Pipe {
    _read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> nix::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let bytes = PIPE_PAGES as i32 * PAGE_SIZE as i32;
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(bytes))?;
        Ok(Self { _read: read, write })
    }
}

/// Puts a reference to the last page of every huge page range into pipes.
fn hold_last_pages(data: &Mapping) -> std::io::Result<Vec<Pipe>> {
    let pages: Vec<u64> = data
        .hva()
        .step_by(TABLE_SPAN as usize)
        .map(|start| (start + TABLE_SPAN).min(data.hva().end) - PAGE_SIZE)
        .collect();
    let mut pipes = Vec::new();
    for chunk in pages.chunks(PIPE_PAGES) {
        let pipe = Pipe::new()?;
        for page in chunk {
            hold(&pipe, *page)?;
        }
        pipes.push(pipe);
    }
    Ok(pipes)
}

fn hold(pipe: &Pipe, page: u64) -> std::io::Result<()> {
    let vector = libc::iovec {
        iov_base: page as *mut libc::c_void,
        iov_len: PAGE_SIZE as usize,
    };
    // SAFETY: vmsplice takes a reference to the page, which lies in a mapping that is alive, and
    // reads none of its bytes, so that the guest may write to it meanwhile (I-shared).
    let spliced = unsafe { libc::vmsplice(pipe.write.as_raw_fd(), &raw const vector, 1, 0) };
    if spliced < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_khugepaged_or_with_it_off_is_told_apart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = check_enabled(dir.path()).expect_err("no khugepaged");
        assert!(matches!(error, DriverError::NoKhugepaged));
        fs::create_dir(dir.path().join("khugepaged")).expect("directory");
        let enabled = dir.path().join("enabled");
        fs::write(&enabled, "always madvise [never]\n").expect("file");
        let error = check_enabled(dir.path()).expect_err("switched off");
        assert!(matches!(error, DriverError::HugePagesOff));
        fs::write(&enabled, "always [madvise] never\n").expect("file");
        check_enabled(dir.path()).expect("enabled");
    }
}
