//! Aging passes over a VM beside vCPUs that fault it in, in the layout of the
//! tables that came with the kernel's patches: one row per scheme, the vCPUs' time
//! without and with an ager, and the time of a pass.

use super::bench::summary_cell;
use crate::{
    schema::{BenchRecord, Params},
    table::{Column, Table, figure},
};

/// The workload.
pub(super) const WORKLOAD: &str = "pass";

/// The tables, one for each VM size.
pub(super) fn tables(cells: &[&BenchRecord]) -> Vec<Table> {
    let cells: Vec<_> = cells.iter().filter(|c| c.workload == WORKLOAD).collect();
    let mut sizes: Vec<Option<u64>> = cells.iter().map(|c| c.params.vm_bytes).collect();
    sizes.dedup();
    let of_size = |size: &Option<u64>| {
        let cells: Vec<&BenchRecord> = cells
            .iter()
            .filter(|c| c.params.vm_bytes == *size)
            .map(|c| **c)
            .collect();
        table(*size, &cells)
    };
    sizes.iter().map(of_size).collect()
}

fn table(vm_bytes: Option<u64>, cells: &[&BenchRecord]) -> Table {
    const GIB: f64 = (1_u64 << 30) as f64;
    let size = vm_bytes.map_or_else(String::new, |b| {
        format!(" of {} GiB", figure(b as f64 / GIB))
    });
    let mut table = Table::new(
        format!("{WORKLOAD}: faulting in a VM{size}, and aging it meanwhile"),
        vec![
            Column::text("scheme"),
            // What a row is about, and so beside it where the table is cut in two.
            Column::text("SPTEs"),
            Column::text("vCPUs"),
            Column::number("no aging (ms)"),
            Column::number("aging (ms)"),
            Column::number("slow-down"),
            Column::number("ms per pass"),
            Column::number("passes"),
        ],
    );
    let aged = |c: &&&BenchRecord| c.metric == "vcpu_s" && c.params.agers > Some(0);
    for with in cells.iter().filter(aged) {
        let find = |metric: &str, agers: bool| {
            let same = |p: &Params| {
                (p.chain_len, p.vcpus, p.agers > Some(0))
                    == (with.params.chain_len, with.params.vcpus, agers)
            };
            let is_it = |c: &&&BenchRecord| {
                c.scheme == with.scheme && c.metric == metric && same(&c.params)
            };
            cells.iter().find(is_it).copied()
        };
        let shown = |cell: Option<&BenchRecord>, factor: f64| {
            cell.map_or_else(|| "-".to_owned(), |c| summary_cell(c, factor))
        };
        let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let without = find("vcpu_s", false);
        table.row(vec![
            with.scheme.clone(),
            number(with.params.chain_len),
            number(with.params.vcpus),
            shown(without, MS_PER_S),
            shown(Some(with), MS_PER_S),
            without.map_or_else(|| "-".to_owned(), |w| slow_down(w, with)),
            shown(find("s_per_pass", true), MS_PER_S),
            shown(find("passes", true), 1.0),
        ]);
    }
    table.note(
        "medians ± half of their 95 % intervals; the slow-down is the ratio of the two medians. \
         !: more than a quarter of the rounds were disturbed.",
    );
    table
}

/// Milliseconds in a second.
const MS_PER_S: f64 = 1e3;

fn slow_down(without: &BenchRecord, with: &BenchRecord) -> String {
    let median = |c: &BenchRecord| c.summary.value().map(|s| s.median);
    match (median(without), median(with)) {
        (Some(without), Some(with)) if without > 0.0 => format!("{} ×", figure(with / without)),
        _ => "-".to_owned(),
    }
}
