//! Counts of KVM's aging events from tracefs: a second witness for the profiler's counts.
//!
//! Each [`EventCounter`] has tracefs instances of its own, one per event, with their own buffers,
//! so it neither sees nor disturbs anybody else's tracing. A count is what went into an
//! instance's buffers, whether it is still there or was overwritten.

mod counter;
mod mount;

pub use counter::{AgingCounts, EventCounter, EventFilter};
pub use mount::Tracefs;

use crate::error::PathError;

/// Why events cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum TracefsError {
    /// tracefs is not there for us.
    #[error("could not open tracefs: {0}; run as root on a kernel with CONFIG_FTRACE")]
    Unavailable(std::io::Error),
    /// The kernel has no such event.
    #[error("this kernel has no trace event {0}: load KVM first")]
    NoEvent(String),
    /// The kernel did not take the filter.
    #[error("the kernel refused the event filter {filter:?}: {cause}")]
    Filter {
        /// The filter.
        filter: String,
        /// What the kernel answered.
        cause: std::io::Error,
    },
    /// Events were lost before they were counted.
    #[error("{0} events were dropped before they could be counted")]
    Dropped(u64),
    /// A file of tracefs could not be used.
    #[error(transparent)]
    Path(#[from] PathError),
}
