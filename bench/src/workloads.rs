//! One file per workload, and what they share.

pub mod contention;
pub mod ground;
pub mod passes;
pub mod vm;
pub mod walk;
