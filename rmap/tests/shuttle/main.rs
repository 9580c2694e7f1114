//! Random schedules of long histories, run by
//! `RUSTFLAGS="--cfg shuttle" cargo test -p rmap --release --test shuttle`.
//!
//! loom explores every history of two operations; this draws histories of dozens,
//! with several mutators, agers and the reuse of shadow pages, and runs each under
//! one random schedule. [`schemes`] does so for every scheme of the registry, and
//! [`controls`] for schemes with one rule broken, each of which must be caught.
//!
//! Both the history and the schedule come from one seed, and the seed of a failure
//! is printed with the variables that repeat it: [`schedules`] has them.
#![cfg(shuttle)]

#[path = "../broken/mod.rs"]
mod broken;
mod controls;
mod history;
mod schedules;
mod schemes;
