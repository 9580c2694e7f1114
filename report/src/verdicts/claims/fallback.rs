//! Falling back to mmu_lock for write.

use crate::{
    schema::{Op, Params, Verdict},
    verdicts::{
        Claim, Evidence, Judged, THREAD,
        evidence::{bounds, median, ratio},
    },
};

/// Measured at every scale, and every zap and fault moves a descriptor.
const CHAIN: u32 = 15;

pub(crate) static CLAIM: Claim = Claim {
    id: "fallback",
    claim: "Falling back to mmu_lock for write where a chain is long hurts vCPU faults.",
    claimed_in: THREAD,
    tested_by: "bench interference: fault latency, back-to-back aging, chains of 15, \
                single-fallback against bitlock",
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Judged {
    let cell = |scheme, aging: &'static str| {
        let fits =
            move |p: &Params| p.chain_len == Some(CHAIN) && p.aging.as_deref() == Some(aging);
        evidence.cell(("interference", scheme, Op::Fault, "due_p99_ns"), fits)
    };
    let cells = (
        cell("single-fallback", "back_to_back"),
        cell("bitlock", "back_to_back"),
    );
    let (Some(fallback), Some(bitlock)) = cells else {
        return Judged::open("interference has no cells for both schemes", vec![]);
    };
    let Some(times) = ratio("p99, single-fallback / bitlock", fallback, bitlock) else {
        return Judged::open("a cell of interference has no value", vec![]);
    };
    let limits = bounds(&times);
    let mut numbers = vec![
        median("fault p99 while aging, single-fallback", "ns", fallback),
        median("fault p99 while aging, bitlock", "ns", bitlock),
    ];
    numbers.extend(cell("bitlock", "none").map(|c| median("fault p99, no aging", "ns", c)));
    numbers.push(times);
    match limits {
        Some((low, _)) if low > 1.0 => Judged::new(
            Verdict::Confirmed,
            "faults wait longer than beside the bit lock, beyond the intervals of both",
            numbers,
        ),
        Some((_, high)) if high < 1.0 => Judged::new(
            Verdict::Refuted,
            "faults wait less than beside the bit lock",
            numbers,
        ),
        _ => Judged::open("the two cannot be told apart by these rounds", numbers),
    }
}
