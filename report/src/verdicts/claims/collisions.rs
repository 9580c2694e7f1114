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
    let of = |wanted: &[Guests]| {
        let mut locked = Counts::default();
        for (_, census) in evidence.censuses().filter(|(own, _)| wanted.contains(own)) {
            locked.add(Counts {
                hits: census.locked_again,
                trials: census.read_again,
            });
        }
        locked
    };
    // A nested test guest runs in an emulated machine, whose CPUs take turns. Another one
    // stands still while one caller ages it: nobody could collide there.
    let locked = of(&[Guests::Own, Guests::OwnWithoutTdpMmu]);
    let still = of(&[Guests::Chosen]);
    let mut numbers: Vec<VerdictNumber> = same_against_disjoint(evidence).into_iter().collect();
    if still.trials > 0 {
        let of_still = "heads of a test guest that stood still, seen locked while it was aged";
        numbers.insert(0, per_million(of_still, still));
    }
    if locked.trials == 0 {
        return Judged::open(
            "no profile of a host whose own guests ran while rmap heads were read and the kernel \
             aged them",
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
