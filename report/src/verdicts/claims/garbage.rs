//! Blind reads of SPTEs that may be gone.

use crate::{
    proportion::Counts,
    schema::{Op, Verdict},
    verdicts::{
        Claim, Evidence, Judged, THREAD,
        evidence::{bounds, per_million},
    },
};

/// Answers per million above which nobody would call it rare.
const RARE_PER_MILLION: f64 = 100.0;
/// The scheme that reads without waiting for anybody.
const SCHEME: &str = "single-recheck";

pub(crate) static CLAIM: Claim = Claim {
    id: "blind-read",
    claim: "A lock-free test_young that reads an SPTE which is gone by then is extremely rare, \
            and a zapped page reported young does no harm.",
    claimed_in: THREAD,
    tested_by: "bench reuse: test_age beside a shadow page that is freed and reused all the time",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let counts = |metric| evidence.counts(("reuse", SCHEME, Op::TestAge, metric), |_| true);
    let (Some(late), Some(wrong)) = (counts("read_after_reuse"), counts("false_young")) else {
        return Judged::open("reuse has no cells for single-recheck", vec![]);
    };
    let callbacks = Counts {
        hits: late.hits,
        trials: wrong.trials.max(late.trials),
    };
    let late_per_callback = per_million("perhaps read too late, of callbacks", callbacks);
    let limits = bounds(&late_per_callback);
    let numbers = vec![
        late_per_callback,
        per_million("perhaps read too late, of page reuses", late),
        per_million("young while nothing mapped the page", wrong),
    ];
    match limits {
        Some((_, high)) if high < RARE_PER_MILLION => Judged::new(
            Verdict::Confirmed,
            "even beside constant reuse fewer than 100 of a million callbacks can have read \
             too late",
            numbers,
        ),
        Some((low, _)) if low > RARE_PER_MILLION => Judged::new(
            Verdict::Qualified,
            "rare only where pages are seldom reused: beside constant reuse more than 100 of \
             a million callbacks may have read too late",
            numbers,
        ),
        _ => Judged::open("too few callbacks to tell", numbers),
    }
}
