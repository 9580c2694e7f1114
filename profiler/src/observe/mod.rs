//! Observing callbacks, whatever is then done with what was seen.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | which VMs, how closely |
//! | `begin` | checks, and what the kernel offers |
//! | `attach` | loads and attaches the programs of one rung |
//! | `session` | programs attached, from the start to the end |
//! | `look` | keeps the kernel side's tables fresh |
//! | `rates`, `turns` | sampling at several rates in turn |
//! | `counts` | reads what the kernel side summed |
//! | `stretch` | what happened at one sampling rate |
//! | `ceiling` | keeps the cost of observing below a limit |
//! | `statistics` | BPF run-time statistics, on for as long as they are needed |
//! | `losses` | what was not counted, and why |
//! | `ended` | signals and other ends |
//! | `own_cost`, `disturbance` | what observing cost, and what disturbed it |
//!
//! Invariant: dropping a [`Session`] detaches every program; nothing is pinned.

mod attach;
pub(crate) mod begin;
mod ceiling;
mod counts;
mod disturbance;
mod ended;
mod look;
mod losses;
mod options;
pub(crate) mod own_cost;
mod rates;
mod session;
mod statistics;
mod stretch;
mod turns;

pub(crate) use begin::{Ground, Look};
pub(crate) use ceiling::{Above, Lowered};
pub(crate) use counts::{Counts, distribution};
pub(crate) use ended::{Ended, Signals, signal_name};
pub(crate) use look::FindProblems;
pub(crate) use losses::Loss;
pub(crate) use options::{Observe, period_ns, whole};
pub(crate) use session::Session;
pub(crate) use stretch::{Stretch, Stretches};
