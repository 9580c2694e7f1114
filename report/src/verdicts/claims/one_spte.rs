//! How long the chains of a real VM are.

use crate::{
    Observed,
    proportion::Counts,
    schema::{Verdict, VerdictNumber},
    verdicts::{Claim, Evidence, Judged, THREAD},
};

/// A "vast majority".
const MOST: f64 = 0.9;

pub(crate) static CLAIM: Claim = Claim {
    id: "one-spte",
    claim: "Under nested TDP nearly every rmap that is not empty has exactly one SPTE.",
    claimed_in: THREAD,
    tested_by: "the census of a recorded profile",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let mut counts = Counts::default();
    for census in evidence.censuses() {
        for (&length, &heads) in census.lengths.iter().filter(|(length, _)| **length > 0) {
            counts.hits += if length == 1 { heads } else { 0 };
            counts.trials += heads;
        }
        counts.trials += census.longer;
    }
    let Some(share) = counts.share() else {
        return Judged::open("no profile with a census of rmaps that hold SPTEs", vec![]);
    };
    let number = VerdictNumber {
        name: format!("rmaps with one SPTE, of {} not empty", counts.trials),
        unit: String::new(),
        value: Observed::Value(share),
        ci95: None,
    };
    if evidence.is_test_guest() {
        let because = "the profile is of a test guest, whose aliases were chosen; \
                       record a host that runs nested guests";
        return Judged::open(because, vec![number]);
    }
    let (verdict, because) = if share >= MOST {
        (
            Verdict::Confirmed,
            "at least nine tenths of the rmaps have one SPTE",
        )
    } else {
        (
            Verdict::Refuted,
            "more than a tenth of the rmaps have several SPTEs",
        )
    };
    Judged::new(verdict, because, vec![number])
}
