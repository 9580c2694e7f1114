//! What mutators pay for a scheme: its times over those of the scheme without an
//! rmap bit.

use crate::{
    schema::{BenchRecord, Op, Summary},
    table::{Column, Table, with_interval},
};

/// The workload.
const WORKLOAD: &str = "writer";
/// Its figure.
const METRIC: &str = "ns_per_op";
/// The scheme whose mutators take mmu_lock and nothing else.
const UNTAXED: &str = "rwlock-write";
/// The operations that change rmaps.
const OPS: [Op; 3] = [Op::Fault, Op::Zap, Op::UnmapRange];

/// One table, if the scheme to compare with was measured.
pub(super) fn tables(cells: &[&BenchRecord]) -> Vec<Table> {
    let cells: Vec<&BenchRecord> = cells
        .iter()
        .copied()
        .filter(|c| c.workload == WORKLOAD && c.metric == METRIC)
        .collect();
    let mut chains: Vec<Option<u32>> = cells.iter().map(|c| c.params.chain_len).collect();
    chains.sort_unstable();
    chains.dedup();
    let mut schemes: Vec<&str> = cells.iter().map(|c| c.scheme.as_str()).collect();
    schemes.dedup();
    schemes.retain(|scheme| *scheme != UNTAXED);
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
    let mut rows: Vec<Vec<String>> = Vec::new();
    for &scheme in &schemes {
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
            let mut row = vec![scheme.to_owned(), chain_len];
            row.extend(taxes.map(|tax| tax.unwrap_or_else(|| "-".to_owned())));
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
    }
    if rows.is_empty() {
        return Vec::new();
    }
    rows.into_iter().for_each(|row| table.row(row));
    table.note(format!(
        "over {UNTAXED}, whose mutators take mmu_lock and no rmap bit: median of the rounds' \
         ratios, less 1, ± half of its 95 % interval."
    ));
    vec![table]
}

fn percent(ratio: &Summary) -> String {
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let interval = ratio.ci95_low.zip(ratio.ci95_high);
    with_interval(
        percent(ratio.median),
        interval.map(|(low, high)| (percent(low), percent(high))),
    )
}
