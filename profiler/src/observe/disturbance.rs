//! What else happened on the host while a recording ran.

use std::fs;

use report::{Observed, host::CoreWatch, schema::Disturbance};

/// Counters at the start of a recording.
pub(crate) struct Watch {
    steal_ms: Observed<u64>,
    involuntary: Observed<u64>,
    core: CoreWatch,
}

impl Watch {
    /// Reads the counters now.
    pub(crate) fn start() -> Self {
        Self {
            steal_ms: steal_ms(),
            involuntary: involuntary_switches(),
            core: CoreWatch::start(),
        }
    }

    /// Looks at the core this runs on.
    pub(crate) fn look(&mut self) {
        self.core.look();
    }

    /// What happened since then.
    pub(crate) fn finish(&self) -> Disturbance {
        Disturbance {
            steal_ms: since(&self.steal_ms, steal_ms()),
            involuntary_switches: since(&self.involuntary, involuntary_switches()),
            migrations: Observed::missing("the recording runs in the kernel, not in a thread"),
            core_loop: self.core.looks().into(),
        }
    }
}

fn since(before: &Observed<u64>, now: Observed<u64>) -> Observed<u64> {
    match before {
        Observed::Value(before) => now.map(|now| now.saturating_sub(*before)),
        Observed::Missing(reason) => Observed::missing(reason.as_str()),
    }
}

/// Time stolen from all CPUs together.
fn steal_ms() -> Observed<u64> {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks_per_s = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    let ticks_per_s = ticks_per_s
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok());
    match (steal_ticks(&text), ticks_per_s) {
        (Some(ticks), Some(per_s)) if per_s > 0 => Observed::Value(ticks * 1000 / per_s),
        _ => Observed::missing("/proc/stat has no steal time"),
    }
}

fn steal_ticks(stat: &str) -> Option<u64> {
    stat.lines()
        .find(|line| line.starts_with("cpu "))?
        .split_ascii_whitespace()
        .nth(8)?
        .parse()
        .ok()
}

fn involuntary_switches() -> Observed<u64> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    match line.and_then(|count| count.trim().parse().ok()) {
        Some(count) => Observed::Value(count),
        None => Observed::missing("/proc/self/status counts no context switches"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_eighth_field_of_all_cpus() {
        let stat = "cpu  1 2 3 4 5 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 40 9 10\n";
        assert_eq!(steal_ticks(stat), Some(80));
        assert_eq!(steal_ticks("cpu  1 2\n"), None);
    }

    #[test]
    fn a_missing_start_stays_missing() {
        assert_eq!(
            since(&Observed::Value(3), Observed::Value(5)),
            Observed::Value(2)
        );
        let missing = Observed::missing("none");
        assert_eq!(since(&missing, Observed::Value(5)), missing);
    }
}
