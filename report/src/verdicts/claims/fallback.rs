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

/// What decides. The median is every other fault's; the 99th percentile is shown, but
/// on a shared machine it is that of the machine.
const MEDIAN: &str = "due_p50_ns";
const TAIL: &str = "due_p99_ns";

fn judge(evidence: &Evidence<'_>) -> Judged {
    let cell = |scheme, aging: &'static str, metric| {
        let fits =
            move |p: &Params| p.chain_len == Some(CHAIN) && p.aging.as_deref() == Some(aging);
        evidence.cell(("interference", scheme, Op::Fault, metric), fits)
    };
    let cells = |metric| {
        (
            cell("single-fallback", "back_to_back", metric),
            cell("bitlock", "back_to_back", metric),
        )
    };
    let (Some(fallback), Some(bitlock)) = cells(MEDIAN) else {
        return Judged::open("interference has no cells for both schemes", vec![]);
    };
    let Some(times) = ratio("median, single-fallback / bitlock", fallback, bitlock) else {
        return Judged::open("a cell of interference has no value", vec![]);
    };
    let limits = bounds(&times);
    let mut numbers = vec![
        median("median fault while aging, single-fallback", "ns", fallback),
        median("median fault while aging, bitlock", "ns", bitlock),
    ];
    let alone = cell("bitlock", "none", MEDIAN);
    numbers.extend(alone.map(|c| median("median fault, no aging", "ns", c)));
    numbers.push(times);
    if let (Some(fallback), Some(bitlock)) = cells(TAIL) {
        numbers.extend(ratio("p99, single-fallback / bitlock", fallback, bitlock));
    }
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
