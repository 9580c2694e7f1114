//! Walks under mmu_lock.

use crate::{
    schema::Verdict,
    verdicts::{Claim, Evidence, Judged, THREAD, evidence::Tests},
};

/// The models in which such walks meet agers.
const MODELS: [&str; 2] = [
    "i_progress_agers_against_write_protection",
    "i_progress_agers_against_a_walk_that_removes",
];

pub(crate) static CLAIM: Claim = Claim {
    id: "walks-under-mmu-lock",
    claim: "Walks that hold mmu_lock need not take the bit, so those that also remove SPTEs \
            cannot lock themselves out.",
    claimed_in: THREAD,
    tested_by: "loom: i_progress_agers_against_write_protection, \
                i_progress_agers_against_a_walk_that_removes",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    match evidence.tests(&MODELS) {
        Tests::Passed => Judged::new(
            Verdict::Confirmed,
            "no schedule of agers beside such walks breaks a chain, loses a page or hangs",
            vec![],
        ),
        Tests::Failed(name) => Judged::new(
            Verdict::Refuted,
            format!("{name} found a schedule that breaks an invariant"),
            vec![],
        ),
        Tests::NotRun(name) => Judged::open(format!("the model check {name} was not run"), vec![]),
    }
}
