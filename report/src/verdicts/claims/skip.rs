//! Leaving long chains out.

use crate::{
    schema::{Op, Params, Verdict},
    verdicts::{
        Claim, Evidence, Judged, THREAD,
        evidence::{bounds, per_million},
    },
};

/// Young pages reported old, per million, from which hot pages are in danger.
const DANGER: f64 = 10_000.0;

pub(crate) static CLAIM: Claim = Claim {
    id: "skip-long-chains",
    claim: "Skipping gfns with several SPTEs is the worst choice: hot pages would be evicted.",
    claimed_in: THREAD,
    tested_by: "bench accuracy: age under single-skip, by chain length, with and without mutators",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let key = ("accuracy", "single-skip", Op::Age, "false_old");
    let counts = |fits: fn(&Params) -> bool| evidence.counts(key, fits);
    let one = |p: &Params| p.chain_len == Some(1);
    let long = |p: &Params| p.chain_len.is_some_and(|len| len > 1) && p.vcpus == Some(0);
    let Some(skipped) = counts(long) else {
        return Judged::open(
            "accuracy has no cells for single-skip with longer chains",
            vec![],
        );
    };
    let worst = per_million("young pages reported old, several SPTEs", skipped);
    let limits = bounds(&worst);
    let mut numbers = vec![worst];
    numbers.extend(
        counts(|p| p.chain_len == Some(1) && p.vcpus == Some(0))
            .map(|c| per_million("the same, one SPTE, nobody else", c)),
    );
    numbers.extend(
        evidence
            .counts(key, |p| one(p) && p.vcpus != Some(0))
            .map(|c| per_million("the same, one SPTE, others come and go", c)),
    );
    match limits {
        Some((low, _)) if low > DANGER => Judged::new(
            Verdict::Confirmed,
            "pages with several SPTEs are reported old however hot they are, and so are pages \
             with one SPTE that once had two, because a chain keeps its descriptor",
            numbers,
        ),
        Some((_, high)) if high < DANGER => Judged::new(
            Verdict::Refuted,
            "fewer than one in a hundred young pages is reported old",
            numbers,
        ),
        _ => Judged::open("too few callbacks to tell", numbers),
    }
}
