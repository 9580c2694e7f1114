//! Which live tests run in which configuration, and which of them a kernel is
//! excused from.
//!
//! A live test skips itself where something is missing. Here it must run: a test
//! that is named below and did not run, or was skipped without an excuse, fails the
//! boot. Tests that say nothing about the kernel run on the host only.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use super::modes::{MODES, Mode};
use crate::process;

/// Tests of one program that belong into some modes.
struct Group {
    modes: &'static [&'static str],
    program: &'static str,
    tests: &'static [&'static str],
}

/// Modes with the emulated machine's own two-dimensional or shadow paging.
const ALL: &[&str] = &["npt0", "tdp", "shadow"];
/// The mode whose other tests take least time.
const SHADOW_ONLY: &[&str] = &["shadow"];
/// Modes under shadow paging: the aliases decide how long a chain is.
const LONG_CHAINS: &[&str] = &["npt0"];
/// Modes where all of a VM is in the TDP MMU.
const TDP_ONLY: &[&str] = &["tdp"];
/// Modes where KVM runs a guest in a guest.
const NESTED: &[&str] = &["nested"];

const GROUPS: [Group; 8] = [
    Group {
        modes: TDP_ONLY,
        program: "live",
        tests: &["census::tdp_tables_hold_what_kvm_counts_and_grow_old_when_they_are_aged"],
    },
    Group {
        modes: SHADOW_ONLY,
        program: "live",
        tests: &[
            "matrix::a_cpu_that_goes_and_comes_back_does_not_disturb_a_recording",
            "matrix::a_recording_waits_for_kvm_to_be_loaded",
            "matrix::kvm_stays_while_it_is_observed_or_the_recording_ends_and_is_kept",
            "cleanup::a_hundred_starts_that_are_killed_leave_nothing",
            "hard_conditions::memory_plugged_into_a_recorded_vm_is_seen_and_leaves_it_one_vm",
            "record::a_hundred_vms_that_end_leave_no_callback_with_one_that_stays",
        ],
    },
    Group {
        modes: NESTED,
        program: "live",
        tests: &[
            "nested::aging_a_nested_guest_finds_the_chains_that_l1_made",
            "nested::chains_are_as_long_as_l1_maps_a_page_and_the_tdp_mmu_is_beside_them",
        ],
    },
    Group {
        modes: NESTED,
        program: "live_guest",
        tests: &[
            "a_host_that_runs_no_nested_guest_says_what_is_missing",
            "a_nested_guest_has_both_mmus_and_pauses_like_any_other",
        ],
    },
    Group {
        modes: ALL,
        program: "live",
        tests: &[
            "census::heads_alone_give_the_same_lengths_without_the_accessed_share",
            "exact::damon_is_told_from_all_others_and_sees_what_the_guest_does",
            "exact::mglru_finds_a_running_guest_young_and_a_paused_one_old_the_second_time",
            "exact::reclaim_of_a_paused_guest_finds_each_page_young_once_and_loses_nothing",
        ],
    },
    Group {
        modes: LONG_CHAINS,
        program: "live",
        tests: &[
            "census::chain_lengths_are_the_aliases_asked_for_and_sum_up_to_what_kvm_counts",
            "census::memslots_that_come_and_go_during_a_census_leave_it_right_or_marked",
            "cleanup::no_program_or_map_outlives_a_recording_however_it_ends",
            "exact::many_callbacks_are_all_counted_and_matched",
            "exact::two_recordings_on_different_rungs_count_the_same",
            "interference::every_fault_of_a_vcpu_is_timed_and_filed_by_whether_aging_ran",
            "interference::faults_of_a_guest_that_nobody_ages_are_filed_as_such",
            "interference::waits_for_mmu_lock_are_seen_and_what_is_not_seen_says_why",
            "mmu_lock::waiting_for_mmu_lock_is_told_from_walking",
            "peers::bccs_funclatency_counts_what_we_count",
            "record::every_callback_that_tracefs_counts_is_in_the_recording",
            "record::khugepaged_is_told_from_reclaim_and_finds_chains_as_long_as_asked_for",
            "rmap_statistics::kvms_histogram_files_chains_by_their_length_only_from_7_0_on",
            "watch::a_recording_gives_up_what_it_does_not_need",
            "watch::sampling_is_slowed_down_when_observing_costs_too_much",
            "watch::the_exporter_counts_what_it_sees_and_ends_when_told",
            "watch::top_shows_a_vm_that_is_aged_with_what_it_costs",
        ],
    },
    Group {
        modes: ALL,
        program: "live_drivers",
        tests: &[
            "damon_makes_pages_old_and_looks_at_them_and_leaves_no_kdamond",
            "khugepaged_tests_pages_and_leaves_chains_and_settings_alone",
            "mglru_asks_for_every_page_and_takes_none",
            "reclaim_of_a_paused_guest_ages_and_takes_every_page",
        ],
    },
    Group {
        modes: ALL,
        program: "live_guest",
        tests: &[
            "a_paused_guest_does_nothing_and_a_resumed_one_goes_on",
            "exactly_the_pages_asked_for_are_mapped_through_every_alias",
            "file_backed_pages_are_mapped_like_anonymous_ones",
        ],
    },
];

