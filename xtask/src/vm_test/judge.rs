//! From a console to what a boot proved.

use std::collections::{BTreeMap, BTreeSet};

use ::report::schema::{BootRecord, WitnessRecord};
use serde::Deserialize;

use super::{
    kernels::Kernel,
    modes::Mode,
    plan::{self, Plan},
    qemu::Boot,
};

/// What a boot proved.
pub(super) struct Judged {
    pub(super) boot: BootRecord,
    pub(super) witnesses: Vec<WitnessRecord>,
}

/// A line of the live log that is a count.
#[derive(Deserialize)]
struct Counted {
    test: String,
    of: String,
    by: BTreeMap<String, u64>,
}

/// Reads the console of a boot.
pub(super) fn judge(kernel: &Kernel, mode: &Mode, plan: &Plan, boot: &Boot) -> Judged {
    let said = |prefix| {
        let lines = boot.console.iter();
        lines.filter_map(move |line| line.strip_prefix(prefix))
    };
    let results: Vec<&str> = said("test result: ").collect();
    let number = |word| results.iter().map(|r| number_before(r, word)).sum::<u32>();
    let (ended_well, failed) = (number(" passed"), number(" failed"));
    let skipped: BTreeMap<String, String> = said("MATRIX live SKIPPED: ")
        .filter_map(|line| line.split_once(": "))
        .map(|(test, reason)| (test.to_owned(), reason.to_owned()))
        .collect();
    let problem = if !boot.finished {
        Some("did not power off by itself".to_owned())
    } else if results.len() != plan.programs() {
        let programs = plan.programs();
        let ended = results.len();
        Some(format!(
            "{ended} of {programs} test programs came to their end"
        ))
    } else if failed > 0 {
        Some(tests_failed(&boot.console))
    } else if ended_well as usize != plan.tests() {
        Some(format!("{ended_well} of {} tests ran", plan.tests()))
    } else if let Some(test) = skipped.keys().find(|test| !may_skip(kernel, test)) {
        Some(format!("{test} was skipped"))
    } else {
        said("MATRIX problem: ").next().map(str::to_owned)
    };
    let labels = (kernel.version.clone(), mode.name.to_owned());
    let counts: BTreeSet<&str> = said("MATRIX live counted: ").collect();
    Judged {
        witnesses: counts
            .into_iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .map(|Counted { test, of, by }| WitnessRecord {
                kernel: labels.0.clone(),
                mode: labels.1.clone(),
                test,
                of,
                by,
            })
            .collect(),
        boot: BootRecord {
            kernel: labels.0,
            mode: labels.1,
            release: said("MATRIX kernel ").next().unwrap_or_default().to_owned(),
            parameters: mode.parameters(),
            // A skipped test counts as passed in the harness's own line.
            passed: ended_well.saturating_sub(u32::try_from(skipped.len()).unwrap_or(0)),
            failed,
            skipped,
            elapsed_s: boot.elapsed.as_secs_f64(),
            problem,
        },
    }
}

/// Which tests failed: the harness lists them under `failures:` at its end.
fn tests_failed(console: &[String]) -> String {
    let lists = console.split(|line| line == "failures:").skip(1);
    let names: Vec<&str> = lists
        .flat_map(|list| list.iter().map_while(|line| line.strip_prefix("    ")))
        .collect();
    if names.is_empty() {
        "tests failed".to_owned()
    } else {
        format!("failed: {}", names.join(", "))
    }
}

/// Of a user's own kernel nobody knows what it lacks.
fn may_skip(kernel: &Kernel, test: &str) -> bool {
    !kernel.is_stock || plan::is_excused(&kernel.version, test)
}

fn number_before(text: &str, word: &str) -> u32 {
    let before = text.split(word).next().unwrap_or_default();
    before
        .rsplit(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use super::*;
    use crate::vm_test::{modes::MODES, plan::Selection};

    const TEST: &str = "mglru_asks_for_every_page_and_takes_none";

    fn judged(version: &str, console: &str, finished: bool) -> Judged {
        let kernel = Kernel {
            version: version.to_owned(),
            is_stock: true,
            image: PathBuf::new(),
            modules: PathBuf::new(),
        };
        let boot = Boot {
            console: console.lines().map(str::to_owned).collect(),
            finished,
            elapsed: Duration::from_secs(1),
        };
        let selection = Selection::Containing(TEST.to_owned());
        judge(&kernel, &MODES[0], &Plan::new(&MODES[0], &selection), &boot)
    }

    const GOOD: &str = "MATRIX kernel 6.12.1-cloud\n\
        test result: ok. 1 passed; 0 failed; 0 ignored\n\
        MATRIX live counted: {\"test\":\"t\",\"of\":\"pages\",\"by\":{\"a\":1,\"b\":2}}\n";
    const SKIPPED: &str = "MATRIX live SKIPPED: mglru_asks_for_every_page_and_takes_none: no KVM\n";

    #[test]
    fn a_boot_whose_tests_all_ran_is_good_and_gives_its_counts() {
        let good = judged("6.12", GOOD, true);
        assert_eq!(good.boot.problem, None);
        assert_eq!((good.boot.passed, good.boot.failed), (1, 0));
        assert_eq!(good.boot.release, "6.12.1-cloud");
        assert_eq!(good.witnesses.len(), 1);
        assert_eq!(good.witnesses[0].by["b"], 2);
    }

    #[test]
    fn whatever_did_not_happen_is_a_problem() {
        let problem = |version: &str, console: String, finished| {
            let judged = judged(version, &console, finished);
            judged.boot.problem.unwrap_or_default()
        };
        assert!(problem("6.12", GOOD.to_owned(), false).contains("power off"));
        assert!(problem("6.12", String::new(), true).contains("0 of 1"));
        let none = GOOD.replace("1 passed", "0 passed");
        assert!(problem("6.12", none, true).contains("0 of 1 tests ran"));
        let failed = GOOD.replace("0 failed", "1 failed");
        assert!(problem("6.12", failed.clone(), true).contains("failed"));
        let named = format!("failures:\n\nfailures:\n    a::b\n    c\n\n{failed}");
        assert_eq!(problem("6.12", named, true), "failed: a::b, c");
        let left = format!("{GOOD}MATRIX problem: left behind\n");
        assert_eq!(problem("6.12", left, true), "left behind");
        let skipped = format!("{GOOD}{SKIPPED}");
        assert!(problem("6.12", skipped.clone(), true).contains("was skipped"));
        assert_eq!(problem("6.1", skipped.clone(), true), "");
        assert_eq!(judged("6.1", &skipped, true).boot.passed, 0);
    }
}
