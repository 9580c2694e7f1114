//! Memory cgroups: where they are on this host, and one of our own.
//!
//! Reclaim of a memory cgroup makes the kernel age the pages charged to it, so a guest that is to
//! be aged joins a cgroup of its own before its memory is populated.

mod detect;
mod memcg;

use std::path::PathBuf;

pub use detect::{CgroupVersion, MemoryHierarchy};
pub use memcg::Memcg;
pub(crate) use memcg::Reclaimer;

use crate::error::PathError;

/// Why there is no memory cgroup for the guest.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has no memory controller we can see.
    #[error(
        "no cgroup file system with the memory controller is mounted: mount one (v2: mount -t \
         cgroup2 none /sys/fs/cgroup) and boot without cgroup_disable=memory"
    )]
    NoController,
    /// Every place that could hold our cgroup refused it.
    #[error(
        "could not create and join a memory cgroup at {}: {cause}; run as root, or have the \
         memory controller delegated to this user", path.display()
    )]
    Refused {
        /// The last place tried.
        path: PathBuf,
        /// What the kernel answered there.
        cause: std::io::Error,
    },
    /// No cgroup on the way to the root hands the memory controller to its children.
    #[error(
        "the memory controller is not delegated in {}: write +memory to a cgroup.subtree_control \
         above this process, or run in a delegated scope (systemd-run -p Delegate=yes --scope)",
        path.display()
    )]
    NotDelegated {
        /// The mount point of the hierarchy.
        path: PathBuf,
    },
    /// This process already is in a guest's cgroup.
    #[error("this process already has a guest in a memory cgroup: stop that guest first")]
    Taken,
    /// A file of procfs or of the cgroup could not be used.
    #[error(transparent)]
    Path(#[from] PathError),
}