/// What `--quick` runs, of each mode what belongs there: callbacks counted, chains and
/// tables measured, waits told from walks, callers told apart. Modes that a test belongs to
/// but need not run in here are left out.
const QUICK: [(&[&str], &str); 7] = [
    (
        LONG_CHAINS,
        "census::chain_lengths_are_the_aliases_asked_for_and_sum_up_to_what_kvm_counts",
    ),
    (
        TDP_ONLY,
        "census::tdp_tables_hold_what_kvm_counts_and_grow_old_when_they_are_aged",
    ),
    (
        ALL,
        "exact::reclaim_of_a_paused_guest_finds_each_page_young_once_and_loses_nothing",
    ),
    (
        TDP_ONLY,
        "exact::damon_is_told_from_all_others_and_sees_what_the_guest_does",
    ),
    (
        TDP_ONLY,
        "exact::mglru_finds_a_running_guest_young_and_a_paused_one_old_the_second_time",
    ),
    (
        LONG_CHAINS,
        "mmu_lock::waiting_for_mmu_lock_is_told_from_walking",
    ),
    (
        NESTED,
        "nested::chains_are_as_long_as_l1_maps_a_page_and_the_tdp_mmu_is_beside_them",
    ),
];

/// Which of a mode's tests are run.
pub(super) enum Selection {
    /// A few that prove most.
    Quick,
    /// Those whose names contain this; all, if it is empty.
    Containing(String),
}

impl Selection {
    fn has(&self, mode: &str, test: &str) -> bool {
        match self {
            Self::Quick => QUICK
                .iter()
                .any(|(modes, quick)| *quick == test && modes.contains(&mode)),
            Self::Containing(part) => test.contains(part.as_str()),
        }
    }
}

/// A test that a kernel need not run: kernel, test without its module.
///
/// Debian builds Linux 6.1 without DAMON's control files and with MGLRU switched off;
/// switched on, it would walk page tables without asking KVM.
const EXCUSED: [(&str, &str); 5] = [
    (
        "6.1",
        "tdp_tables_hold_what_kvm_counts_and_grow_old_when_they_are_aged",
    ),
    (
        "6.1",
        "damon_is_told_from_all_others_and_sees_what_the_guest_does",
    ),
    (
        "6.1",
        "damon_makes_pages_old_and_looks_at_them_and_leaves_no_kdamond",
    ),
    ("6.1", "mglru_asks_for_every_page_and_takes_none"),
    (
        "6.1",
        "mglru_finds_a_running_guest_young_and_a_paused_one_old_the_second_time",
    ),
];

/// Whether a stock kernel may skip a test.
pub(super) fn is_excused(kernel: &str, test: &str) -> bool {
    EXCUSED.contains(&(kernel, test))
}

