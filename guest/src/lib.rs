//! A tiny real KVM guest and the drivers that make the kernel age its memory.
//!
//! The guest touches a chosen number of pages, each through a chosen number of virtual addresses,
//! over and over. Under shadow paging KVM then keeps an rmap chain of that many SPTEs per page.
//! A driver makes the kernel ask whether the pages are young: reclaim of a memory cgroup,
//! khugepaged, MGLRU or DAMON.
//!
//! ```no_run
//! use guest::{Driver, Guest, GuestConfig};
//!
//! # fn main() -> Result<(), guest::GuestError> {
//! let guest = Guest::start(GuestConfig::new(2048, 16).with_driver(Driver::Reclaim))?;
//! guest.pause()?;
//! guest.drive_once()?;
//! println!("{:?} aged at {:x?}", guest.stats()?.sptes_4k(), guest.memory());
//! guest.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! A [nested](GuestConfig::nested) guest is an L1 that runs an L2 over a nested page table of its
//! own: L2's accesses make rmaps under two-dimensional paging, beside the TDP MMU's tables that
//! L1's own accesses make.
//!
//! Whatever way a guest ends, it leaves no process, cgroup, file or changed setting behind; what
//! even `SIGKILL` leaves (an empty cgroup, khugepaged's scan settings) the next guest sweeps up.
//! One thing stays after a `SIGKILL`: the memory controller handed to the children of a v2 root
//! that had it for itself before.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the guest is a program for x86-64 KVM on Linux");

mod backing;
mod cgroup;
mod config;
mod driver;
mod error;
mod guest;
mod layout;
pub mod live;
mod memory;
mod naming;
mod nested;
mod program;
mod stats;
pub mod tracefs;
mod vcpu;
mod vm;
pub mod wire;

pub use backing::BackingError;
pub use cgroup::{CgroupError, CgroupVersion, Memcg, MemoryHierarchy};
pub use config::{Backing, ConfigError, Driver, GuestConfig, MAX_ALIASES};
pub use driver::DriverError;
pub use error::{GuestError, PathError};
pub use guest::{Guest, GuestReport};
pub use layout::PAGE_SIZE;
pub use memory::MemoryError;
pub use stats::{KvmStats, StatsError};
