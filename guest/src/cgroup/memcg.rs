//! A memory cgroup of this process's own, for as long as its guest lives.
//!
//! Invariant: while a [`Memcg`] exists this process is in it; dropping it moves the process back
//! and removes the directory. Whoever holds one drops the guest's memory first, so that nothing
//! stays charged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::CgroupError;
use super::detect::{CgroupVersion, MemoryHierarchy, subtree_control};
use crate::error::PathError;
use crate::naming;

/// A process can be in one memory cgroup only.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Removal is refused while the kernel still counts a process in; tries and time between them.
const REMOVAL_TRIES: u32 = 200;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// This process's own memory cgroup.
#[derive(Debug)]
pub struct Memcg {
    hierarchy: MemoryHierarchy,
    // Fields drop in this order: out of the cgroup, the cgroup, the delegation, the claim.
    _membership: Membership,
    directory: Directory,
    _delegation: Option<Delegation>,
    _claim: Claim,
}

impl Memcg {
    /// Makes a memory cgroup and moves this process into it, after sweeping up what killed guests
    /// left beside it.
    ///
    /// # Errors
    /// If the host has no memory controller, refuses it to us, or if this process already has one.
    pub fn join() -> Result<Self, CgroupError> {
        let claim = Claim::take()?;
        let hierarchy = MemoryHierarchy::detect()?;
        let mut last = None;
        for parent in hierarchy.parents() {
            match Self::join_below(&parent, &hierarchy) {
                Ok((directory, membership, delegation)) => {
                    return Ok(Self {
                        hierarchy,
                        _membership: membership,
                        directory,
                        _delegation: delegation,
                        _claim: claim,
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(CgroupError::NoController))
    }

    fn join_below(
        parent: &Path,
        hierarchy: &MemoryHierarchy,
    ) -> Result<(Directory, Membership, Option<Delegation>), CgroupError> {
        sweep(parent);
        let delegation = if hierarchy.needs_delegation(parent) {
            Some(Delegation::take(parent)?)
        } else {
            None
        };
        let path = parent.join(naming::own_new());
        let refused = |cause| CgroupError::Refused {
            path: path.clone(),
            cause,
        };
        let directory = Directory::create(path.clone()).map_err(refused)?;
        let membership = Membership::take(&path, hierarchy).map_err(refused)?;
        Ok((directory, membership, delegation))
    }

    /// v1 or v2.
    #[must_use]
    pub fn version(&self) -> CgroupVersion {
        self.hierarchy.version
    }

    /// The cgroup's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory.0
    }

    /// Opens the cgroup's reclaim file.
    pub(crate) fn reclaimer(&self) -> Result<Reclaimer, PathError> {
        let (name, usage) = match self.version() {
            CgroupVersion::V1 => ("memory.force_empty", None),
            CgroupVersion::V2 => ("memory.reclaim", Some(self.path().join("memory.current"))),
        };
        let path = self.path().join(name);
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => Ok(Reclaimer { file, path, usage }),
            Err(cause) => Err(PathError::new("open", path, cause)),
        }
    }
}

/// An open reclaim file.
#[derive(Debug)]
pub(crate) struct Reclaimer {
    file: File,
    path: PathBuf,
    /// The file with the bytes in use, on hierarchies that want to be told how much to reclaim.
    usage: Option<PathBuf>,
}

impl Reclaimer {
    /// Reclaims all there is, once, in the calling thread. Less is no error: the guest brings its
    /// pages back while they are taken, and some memory cannot be taken.
    pub(crate) fn reclaim(&mut self) -> Result<(), PathError> {
        let request = match &self.usage {
            None => "0".into(),
            Some(usage) => {
                fs::read_to_string(usage).map_err(|cause| PathError::new("read", usage, cause))?
            }
        };
        match self.file.write_all(request.trim().as_bytes()) {
            Ok(()) => Ok(()),
            Err(error) if is_partial(&error) => Ok(()),
            Err(cause) => Err(PathError::new("write", &self.path, cause)),
        }
    }
}

fn is_partial(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EINTR | libc::EBUSY)
    )
}

