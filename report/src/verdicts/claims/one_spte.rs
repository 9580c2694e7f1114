//! How long the chains of a real VM are.

use crate::{
    Observed,
    proportion::Counts,
    schema::{Verdict, VerdictNumber},
    verdicts::{Claim, Evidence, Judged, THREAD, evidence::Guests},
};

/// A "vast majority".
const MOST: f64 = 0.9;

pub(crate) static CLAIM: Claim = Claim {
    id: "one-spte",
    claim: "Under nested TDP nearly every rmap that is not empty has exactly one SPTE.",
    claimed_in: THREAD,
    tested_by: "the census of a recorded profile, 4 KiB rmaps that are not empty",
    judge,
};

/// A host's own VMs decide the claim. A test guest whose L2 uses pages that its L1 has
/// mapped once each shows that KVM adds no SPTE of its own, and can refute the claim; how
/// many mappings a host's L1s have, it cannot show. Any other test guest decides nothing.
fn judge(evidence: &Evidence<'_>) -> Judged {
    let (guests, counts) = match (one_spte(evidence, Guests::Own), Guests::NestedOnce) {
        (counts, _) if counts.trials > 0 => (Guests::Own, counts),
        (_, nested) => (nested, one_spte(evidence, nested)),
    };
    let Some((low, high)) = counts.share_ci95() else {
        let chosen = one_spte(evidence, Guests::Chosen);
        return match chosen.share() {
            None => Judged::open("no profile with a census of rmaps that hold SPTEs", vec![]),
            Some(_) => Judged::open(
                "the profile is of test guests whose aliases were chosen; record a host that \
                 runs nested guests",
                vec![share(chosen)],
            ),
        };
    };
    let (verdict, because) = match guests {
        _ if high < MOST => (
            Verdict::Refuted,
            "more than a tenth of the rmaps have several SPTEs",
        ),
        _ if low < MOST => (
            Verdict::Open,
            "whether nine tenths have one SPTE cannot be told from so few rmaps",
        ),
        Guests::NestedOnce => (
            Verdict::Qualified,
            "it holds where L1 maps each page once, as in the nested test guest recorded: \
             KVM adds no SPTE of its own; what L1s do on a host takes that host's profile",
        ),
        Guests::Own | Guests::Chosen => (
            Verdict::Confirmed,
            "at least nine tenths of the rmaps have one SPTE",
        ),
    };
    Judged::new(verdict, because, vec![share(counts)])
}

/// Rmaps with one SPTE, of those that are not empty, in the runs of such guests.
fn one_spte(evidence: &Evidence<'_>, guests: Guests) -> Counts {
    let mut counts = Counts::default();
    for census in evidence.censuses_of(guests) {
        for (&length, &heads) in census.lengths.iter().filter(|(length, _)| **length > 0) {
            counts.hits += if length == 1 { heads } else { 0 };
            counts.trials += heads;
        }
        counts.trials += census.longer;
    }
    counts
}

fn share(counts: Counts) -> VerdictNumber {
    VerdictNumber {
        name: format!(
            "rmaps with one SPTE ({} of {} not empty)",
            counts.hits, counts.trials
        ),
        unit: String::new(),
        value: counts.share().map_or_else(
            || Observed::missing("no rmap held an SPTE"),
            Observed::Value,
        ),
        ci95: counts.share_ci95(),
    }
}
