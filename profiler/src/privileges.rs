//! What a user must be allowed to do.

use std::fs;

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The user may not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error(
    "rmapscope reads the kernel through eBPF, which this user may not do: run it as root, or give it CAP_BPF and CAP_PERFMON"
)]
pub(crate) struct Unprivileged;

/// Checks before anything is tried, so that the answer is one sentence.
pub(crate) fn check() -> Result<(), Unprivileged> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if suffices(effective(&status)) {
        return Ok(());
    }
    Err(Unprivileged)
}

fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn suffices(mask: u64) -> bool {
    let has = |capability: u32| mask & (1 << capability) != 0;
    has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_or_both_capabilities_suffice_and_one_does_not() {
        assert!(suffices(effective("Name:\tx\nCapEff:\t000001ffffffffff\n")));
        assert!(suffices(1 << CAP_BPF | 1 << CAP_PERFMON));
        assert!(!suffices(1 << CAP_BPF));
        assert!(!suffices(effective("CapEff:\t0000000000000000\n")));
        assert!(!suffices(effective("")));
    }
}
