//! What the bit costs those who change rmaps.

use crate::{
    schema::{Op, Params, Verdict, VerdictNumber},
    verdicts::{
        Claim, Evidence, Judged, THREAD,
        evidence::{bounds, ratio},
    },
};

/// A tax up to this share counts as small.
const SMALL: f64 = 0.15;
/// One that adds and one that removes.
const OPS: [Op; 2] = [Op::Fault, Op::Zap];

pub(crate) static CLAIM: Claim = Claim {
    id: "writer-tax",
    claim: "The bit is so rudimentary that mutators, who hold mmu_lock anyway, hardly pay for it.",
    claimed_in: THREAD,
    tested_by: "bench writer: adding and removing SPTEs, bitlock against rwlock-write",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let numbers: Vec<VerdictNumber> = OPS
        .into_iter()
        .flat_map(|op| [1, 16].map(|chain_len| (op, chain_len)))
        .filter_map(|(op, chain_len)| tax(evidence, op, chain_len))
        .collect();
    let limits: Vec<_> = numbers.iter().filter_map(bounds).collect();
    if limits.is_empty() {
        return Judged::open("writer has no cells for both schemes", numbers);
    }
    if limits.iter().all(|(_, high)| *high < 1.0 + SMALL) {
        let because = "no operation is slowed by 15 % or more, intervals included";
        return Judged::new(Verdict::Confirmed, because, numbers);
    }
    if limits.iter().any(|(low, _)| *low > 1.0 + SMALL) {
        let because = "an operation is slowed by more than 15 %, beyond its interval";
        return Judged::new(Verdict::Refuted, because, numbers);
    }
    Judged::open("an interval holds both more and less than 15 %", numbers)
}

fn tax(evidence: &Evidence<'_>, op: Op, chain_len: u32) -> Option<VerdictNumber> {
    let cell = |scheme| {
        let fits = move |p: &Params| p.chain_len == Some(chain_len);
        evidence.cell(("writer", scheme, op, "ns_per_op"), fits)
    };
    let name = format!("{op}, bitlock / rwlock-write, {chain_len} SPTEs");
    ratio(name, cell("bitlock")?, cell("rwlock-write")?)
}
