//! The real side as records of a profile: raw, and at sampling rate zero.

use super::real::{Band, RealCost, costs_of};
use crate::{
    Observed,
    schema::{CallbackKind, CostRecord, MeanTime, Record},
    stats::SampledMean,
};

/// The costs that records of callbacks over one page add up to, as records of `run`.
pub fn cost_records(records: &[Record], run: u32) -> Vec<CostRecord> {
    let costs = costs_of(records).into_iter();
    costs
        .filter(|(_, _, cost)| !cost.several_pages)
        .map(|(kind, band, cost)| cost_record(run, kind, &band, &cost))
        .collect()
}

fn cost_record(run: u32, kind: CallbackKind, band: &Band, cost: &RealCost) -> CostRecord {
    const TOO_FEW: &str = "too few samples, or calls, for a mean";
    let time = |mean: Option<SampledMean>, reason: &str| match mean {
        Some(mean) if cost.is_supported() => Observed::Value(MeanTime {
            mean_ns: mean.mean_ns,
            low_ns: mean.low_ns,
            high_ns: mean.high_ns,
        }),
        _ => Observed::missing(reason),
    };
    let no_zero = match cost.samples {
        Some(_) => "needs samples enough at two rates",
        None => "nothing was sampled",
    };
    CostRecord {
        run,
        kind,
        shortest: band.first,
        longest: band.last,
        mean_len: band.mean_len,
        callbacks: cost.callbacks,
        samples: cost.samples,
        raw: time(cost.raw.0, TOO_FEW),
        rate_zero: time(cost.rate_zero.0, no_zero),
        raw_walk: time(cost.raw.1, TOO_FEW),
        rate_zero_walk: time(cost.rate_zero.1, no_zero),
    }
}
