//! What observing cost: run time of our programs and memory of our maps, as the
//! kernel accounts for them.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use report::{Observed, schema::OverheadRecord};

use super::statistics::Statistics;
use crate::hooks::Hook;

/// The cost of each loaded program while BPF statistics were on.
pub(crate) fn records<'h>(
    run: u32,
    loaded: impl Iterator<Item = &'h Hook>,
    statistics: &Statistics,
) -> Vec<OverheadRecord> {
    loaded
        .map(|program| record(run, program, statistics))
        .collect()
}

fn record(run: u32, program: &Hook, statistics: &Statistics) -> OverheadRecord {
    let path = format!("/proc/self/fdinfo/{}", program.fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"));
    let value = |key: &str| -> Observed<u64> {
        match &text {
            Ok(text) => field(text, key)
                .ok_or_else(|| format!("the kernel reports no {key}"))
                .into(),
            Err(reason) => Observed::missing(reason),
        }
    };
    let counted = |key: &str| match statistics.refused() {
        None => value(key),
        Some(reason) => Observed::missing(reason),
    };
    OverheadRecord {
        run,
        program: program.name.to_owned(),
        runs: counted("run_cnt"),
        run_time_ns: counted("run_time_ns"),
        recursion_misses: value("recursion_misses"),
        measured_s: Some(statistics.lasted().as_secs_f64()),
    }
}

/// What programs took while statistics were on, in ns; `None` where the kernel does not say.
pub(crate) fn run_time_ns<'h>(mut loaded: impl Iterator<Item = &'h Hook>) -> Option<u64> {
    loaded.try_fold(0, |sum, program| Some(sum + of_fd(program, "run_time_ns")?))
}

/// Times that a program was skipped because it ran already, where the kernel
/// says so.
pub(crate) fn recursion_misses<'h>(loaded: impl Iterator<Item = &'h Hook>) -> u64 {
    loaded
        .filter_map(|program| of_fd(program, "recursion_misses"))
        .sum()
}

fn of_fd(program: &Hook, key: &str) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", program.fd.as_fd().as_raw_fd());
    field(&fs::read_to_string(path).ok()?, key)
}

/// The number after `key:` in an fdinfo file.
fn field(fdinfo: &str, key: &str) -> Option<u64> {
    let line = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// Memory of this process's eBPF maps, in bytes.
pub(crate) fn map_memory_bytes() -> u64 {
    let Ok(entries) = fs::read_dir("/proc/self/fdinfo") else {
        return 0;
    };
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let maps = texts.filter(|text| field(text, "map_id").is_some());
    maps.filter_map(|text| field(&text, "memlock")).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "pos:\t0\nrun_time_ns:\t123\nrun_cnt:\t4\n";
        assert_eq!(field(text, "run_time_ns"), Some(123));
        assert_eq!(field(text, "run_cnt"), Some(4));
        assert_eq!(field(text, "run"), None);
        assert_eq!(field(text, "recursion_misses"), None);
    }
}
