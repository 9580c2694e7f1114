//! What a user must be allowed to do, and what a process that observes keeps of
//! it.

use std::fs;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The user may not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error(
    "rmapscope reads the kernel through eBPF, which this user may not do: run it as root, or give it CAP_BPF, CAP_PERFMON and CAP_SYSLOG"
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

/// The level of `kernel.perf_event_paranoid` above which Debian's kernels let
/// nobody open a perf event who has not CAP_SYS_ADMIN; upstream knows no level
/// above it.
const PARANOID_UPSTREAM: i32 = 2;

/// Whether opening one more perf event takes the old, all-embracing capability.
pub(crate) fn sampling_needs_admin() -> bool {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    level.is_ok_and(|text| is_beyond_upstream(&text))
}

fn is_beyond_upstream(level: &str) -> bool {
    let level = level.trim().parse::<i32>();
    level.is_ok_and(|level| level > PARANOID_UPSTREAM)
}

/// What a process keeps once its programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// What maps, iterators and the sampler need.
    Observing,
    /// That, and to write the result where the user asked for it.
    ObservingAndWriting,
}

/// Gives up every other capability for good: programs are attached, their maps
/// are open, and nothing else needs more. Only the calling thread's change, so
/// it has to be the only one. `admin` keeps CAP_SYS_ADMIN: the sampling rate
/// changes while it runs, which [`sampling_needs_admin`] on some hosts.
///
/// # Errors
/// If the kernel refuses, which it does not do to a process that gives up.
pub(crate) fn give_up(keep: Keep, admin: bool) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept = kept(keep, admin, &permitted);
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

fn kept(keep: Keep, admin: bool, permitted: &CapsHashSet) -> CapsHashSet {
    let observing = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    let mut wanted: Vec<Capability> = observing.to_vec();
    // Whoever came with the old, all-embracing capability needs it to the end.
    let has_both = observing
        .iter()
        .all(|capability| permitted.contains(capability));
    if admin || !has_both {
        wanted.push(Capability::CAP_SYS_ADMIN);
    }
    if keep == Keep::ObservingAndWriting {
        wanted.push(Capability::CAP_DAC_OVERRIDE);
    }
    wanted.retain(|capability| permitted.contains(capability));
    wanted.into_iter().collect()
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
    fn only_what_observing_needs_is_kept() {
        use Capability::{CAP_BPF, CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        let set = |list: &[Capability]| list.iter().copied().collect::<CapsHashSet>();
        let root = set(&[
            CAP_BPF,
            CAP_DAC_OVERRIDE,
            CAP_NET_ADMIN,
            CAP_PERFMON,
            CAP_SYS_ADMIN,
        ]);
        assert_eq!(
            kept(Keep::Observing, false, &root),
            set(&[CAP_BPF, CAP_PERFMON])
        );
        assert_eq!(
            kept(Keep::ObservingAndWriting, false, &root),
            set(&[CAP_BPF, CAP_PERFMON, CAP_DAC_OVERRIDE])
        );
        let old = set(&[CAP_SYS_ADMIN, CAP_NET_ADMIN]);
        assert_eq!(kept(Keep::Observing, false, &old), set(&[CAP_SYS_ADMIN]));
        assert_eq!(
            kept(Keep::Observing, true, &root),
            set(&[CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN])
        );
    }

    #[test]
    fn only_a_level_upstream_does_not_know_takes_more_to_sample() {
        assert!(is_beyond_upstream("3\n"));
        for level in ["2\n", "-1\n", ""] {
            assert!(!is_beyond_upstream(level), "{level}");
        }
    }

    #[test]
    fn root_or_both_capabilities_suffice_and_one_does_not() {
        assert!(suffices(effective("Name:\tx\nCapEff:\t000001ffffffffff\n")));
        assert!(suffices(1 << CAP_BPF | 1 << CAP_PERFMON));
        assert!(!suffices(1 << CAP_BPF));
        assert!(!suffices(effective("CapEff:\t0000000000000000\n")));
        assert!(!suffices(effective("")));
    }
}
