//! What the bit costs where there is nothing to lock.

use crate::{
    schema::{Cache, Op, Params, Verdict},
    verdicts::{
        Claim, Evidence, Judged, THREAD,
        evidence::{bounds, median, ratio},
    },
};

/// An empty rmap may cost this share of one with an SPTE and still be "nothing".
const NEARLY_NOTHING: f64 = 0.25;
/// Pages of the range: long enough that the call itself is spread thin.
const RANGE: u64 = 64;

pub(crate) static CLAIM: Claim = Claim {
    id: "empty-rmap",
    claim: "The bit is taken only where an rmap has SPTEs, so an empty rmap costs next to nothing.",
    claimed_in: THREAD,
    tested_by: "bench walk: age (test_age leaves at the first young page), hot, ranges of 64 pages, chains of 0 and 1",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let cell = |scheme, chain_len| {
        let fits = move |p: &Params| {
            p.chain_len == Some(chain_len)
                && p.range_pages == Some(RANGE)
                && p.cache == Some(Cache::Hot)
        };
        evidence.cell(("walk", scheme, Op::Age, "ns_per_gfn"), fits)
    };
    let (Some(empty), Some(one)) = (cell("bitlock", 0), cell("bitlock", 1)) else {
        return Judged::open(
            "walk has no cells for bitlock with chains of 0 and 1",
            vec![],
        );
    };
    let Some(share) = ratio("empty / one SPTE, bitlock", empty, one) else {
        return Judged::open("a cell of walk has no value", vec![]);
    };
    let limits = bounds(&share);
    let mut numbers = vec![median("empty rmap, bitlock", "ns per gfn", empty)];
    numbers.extend(
        cell("rwlock-write", 0).map(|c| median("empty rmap, rwlock-write", "ns per gfn", c)),
    );
    numbers.push(share);
    match limits {
        Some((_, high)) if high < NEARLY_NOTHING => Judged::new(
            Verdict::Confirmed,
            "an empty rmap costs less than a quarter of one with a single SPTE",
            numbers,
        ),
        Some((low, _)) if low > NEARLY_NOTHING => Judged::new(
            Verdict::Refuted,
            "an empty rmap costs more than a quarter of one with a single SPTE",
            numbers,
        ),
        _ => Judged::open(
            "the interval holds both more and less than a quarter",
            numbers,
        ),
    }
}
