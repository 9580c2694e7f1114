//! Waiting for readers, or not.

use crate::{
    Observed,
    schema::{Op, Verdict, VerdictNumber},
    verdicts::{Claim, Evidence, Judged, THREAD, evidence::Tests},
};

/// The model in which a free that does not wait must be found.
const MODEL: &str = "control_freeing_without_waiting_for_readers_is_caught";
/// Bytes of a descriptor.
const DESC_BYTES: f64 = 128.0;

pub(crate) static CLAIM: Claim = Claim {
    id: "wait-for-readers",
    claim: "Chains read without a lock have to wait for readers before descriptors are freed, \
            which cannot be done under mmu_lock, so frees are deferred and take memory.",
    claimed_in: THREAD,
    tested_by: "loom: control_freeing_without_waiting_for_readers_is_caught; \
                bench accuracy: most descriptors deferred at one time under rcu",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let key = ("accuracy", "rcu", Op::Zap, "deferred_descs_peak");
    let most = evidence
        .cells(key)
        .filter_map(|cell| Some(cell.summary.value()?.max))
        .reduce(f64::max);
    let numbers = match most {
        Some(most) => vec![
            number("most descriptors deferred at one time", "", most),
            number("their memory", "bytes", most * DESC_BYTES),
        ],
        None => vec![],
    };
    match (evidence.tests(&[MODEL]), most) {
        (Tests::NotRun(name), _) => {
            Judged::open(format!("the model check {name} was not run"), numbers)
        }
        (_, None) => Judged::open("accuracy has no cells for rcu", numbers),
        (Tests::Passed, Some(_)) => Judged::new(
            Verdict::Confirmed,
            "the model catches a free that does not wait; no scheme here waits under mmu_lock, \
             and what deferring costs is in the figures",
            numbers,
        ),
        (Tests::Failed(_), Some(_)) => Judged::new(
            Verdict::Refuted,
            "the model finds nothing wrong with a free that does not wait",
            numbers,
        ),
    }
}

fn number(name: &str, unit: &str, value: f64) -> VerdictNumber {
    VerdictNumber {
        name: name.to_owned(),
        unit: unit.to_owned(),
        value: Observed::Value(value),
        ci95: None,
    }
}
