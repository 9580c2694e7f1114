//! Model checks, run by `RUSTFLAGS="--cfg loom" cargo test -p rmap --release --test loom`.
//!
//! [`pairs`] runs every scheme of the registry through every pair of operations
//! that may meet, and [`controls`] breaks the rules on purpose: a checker that
//! catches nothing there proves nothing in the other.
#![cfg(loom)]

#[path = "../broken/mod.rs"]
mod broken;
mod controls;
mod epochs;
mod model;
mod pairs;
mod queued_lock;
mod ranges;
mod tdp;
