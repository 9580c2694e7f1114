//! Two at the same rmap.

use crate::{
    proportion::Counts,
    schema::{Op, Params, Verdict, VerdictNumber},
    verdicts::{
        Claim, Evidence, Judged,
        evidence::{Guests, bounds, per_million, ratio},
    },
};

/// Locked heads per million above which collisions would not be rare.
const RARE_PER_MILLION: f64 = 100.0;

pub(crate) static CLAIM: Claim = Claim {
    id: "collisions",
    claim: "Two that want the same rmap at the same time are quite rare.",
    claimed_in: "Linux 6.15, the merge that made aging lockless",
    tested_by: "a profile: heads seen with the bit set while callbacks came; bench agers: two agers on the same and \
                on disjoint pages",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let mut locked = Counts::default();
    // Not of nested test guests: they run in emulated machines, whose CPUs take turns.
    let emulated = |whose| matches!(whose, Guests::Nested { .. });
    for (_, census) in evidence.censuses().filter(|(whose, _)| !emulated(*whose)) {
        locked.add(Counts {
            hits: census.locked_again,
            trials: census.read_again,
        });
    }
    let mut numbers: Vec<VerdictNumber> = same_against_disjoint(evidence).into_iter().collect();
    if locked.trials == 0 {
        return Judged::open(
            "no profile that read rmap heads while the kernel aged",
            numbers,
        );
    }
    let seen = per_million("heads seen locked while the kernel aged", locked);
    let limits = bounds(&seen);
    numbers.insert(0, seen);
    match limits {
        Some((_, high)) if high < RARE_PER_MILLION => Judged::new(
            Verdict::Confirmed,
            "a head is found locked less than once in 10,000 looks, so a second comer rarely \
             waits; two agers that are made to meet pay what the ratio says",
            numbers,
        ),
        Some((low, _)) if low > RARE_PER_MILLION => Judged::new(
            Verdict::Refuted,
            "a head is found locked more than once in 10,000 looks",
            numbers,
        ),
        _ => Judged::open("too few heads were looked at", numbers),
    }
}

fn same_against_disjoint(evidence: &Evidence<'_>) -> Option<VerdictNumber> {
    let cell = |overlap: &'static str| {
        let fits = move |p: &Params| {
            p.ranges.as_deref() == Some(overlap) && p.agers == Some(2) && p.chain_len == Some(1)
        };
        evidence.cell(("agers", "bitlock", Op::Age, "gfns_per_us"), fits)
    };
    ratio(
        "throughput of two agers, same / disjoint pages",
        cell("same")?,
        cell("disjoint")?,
    )
}
