//! What mutators pay for a scheme: its times over those of the scheme without an
//! rmap bit.

use super::bench::{distinct, measured};
use crate::{
    schema::{BenchRecord, Op, Summary},
    table::{Column, Table, with_interval},
};

const WORKLOAD: &str = "writer";
const METRIC: &str = "ns_per_op";
/// The scheme whose mutators take mmu_lock and nothing else.
const UNTAXED: &str = "rwlock-write";
/// The operations that change rmaps.
const OPS: [Op; 3] = [Op::Fault, Op::Zap, Op::UnmapRange];

/// One table, if the scheme to compare with was measured.
pub(super) fn tables(cells: &[&BenchRecord]) -> Vec<Table> {
    let cells = measured(cells, (WORKLOAD, METRIC));
    let mut chains = distinct(&cells, |c| c.params.chain_len);
    chains.sort_unstable();
    let mut schemes = distinct(&cells, |c| c.scheme.clone());
    schemes.retain(|scheme| scheme != UNTAXED);
    let find = |scheme: &str, op, chain_len| {
        let is_it = |c: &&&BenchRecord| {
            (c.scheme.as_str(), c.op, c.params.chain_len) == (scheme, op, chain_len)
        };
        cells.iter().find(is_it).copied()
    };
    let mut table = Table::new(
        format!("{WORKLOAD}: what a scheme adds to the time of a mutator"),
        vec![
            Column::text("scheme"),
            Column::number("SPTEs"),
            Column::number("fault (%)"),
            Column::number("zap (%)"),
            Column::number("unmap_range (%)"),
        ],
    );
    for scheme in &schemes {
        for &chain_len in &chains {
            let taxes = OPS.map(|op| {
                let (taxed, untaxed) =
                    (find(scheme, op, chain_len)?, find(UNTAXED, op, chain_len)?);
                Summary::of_ratios(&taxed.rounds, &untaxed.rounds).map(|ratio| percent(&ratio))
            });
            if taxes.iter().all(Option::is_none) {
                continue;
            }
            let chain_len = chain_len.map_or_else(|| "-".to_owned(), |len| len.to_string());
            let mut row = vec![scheme.clone(), chain_len];
            row.extend(taxes.map(|tax| tax.unwrap_or_else(|| "-".to_owned())));
            table.row(row);
        }
    }
    if table.is_empty() {
        return Vec::new();
    }
    table.note(format!(
        "over {UNTAXED}, whose mutators take mmu_lock and no rmap bit: median of the rounds' \
         ratios, less 1, ± half of its 95 % interval."
    ));
    vec![table]
}

/// How much more than the whole a ratio is, in percent.
pub(super) fn percent(ratio: &Summary) -> String {
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let interval = ratio.ci95_low.zip(ratio.ci95_high);
    with_interval(
        percent(ratio.median),
        interval.map(|(low, high)| (percent(low), percent(high))),
    )
}
