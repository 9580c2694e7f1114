//! Rechecking the rmap and then writing the SPTE.

use crate::{
    schema::{Op, Verdict},
    verdicts::{
        Claim, Evidence, Judged, THREAD,
        evidence::{Tests, per_million},
    },
};

/// The model in which the hazard must be found.
const MODEL: &str = "control_single_rechecks_reuse_hazard_is_caught";

pub(crate) static CLAIM: Claim = Claim {
    id: "recheck",
    claim: "Rechecking the rmap before a compare-exchange on the SPTE is unsound in theory: \
            the page table can be freed and rewritten with the same value by somebody else.",
    claimed_in: THREAD,
    tested_by: "loom: control_single_rechecks_reuse_hazard_is_caught; \
                bench reuse: pages_written under single-recheck",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let key = ("reuse", "single-recheck", Op::Age, "pages_written");
    let numbers: Vec<_> = evidence
        .counts(key, |_| true)
        .map(|counts| per_million("strangers' pages written, of page reuses", counts))
        .into_iter()
        .collect();
    match evidence.tests(&[MODEL]) {
        Tests::Passed => Judged::new(
            Verdict::Confirmed,
            "the model finds a schedule in which an ager writes into a stranger's page; how \
             often it happens here is in the figures",
            numbers,
        ),
        Tests::Failed(_) => Judged::new(
            Verdict::Refuted,
            "the model finds no schedule in which an ager writes into a stranger's page",
            numbers,
        ),
        Tests::NotRun(name) => Judged::open(format!("the model check {name} was not run"), numbers),
    }
}
