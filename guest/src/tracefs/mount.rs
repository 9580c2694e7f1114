//! A way into tracefs, whether the host has it mounted or not.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};

use super::TracefsError;

const TRACEFS_MAGIC: FsType = FsType(0x7472_6163);
const USUAL: &str = "/sys/kernel/tracing";

/// tracefs: the host's own mount or, where there is none, a mount that only this process sees and
/// that is gone with it.
#[derive(Debug)]
pub struct Tracefs {
    root: PathBuf,
    // The detached mount lives as long as this descriptor.
    _mount: Option<OwnedFd>,
}

impl Tracefs {
    /// Finds or mounts tracefs.
    ///
    /// # Errors
    /// [`TracefsError::Unavailable`] without privileges, or without tracefs in the kernel.
    pub fn open() -> Result<Self, TracefsError> {
        let tracefs = match Self::mounted() {
            Some(tracefs) => tracefs,
            None => Self::mount_detached().map_err(TracefsError::Unavailable)?,
        };
        File::open(tracefs.root.join("events/enable")).map_err(TracefsError::Unavailable)?;
        Ok(tracefs)
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn mounted() -> Option<Self> {
        let found = statfs(USUAL).ok()?;
        (found.filesystem_type() == TRACEFS_MAGIC).then(|| Self {
            root: USUAL.into(),
            _mount: None,
        })
    }

    fn mount_detached() -> io::Result<Self> {
        // SAFETY: fsopen reads the name, which is terminated, and returns a new descriptor.
        let context = unsafe {
            let name = c"tracefs".as_ptr();
            owned(libc::syscall(libc::SYS_fsopen, name, FSOPEN_CLOEXEC))
        }?;
        let fd = context.as_raw_fd();
        let nothing = std::ptr::null::<libc::c_char>();
        // SAFETY: this command of fsconfig takes no key and no value.
        let created = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                fd,
                FSCONFIG_CMD_CREATE,
                nothing,
                nothing,
                0,
            )
        };
        if created < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fsmount takes numbers and returns a new descriptor.
        let mount = unsafe { owned(libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0)) }?;
        Ok(Self {
            root: format!("/proc/self/fd/{}", mount.as_raw_fd()).into(),
            _mount: Some(mount),
        })
    }
}

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Owns the descriptor a system call returned.
///
/// # Safety
/// `result` is an error or a descriptor nobody else owns.
unsafe fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: by this function's own contract.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
