//! What lookaround makes of a fast answer.

use crate::{
    schema::{Op, Params, Verdict},
    verdicts::{
        Claim, Evidence, Judged, THREAD,
        evidence::{bounds, per_million},
    },
};

/// Neighbours misjudged, per million, from which lookaround is misled.
const MISLED: f64 = 10_000.0;
/// Neighbours young in a chain of the shadow MMU alone, and in a lone SPTE.
const CHAIN: &str = "shadow_chain";
const LONE: &str = "shadow_only";

pub(crate) static CLAIM: Claim = Claim {
    id: "was-fast-lookaround",
    claim: "Lookaround that goes by the fast answer alone decides wrongly where X is young in \
            the TDP MMU and X+1 to X+N only in the shadow MMU.",
    claimed_in: THREAD,
    tested_by: "bench lookaround: decisions under tiered-was-fast and tiered against an oracle \
                that sees both MMUs",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let missed = |scheme, place: &'static str| {
        let fits = move |p: &Params| p.young_in.as_deref() == Some(place);
        evidence.counts(("lookaround", scheme, Op::Age, "missed"), fits)
    };
    let Some(counts) = missed("tiered-was-fast", CHAIN) else {
        return Judged::open("lookaround has no cells for tiered-was-fast", vec![]);
    };
    let misled = per_million("missed, tiered-was-fast, young in chains", counts);
    let limits = bounds(&misled);
    let mut numbers = vec![misled];
    let lone = missed("tiered-was-fast", LONE);
    numbers.extend(lone.map(|c| per_million("the same, young in a lone SPTE", c)));
    let tiered = missed("tiered", CHAIN);
    numbers.extend(tiered.map(|c| per_million("the same, tiered, young in chains", c)));
    match limits {
        Some((low, _)) if low > MISLED => Judged::new(
            Verdict::Qualified,
            "neighbours that are young only in chains of the shadow MMU are taken for old; \
             those with a lone shadow SPTE are seen, because that is read without a lock",
            numbers,
        ),
        Some((_, high)) if high < MISLED => Judged::new(
            Verdict::Refuted,
            "lookaround finds the young neighbours all the same",
            numbers,
        ),
        _ => Judged::open("too few decisions to tell", numbers),
    }
}
