//! Whether the CPUs' frequency moves under a measurement.
//!
//! Rounds are interleaved, so a frequency that drifts falls on all cells alike and
//! ratios stand; absolute times do not. So a run goes on, and says so.

use std::path::Path;

use crate::cpus::CpuList;

/// Where the kernel describes CPUs.
const CPUS: &str = "/sys/devices/system/cpu";
/// The governor that keeps the frequency up.
const STEADY: &str = "performance";

/// What moves the frequency of these CPUs, as one sentence; `None` if nothing
/// that the kernel tells of does.
#[must_use]
pub fn warning(cpus: &CpuList) -> Option<String> {
    warning_below(cpus, Path::new(CPUS))
}

fn warning_below(cpus: &CpuList, root: &Path) -> Option<String> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned())
    };
    let governor = |cpu: &usize| {
        let file = root.join(format!("cpu{cpu}/cpufreq/scaling_governor"));
        read(&file).filter(|governor| governor != STEADY)
    };
    let scaled: Vec<usize> = cpus
        .as_slice()
        .iter()
        .copied()
        .filter(|cpu| governor(cpu).is_some())
        .collect();
    let boost = read(&root.join("cpufreq/boost")).is_some_and(|on| on == "1")
        || read(&root.join("intel_pstate/no_turbo")).is_some_and(|off| off == "0");
    let scaled = scaled.first().and_then(|cpu| Some((cpu, governor(cpu)?)));
    let what = match (scaled, boost) {
        (Some((cpu, governor)), _) => {
            format!("CPU {cpu}'s frequency follows the governor '{governor}'")
        }
        (None, true) => "the CPUs may boost their frequency".to_owned(),
        (None, false) => return None,
    };
    Some(format!(
        "{what}: compare ratios and not times, or set the governor {STEADY} and switch boosting off"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let cpus = CpuList::from_cpus(vec![0, 1]).unwrap();
        warning_below(&cpus, root.path())
    }

    #[test]
    fn a_frequency_that_moves_is_warned_of() {
        let steady = ("cpu0/cpufreq/scaling_governor", "performance\n");
        let scaled = ("cpu1/cpufreq/scaling_governor", "powersave\n");
        assert_eq!(machine(&[]), None);
        assert_eq!(machine(&[steady]), None);
        let warning = machine(&[steady, scaled]).unwrap();
        assert!(warning.contains("CPU 1") && warning.contains("'powersave'"));
        let boost = machine(&[steady, ("cpufreq/boost", "1\n")]).unwrap();
        assert!(boost.contains("boost"), "{boost}");
        assert_eq!(machine(&[steady, ("intel_pstate/no_turbo", "1\n")]), None);
        let turbo = machine(&[steady, ("intel_pstate/no_turbo", "0\n")]).unwrap();
        assert!(turbo.contains("boost"), "{turbo}");
    }
}
