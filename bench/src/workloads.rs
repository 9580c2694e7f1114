//! One file per workload, and what they share.

pub mod accuracy;
pub mod agers;
pub mod empty;
pub mod ground;
pub mod hold;
pub mod interference;
pub mod lookaround;
pub mod memory;
pub mod pages;
pub mod pass;
pub mod passes;
pub mod reuse;
pub mod transfer;
pub mod vm;
pub mod walk;
pub mod writer;
