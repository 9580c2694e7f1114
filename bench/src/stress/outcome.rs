//! What a stress run has done and found.

use std::{fmt, ops::AddAssign};

/// A broken invariant, by name.
#[derive(Debug)]
pub(super) struct Violation(pub(super) String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An operation failed that cannot fail unless a chain is corrupt.
pub(super) fn must<T, E: fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, Violation> {
    result.map_err(|error| Violation(format!("I-chain: {what} failed: {error}")))
}

/// How often the things happened that a run is for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// SPTEs installed.
    pub installed: u64,
    /// Rmaps zapped because they had become too long.
    pub recycled: u64,
    /// SPTEs zapped one by one or with their range.
    pub zapped: u64,
    /// SPTEs that lost their write permission.
    pub protected: u64,
    /// SPTEs zapped because their page could be mapped huge.
    pub collapsed: u64,
    /// Aging callbacks.
    pub callbacks: u64,
    /// Shadow pages that were a stranger's for a while.
    pub reused: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.installed += other.installed;
        self.recycled += other.recycled;
        self.zapped += other.zapped;
        self.protected += other.protected;
        self.collapsed += other.collapsed;
        self.callbacks += other.callbacks;
        self.reused += other.reused;
    }
}
