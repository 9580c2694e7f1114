//! Huge pages behind the model's memory.
//!
//! The kernel reaches shadow pages, heads and descriptors through the direct
//! map, which is made of 2M and 1G pages. With 4 KiB pages a cold synthetic walk
//! would mostly pay for page walks that a real one does not make. glibc's
//! allocator asks for huge pages if it is told to when a process starts, so the
//! benchmark starts itself once more with that set; where that has no effect
//! (another libc, huge pages switched off) nothing else changes, and the share
//! that was reached is part of every record.

use std::{os::unix::process::CommandExt as _, process::Command};

const VARIABLE: &str = "GLIBC_TUNABLES";
const TUNABLE: &str = "glibc.malloc.hugetlb=1";

/// Starts this program again with huge pages preferred, unless that is so
/// already. Returns if it is, or if the program could not be started again.
pub fn prefer() {
    let before = std::env::var(VARIABLE).unwrap_or_default();
    if before.contains("glibc.malloc.hugetlb") {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let tunables = match before.as_str() {
        "" => TUNABLE.to_owned(),
        others => format!("{others}:{TUNABLE}"),
    };
    let mut words = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    let error = command.args(words).env(VARIABLE, tunables).exec();
    report::say!("warning: measuring with small pages: cannot start again with {TUNABLE}: {error}");
}

/// Share of this process's anonymous memory that lies in huge pages, 0 to 1;
/// `None` where the kernel does not tell.
#[must_use]
pub fn share() -> Option<f64> {
    share_in(&std::fs::read_to_string("/proc/self/smaps_rollup").ok()?)
}

fn share_in(rollup: &str) -> Option<f64> {
    let kib = |field: &str| {
        let line = rollup.lines().find_map(|l| l.strip_prefix(field))?;
        line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    };
    let anonymous = kib("Anonymous:")?;
    (anonymous > 0.0).then(|| kib("AnonHugePages:").unwrap_or(0.0) / anonymous)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_anonymous_memory() {
        let rollup = "Rss: 9 kB\nAnonymous:   4096 kB\nAnonHugePages:   2048 kB\n";
        assert_eq!(share_in(rollup), Some(0.5));
        assert_eq!(share_in("Anonymous: 0 kB\nAnonHugePages: 0 kB\n"), None);
        assert_eq!(share_in("Rss: 9 kB\n"), None);
    }
}
