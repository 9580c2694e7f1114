//! Unlocking with a plain store.

use crate::{
    schema::{Op, Verdict},
    verdicts::{
        Claim, Evidence, Judged, THREAD,
        evidence::{Tests, per_million},
    },
};

/// The model in which the plain store must be found wanting.
const MODEL: &str = "control_the_seeds_plain_store_unlock_is_caught_in_weak_memory";
/// The stress run on this machine.
const STRESS: &str = "stress bitlock-seed";

pub(crate) static CLAIM: Claim = Claim {
    id: "plain-store-unlock",
    claim: "The bit can be released with a plain store, as the first patch does.",
    claimed_in: THREAD,
    tested_by: "loom: control_the_seeds_plain_store_unlock_is_caught_in_weak_memory; \
                stress and bench accuracy with bitlock-seed on this x86 machine",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let key = ("accuracy", "bitlock-seed", Op::Age, "false_old");
    let numbers: Vec<_> = evidence
        .counts(key, |_| true)
        .map(|counts| per_million("young pages reported old on x86", counts))
        .into_iter()
        .collect();
    match (evidence.tests(&[MODEL]), evidence.tests(&[STRESS])) {
        (Tests::NotRun(name), _) | (_, Tests::NotRun(name)) => {
            Judged::open(format!("{name} was not run"), numbers)
        }
        (Tests::Passed, Tests::Passed) => Judged::new(
            Verdict::Qualified,
            "it holds on x86, where no store is seen before an earlier one; under weaker \
             ordering the model finds a walker inside a chain that is being changed",
            numbers,
        ),
        (_, Tests::Failed(_)) => Judged::new(
            Verdict::Refuted,
            "an invariant broke on this x86 machine",
            numbers,
        ),
        (Tests::Failed(_), Tests::Passed) => Judged::new(
            Verdict::Confirmed,
            "not even weak memory breaks it in the model",
            numbers,
        ),
    }
}
