//! rmapscope on the live host: what it says is true, what it cannot do it says,
//! and it leaves nothing behind. A test whose host lacks something is skipped
//! loudly; where live tests are required, that is a failure.

mod bad_input;
mod census;
mod cleanup;
mod common;
mod exact;
mod hard_conditions;
mod interference;
mod matrix;
mod mmu_lock;
mod nested;
mod own_cost;
mod peers;
mod record;
mod rmap_statistics;
mod watch;
