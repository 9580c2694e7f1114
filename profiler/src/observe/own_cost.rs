//! What observing cost: run time of our programs and memory of our maps, as the
//! kernel accounts for them.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use report::{Observed, schema::OverheadRecord};

use super::{ceiling::Spent, statistics::Statistics};
use crate::hooks::Hook;

/// The kernel's `BPF_F_NO_PREALLOC`: entries of the map are allocated as keys turn up.
const NO_PREALLOC: u32 = 1;

/// The one program that runs as often as it is asked to.
const SAMPLER: &str = "rs_sample";

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

/// [`run_time_ns`], of all programs and of those that count.
pub(crate) fn spent<'h>(loaded: impl Iterator<Item = &'h Hook>) -> Option<Spent> {
    let mut spent = Spent::default();
    for program in loaded {
        let ns = of_fd(program, "run_time_ns")?;
        spent.all_ns += ns;
        spent.counting_ns += if program.name == SAMPLER { 0 } else { ns };
    }
    Some(spent)
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

/// Memory of this process's eBPF maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MapMemory {
    /// Bytes that they take now.
    pub(crate) now: u64,
    /// Bytes that they take once those that grow with what turns up are full.
    pub(crate) at_most: u64,
}

/// What this process's maps take, and what they can come to.
pub(crate) fn map_memory() -> MapMemory {
    let mut sum = MapMemory::default();
    let Ok(entries) = fs::read_dir("/proc/self/fdinfo") else {
        return sum;
    };
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u64);
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    for map in texts.filter_map(|text| of_map(&text, cpus)) {
        sum.now += map.now;
        sum.at_most += map.at_most;
    }
    sum
}

/// What one map's fdinfo says; `None` if it is of no map. The kernel counts of a map that is not
/// allocated in advance only what is there, and all maps of ours that are not are per CPU.
fn of_map(fdinfo: &str, cpus: u64) -> Option<MapMemory> {
    field(fdinfo, "map_id")?;
    let now = field(fdinfo, "memlock")?;
    let flags = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("map_flags:\t0x"))?;
    let grows = u32::from_str_radix(flags.trim(), 16).ok()? & NO_PREALLOC != 0;
    let full = field(fdinfo, "max_entries")? * field(fdinfo, "value_size")? * cpus;
    let at_most = if grows { now.max(full) } else { now };
    Some(MapMemory { now, at_most })
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

    #[test]
    fn a_map_that_grows_is_told_from_one_that_does_not() {
        let map = |flags| {
            format!(
                "map_type:\t5\nvalue_size:\t4000\nmax_entries:\t10\nmap_flags:\t{flags}\nmemlock:\t900\nmap_id:\t1\n"
            )
        };
        let (now, full) = (900, 10 * 4000 * 4);
        let memory = |at_most| Some(MapMemory { now, at_most });
        assert_eq!(of_map(&map("0x1"), 4), memory(full));
        assert_eq!(of_map(&map("0x80"), 4), memory(now));
        assert_eq!(of_map("prog_id:\t7\nmemlock:\t4096\n", 4), None);
    }
}
