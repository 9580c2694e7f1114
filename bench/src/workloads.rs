//! One file per workload, and what they share.

pub mod accuracy;
pub mod contention;
pub mod ground;
pub mod passes;
pub mod reuse;
pub mod vm;
pub mod walk;
