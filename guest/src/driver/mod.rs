//! What makes the kernel age the guest's memory, once or in a loop.
//!
//! One iteration is one call of [`Aging::age_once`], in the calling thread; a [`DriverLoop`] calls
//! it from a thread of its own until it is stopped. Both share the driver through [`SharedDriver`].

mod damon;
mod khugepaged;
mod mglru;
mod reclaim;
mod repeat;
mod settings;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use damon::Damon;
pub(crate) use khugepaged::Khugepaged;
pub(crate) use mglru::Mglru;
pub(crate) use reclaim::Reclaim;
pub(crate) use repeat::{DriverLoop, Plan, age_held};

use crate::error::PathError;
use crate::memory::MemoryError;

/// Why a driver cannot work here, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// There is no driver to put to work.
    #[error("this guest has no driver: start it with one, such as reclaim")]
    NoDriver,
    /// Anonymous memory cannot be reclaimed.
    #[error(
        "anonymous guest memory can only be reclaimed with swap, and this host has none: use a \
         file backing, or add swap with swapon"
    )]
    NoSwap,
    /// The kernel was built without transparent huge pages.
    #[error("this kernel has no khugepaged: it was built without CONFIG_TRANSPARENT_HUGEPAGE")]
    NoKhugepaged,
    /// Transparent huge pages are switched off.
    #[error(
        "khugepaged is switched off: write madvise to \
         /sys/kernel/mm/transparent_hugepage/enabled"
    )]
    HugePagesOff,
    /// Another guest drives khugepaged.
    #[error(
        "another guest drives khugepaged (it holds {}): stop that guest first", lock.display()
    )]
    KhugepagedTaken {
        /// The file that guest holds.
        lock: std::path::PathBuf,
    },
    /// khugepaged did not get round.
    #[error("khugepaged did not scan the guest's memory within {waited:?}")]
    NoScan {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The guest's pages could not be kept from being collapsed.
    #[error("could not hold pages of the guest's memory in a pipe: {0}")]
    Hold(std::io::Error),
    /// The kernel was built without MGLRU.
    #[error("this kernel has no MGLRU: it was built without CONFIG_LRU_GEN")]
    NoMglru,
    /// MGLRU is off, or does not walk page tables.
    #[error("MGLRU is switched off: write y to /sys/kernel/mm/lru_gen/enabled")]
    MglruOff,
    /// MGLRU does not list the guest's cgroup.
    #[error(
        "MGLRU's debug file does not list the guest's cgroup: look into /sys/kernel/debug/lru_gen"
    )]
    NoGenerations,
    /// The kernel was built without DAMON, or without its control files.
    #[error("this kernel has no DAMON to control: it was built without CONFIG_DAMON_SYSFS")]
    NoDamon,
    /// Somebody else controls DAMON.
    #[error(
        "somebody controls DAMON already: stop that, then write 0 to \
         /sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds"
    )]
    DamonTaken,
    /// A file of sysfs, procfs or the cgroup could not be used.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The kernel refused to treat the guest's memory as a driver needs it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The loop's thread could not be started or panicked.
    #[error("the driver's thread failed: {0}")]
    Thread(String),
}

/// One way of making the kernel age the guest's memory.
pub(crate) trait Aging: Send {
    /// Makes the kernel age the memory once; returns when it has.
    fn age_once(&mut self) -> Result<(), DriverError>;
}

/// A driver that callers and a loop share, with a count of its iterations.
#[derive(Clone)]
pub(crate) struct SharedDriver {
    aging: Arc<Mutex<Box<dyn Aging>>>,
    iterations: Arc<AtomicU64>,
}

impl SharedDriver {
    pub(crate) fn new(aging: Box<dyn Aging>) -> Self {
        Self {
            aging: Arc::new(Mutex::new(aging)),
            iterations: Arc::default(),
        }
    }

    pub(crate) fn iterations(&self) -> u64 {
        self.iterations.load(Ordering::Relaxed)
    }

    pub(crate) fn age_once(&self) -> Result<(), DriverError> {
        let mut aging = self.aging.lock().unwrap_or_else(PoisonError::into_inner);
        aging.age_once()?;
        self.iterations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether MGLRU can be told to age a cgroup here.
pub(crate) fn check_mglru() -> Result<(), DriverError> {
    mglru::check_host()
}

/// Whether DAMON can be told to watch a process here.
pub(crate) fn check_damon() -> Result<(), DriverError> {
    damon::check_host()
}

/// Whether this kernel has khugepaged and it is switched on.
pub(crate) fn check_khugepaged() -> Result<(), DriverError> {
    khugepaged::check_enabled(std::path::Path::new(khugepaged::SYSFS))
}
