//! Observing callbacks, whatever is then done with what was seen.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | which VMs, how closely |
//! | `attach` | loads and attaches the programs of one rung |
//! | `session` | keeps the tables fresh while programs are attached |
//! | `counts` | reads what the kernel side summed |
//! | `stretch` | what happened at one sampling rate |
//! | `ceiling` | keeps the cost of observing below a limit |
//! | `losses` | what was not counted, and why |
//! | `ended` | signals and other ends |
//! | `own_cost`, `disturbance` | what observing cost, and what disturbed it |
//!
//! Invariant: dropping a [`Session`] detaches every program; nothing is pinned.

mod attach;
mod ceiling;
mod counts;
mod disturbance;
mod ended;
mod losses;
mod options;
pub(crate) mod own_cost;
mod session;
mod stretch;

pub(crate) use counts::Counts;
pub(crate) use ended::{Ended, Signals};
pub(crate) use losses::{all_losses, losses};
pub(crate) use options::{Observe, period_ns};
pub(crate) use session::Session;
pub(crate) use stretch::{Stretch, Stretches};
