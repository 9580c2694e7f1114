//! Everything that can go wrong with a guest, one sentence per cause.
//!
//! Each message says what was tried, on what, and what the user can do. It includes its cause, so
//! none has a `source()`: printed alone or as a chain, it reads the same.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup::CgroupError;
use crate::config::ConfigError;
use crate::driver::DriverError;
use crate::memory::MemoryError;
use crate::stats::StatsError;

/// Why a guest could not be started, steered or stopped.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The configuration asks for something no guest can be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The guest's memory could not be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The memory cgroup could not be found, made or joined.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The aging driver cannot work here, or failed while it ran.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// KVM's statistics could not be read.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// A file of procfs could not be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// There is no KVM device.
    #[error(
        "/dev/kvm does not exist: load KVM (modprobe kvm-intel or kvm-amd), or enable \
         virtualisation in the firmware, or nested virtualisation where this machine is itself a VM"
    )]
    NoKvm,
    /// The KVM device exists and may not be opened.
    #[error(
        "/dev/kvm may not be opened by this user: run as root or join the group that owns it \
         (often kvm)"
    )]
    KvmDenied,
    /// A KVM call failed.
    #[error("KVM refused {call}: {cause}")]
    Kvm {
        /// The ioctl, in KVM's own words.
        call: &'static str,
        /// What KVM answered.
        cause: io::Error,
    },
    /// This KVM runs no guest in a guest.
    #[error("a nested guest cannot run here: {0}")]
    NoNested(&'static str),
    /// The vCPU thread could not be started.
    #[error("could not start the vCPU thread: {0}")]
    Thread(io::Error),
    /// The vCPU left the guest for a reason that ends it.
    #[error("the guest ended after {passes} passes: {reason}")]
    Exited {
        /// Full passes done until then.
        passes: u64,
        /// KVM's exit reason.
        reason: String,
    },
    /// A pass took too long.
    #[error(
        "the guest did not finish a pass within {waited:?}: ask for fewer pages or \
         aliases, or allow more time"
    )]
    PassTimeout {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The vCPU did not answer a pause or stop.
    #[error("the vCPU did not {asked} within {waited:?}: it is stuck inside KVM_RUN")]
    Stuck {
        /// "pause" or "stop".
        asked: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The caller cancelled the start.
    #[error("the start of the guest was cancelled")]
    Cancelled,
}

/// An I/O error with the file it happened on.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}: {cause}", path.display())]
pub struct PathError {
    /// "read", "write", "create" and the like.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the kernel answered.
    pub cause: io::Error,
}

impl PathError {
    pub(crate) fn new(action: &'static str, path: impl Into<PathBuf>, cause: io::Error) -> Self {
        Self {
            action,
            path: path.into(),
            cause,
        }
    }
}