/// What one boot runs: programs and their tests.
pub(super) struct Plan(Vec<(&'static str, Vec<&'static str>)>);

impl Plan {
    /// The selected tests of a mode.
    pub(super) fn new(mode: &Mode, selection: &Selection) -> Self {
        let groups = GROUPS.iter().filter(|g| g.modes.contains(&mode.name));
        let mut programs: Vec<(&str, Vec<&str>)> = Vec::new();
        for group in groups {
            let tests = group
                .tests
                .iter()
                .filter(|name| selection.has(mode.name, name));
            match programs.iter_mut().find(|(p, _)| *p == group.program) {
                Some((_, known)) => known.extend(tests),
                None => programs.push((group.program, tests.copied().collect())),
            }
        }
        programs.retain(|(_, tests)| !tests.is_empty());
        Self(programs)
    }

    /// Test programs.
    pub(super) fn programs(&self) -> usize {
        self.0.len()
    }

    /// Tests of all programs.
    pub(super) fn tests(&self) -> usize {
        self.0.iter().map(|(_, tests)| tests.len()).sum()
    }

    /// One line per program: its name and its tests, as the init script reads it.
    pub(super) fn script(&self) -> String {
        let lines = self.0.iter();
        lines
            .map(|(program, tests)| format!("{program} {}\n", tests.join(" ")))
            .collect()
    }
}

/// Checks that every test named here exists, so that none is lost when it is
/// given another name. `programs` are the test programs by name.
pub(super) fn check(programs: &[(String, impl AsRef<Path>)]) -> Result<()> {
    for group in &GROUPS {
        let named = programs.iter().find(|(name, _)| name == group.program);
        let Some((_, path)) = named else {
            bail!("cargo built no test program {}", group.program);
        };
        let listed = process::output(Command::new(path.as_ref()).args(["--list"]))?;
        for test in group.tests {
            let line = format!("{test}: test");
            if !listed.lines().any(|l| l == line) {
                bail!(
                    "the kernel matrix names a test that {} does not have: {test}",
                    group.program
                );
            }
        }
        for mode in group.modes {
            if !MODES.iter().any(|known| known.name == *mode) {
                bail!("the kernel matrix has no mode {mode}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_leaves_out_programs_without_such_tests() {
        let plan = |part: &str| Plan::new(&MODES[0], &Selection::Containing(part.to_owned()));
        assert_eq!(plan("").programs(), 3);
        let census = plan("census::chain_lengths");
        assert_eq!((census.programs(), census.tests()), (1, 1));
        assert!(census.script().starts_with("live census::chain_lengths"));
        assert_eq!(plan("no such test").tests(), 0);
    }

    #[test]
    fn every_mode_has_a_quick_test_and_every_quick_test_a_mode() {
        for (modes, test) in QUICK {
            let belongs = |mode| {
                let mut groups = GROUPS.iter().filter(|group| group.tests.contains(&test));
                groups.any(|group| group.modes.contains(mode))
            };
            assert!(modes.iter().all(belongs), "{test}");
        }
        for mode in &MODES {
            assert!(
                Plan::new(mode, &Selection::Quick).tests() > 0,
                "{}",
                mode.name
            );
        }
    }

    #[test]
    fn a_quick_test_that_one_mode_is_enough_for_runs_in_that_alone() {
        let script = |mode: &Mode| Plan::new(mode, &Selection::Quick).script();
        let with_damon = MODES.iter().filter(|mode| script(mode).contains("damon"));
        let names: Vec<&str> = with_damon.map(|mode| mode.name).collect();
        assert_eq!(names, ["tdp"]);
    }

    #[test]
    fn only_a_named_kernel_is_excused() {
        let test = "mglru_asks_for_every_page_and_takes_none";
        assert!(is_excused("6.1", test));
        assert!(!is_excused("6.12", test));
        assert!(!is_excused(
            "6.1",
            "many_callbacks_are_all_counted_and_matched"
        ));
    }
}
