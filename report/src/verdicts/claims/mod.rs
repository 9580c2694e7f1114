//! One file per claim.

pub(super) mod collisions;
pub(super) mod empty;
pub(super) mod fallback;
pub(super) mod garbage;
pub(super) mod lookaround;
pub(super) mod one_spte;
pub(super) mod plain_store;
pub(super) mod recheck;
pub(super) mod skip;
pub(super) mod synchronize;
pub(super) mod under_lock;
pub(super) mod writers;