/// The process-wide right to be in a guest's cgroup.
#[derive(Debug)]
struct Claim;

impl Claim {
    fn take() -> Result<Self, CgroupError> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(CgroupError::Taken);
        }
        Ok(Self)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Release);
    }
}

/// The memory controller handed to a cgroup's children, taken back on drop if none is left.
#[derive(Debug)]
struct Delegation {
    parent: PathBuf,
}

impl Delegation {
    fn take(parent: &Path) -> Result<Self, CgroupError> {
        let parent = parent.to_owned();
        match fs::write(subtree_control(&parent), "+memory") {
            Ok(()) => Ok(Self { parent }),
            Err(_) => Err(CgroupError::NotDelegated { path: parent }),
        }
    }
}

impl Drop for Delegation {
    fn drop(&mut self) {
        // The kernel refuses only if a child hands the controller on: from one that merely uses
        // it, as another guest does, it would be taken. So it stays while there is any child. A
        // guest that is just about to make its cgroup is not seen; it finds no reclaim file then.
        if !has_children(&self.parent) {
            let _ = fs::write(subtree_control(&self.parent), "-memory");
        }
    }
}

/// Whether there is a cgroup below `cgroup`, or nobody can tell.
fn has_children(cgroup: &Path) -> bool {
    let is_cgroup = |entry: io::Result<fs::DirEntry>| {
        let kind = entry.and_then(|entry| entry.file_type());
        kind.map_or(true, |kind| kind.is_dir())
    };
    fs::read_dir(cgroup).map_or(true, |mut entries| entries.any(is_cgroup))
}

/// A cgroup directory that is removed on drop.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn create(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for _ in 0..REMOVAL_TRIES {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    thread::sleep(REMOVAL_PAUSE);
                }
                _ => return,
            }
        }
    }
}

/// This process's presence in the cgroup; goes back on drop.
#[derive(Debug)]
struct Membership {
    /// Where this process came from, and the root for when that is gone.
    homes: [PathBuf; 2],
}

impl Membership {
    fn take(cgroup: &Path, hierarchy: &MemoryHierarchy) -> io::Result<Self> {
        enter(cgroup)?;
        Ok(Self {
            homes: [hierarchy.own.clone(), hierarchy.mount.clone()],
        })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // If both refuse, the next guest sweeps the directory up once this process is gone.
        let _ = self.homes.iter().find(|home| enter(home).is_ok());
    }
}

fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

/// Removes the empty cgroups of dead guests below `parent`, nested ones first: a guest that was
/// started from another guest's cgroup has its own inside it.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(naming::is_leftover) {
            sweep(&entry.path());
            // A cgroup with processes of another pid namespace refuses, as it should.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leftovers_are_swept() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let keep = [naming::own(), "rmapscope-guest-x".into(), "other".into()];
        let dead = "rmapscope-guest-4294967295".to_owned();
        for name in keep.iter().chain([&dead]) {
            fs::create_dir(parent.path().join(name)).expect("directory");
        }
        let nested = parent.path().join(&dead).join("rmapscope-guest-4294967294");
        fs::create_dir(nested).expect("directory");
        sweep(parent.path());
        assert!(!parent.path().join(dead).exists());
        assert!(keep.iter().all(|name| parent.path().join(name).exists()));
    }

    #[test]
    fn the_controller_is_taken_back_only_when_no_other_child_is_left() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let control = subtree_control(parent.path());
        let written = || fs::read_to_string(&control).expect("a control file");
        let other = parent.path().join("rmapscope-guest-other");
        fs::create_dir(&other).expect("directory");
        drop(Delegation::take(parent.path()).expect("delegated"));
        assert_eq!(written(), "+memory", "another guest uses it");
        fs::remove_dir(&other).expect("the directory is empty");
        drop(Delegation::take(parent.path()).expect("delegated"));
        assert_eq!(written(), "-memory");
    }

    #[test]
    fn a_partial_reclaim_is_no_failure() {
        assert!(is_partial(&io::Error::from_raw_os_error(libc::EAGAIN)));
        assert!(!is_partial(&io::Error::from_raw_os_error(libc::EACCES)));
    }
}
