//! The file behind file-backed guest memory.
//!
//! It has no name from the first moment on, so no way out of the process can leave it behind. It
//! must lie on a disk: pages of tmpfs and its kin need swap to be reclaimed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::fstatfs;

use crate::naming;

const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Why there is no file to back the guest's memory.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The directory cannot hold our file.
    #[error(
        "could not create a file for the guest's memory in {}: {cause}; choose a writable \
         directory on a disk with --dir", dir.display()
    )]
    Create {
        /// The directory tried.
        dir: PathBuf,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// The directory lies in memory.
    #[error(
        "{} is on {filesystem}, whose pages cannot be reclaimed without swap; choose a directory \
         on a disk file system with --dir", dir.display()
    )]
    NotOnDisk {
        /// The directory tried.
        dir: PathBuf,
        /// The file system's name.
        filesystem: &'static str,
    },
    /// The disk is too full.
    #[error(
        "could not give the guest's file in {} its {mib} MiB: {cause}; free space or choose \
         another directory with --dir", dir.display()
    )]
    Resize {
        /// The directory tried.
        dir: PathBuf,
        /// The size wanted.
        mib: u64,
        /// What the kernel answered.
        cause: io::Error,
    },
}

/// An unnamed file of `len` bytes in `dir`, or in the first temporary directory on a disk.
///
/// With `write` the blocks are allocated now, so that a full disk is an error here and not a fault
/// inside the guest.
pub(crate) fn create(dir: Option<&Path>, len: u64, write: bool) -> Result<File, BackingError> {
    let (file, dir) = match dir {
        Some(dir) => (create_in(dir)?, dir.to_owned()),
        None => create_in_temporary()?,
    };
    resize(&file, len, write).map_err(|cause| BackingError::Resize {
        dir,
        mib: len >> 20,
        cause,
    })?;
    Ok(file)
}

/// The temporary directory that would back a guest's memory.
pub(crate) fn temporary_on_disk() -> Result<PathBuf, BackingError> {
    create_in_temporary().map(|(_, dir)| dir)
}

fn create_in_temporary() -> Result<(File, PathBuf), BackingError> {
    create_in_any(&[std::env::temp_dir(), "/var/tmp".into(), "/tmp".into()])
}

/// The first directory that works; the first one's error if none does.
fn create_in_any(dirs: &[PathBuf]) -> Result<(File, PathBuf), BackingError> {
    let mut first_error = None;
    for dir in dirs {
        match create_in(dir) {
            Ok(file) => return Ok((file, dir.clone())),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| BackingError::Create {
        dir: PathBuf::new(),
        cause: io::ErrorKind::NotFound.into(),
    }))
}

fn create_in(dir: &Path) -> Result<File, BackingError> {
    let failed = |cause| BackingError::Create {
        dir: dir.to_owned(),
        cause,
    };
    let file = open_unnamed(dir).map_err(failed)?;
    let magic = fstatfs(&file).map_err(|errno| failed(errno.into()))?;
    match memory_filesystem(magic.filesystem_type().0 as u64) {
        Some(filesystem) => Err(BackingError::NotOnDisk {
            dir: dir.to_owned(),
            filesystem,
        }),
        None => Ok(file),
    }
}

fn memory_filesystem(magic: u64) -> Option<&'static str> {
    match magic & 0xffff_ffff {
        TMPFS_MAGIC => Some("tmpfs"),
        RAMFS_MAGIC => Some("ramfs"),
        HUGETLBFS_MAGIC => Some("hugetlbfs"),
        _ => None,
    }
}

fn open_unnamed(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.custom_flags(libc::O_TMPFILE).open(dir) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        result => return result,
    }
    // The file system has no O_TMPFILE: a name that lives for one system call.
    let path = dir.join(naming::own());
    let file = options.custom_flags(0).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn resize(file: &File, len: u64, write: bool) -> io::Result<()> {
    file.set_len(len)?;
    if !write {
        return Ok(());
    }
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        // A file system without preallocation fills the holes as the guest writes.
        Ok(()) | Err(nix::Error::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn file_systems_in_memory_are_told_from_disks() {
        assert_eq!(memory_filesystem(TMPFS_MAGIC), Some("tmpfs"));
        assert_eq!(memory_filesystem(RAMFS_MAGIC), Some("ramfs"));
        // Sign-extended, as a 32-bit statfs field can arrive.
        let extended = u64::from(HUGETLBFS_MAGIC as u32) | 0xffff_ffff_0000_0000;
        assert_eq!(memory_filesystem(extended), Some("hugetlbfs"));
        assert_eq!(memory_filesystem(0xef53), None);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = create(Some(Path::new("/nonexistent/rmapscope")), 4096, false)
            .expect_err("no such directory");
        let text = error.to_string();
        assert!(text.contains("/nonexistent/rmapscope") && text.contains("--dir"));
    }

    #[test]
    fn the_file_never_has_a_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = open_unnamed(dir.path()).expect("unnamed file");
        assert_eq!(file.metadata().expect("metadata").nlink(), 0);
        assert_eq!(fs::read_dir(dir.path()).expect("listing").count(), 0);
    }
}
