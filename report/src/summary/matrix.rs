//! The tables of a run of the kernel matrix.

use std::collections::BTreeMap;

use crate::{
    ResultFile,
    schema::{BootRecord, Record, WitnessRecord},
    table::{Column, Table, count},
};

/// Boots, what their tests counted, and what they could not test.
pub(super) fn tables(file: &ResultFile) -> Vec<Table> {
    let boots: Vec<&BootRecord> = file
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Boot(boot) => Some(boot),
            _ => None,
        })
        .collect();
    let witnesses = file.records.iter().filter_map(|record| match record {
        Record::Witness(witness) => Some(witness),
        _ => None,
    });
    let tables = [of_boots(&boots), of_witnesses(witnesses), of_skips(&boots)];
    tables.into_iter().filter(|t| !t.is_empty()).collect()
}

fn of_boots(boots: &[&BootRecord]) -> Table {
    let mut table = Table::new(
        "Live tests on stock kernels, emulated",
        vec![
            Column::text("kernel"),
            Column::text("KVM"),
            Column::text("parameters"),
            Column::number("passed"),
            Column::number("failed"),
            Column::number("skipped"),
            Column::number("time (s)"),
            Column::text("problem"),
        ],
    );
    for boot in boots {
        table.row(vec![
            boot.release.clone(),
            boot.mode.clone(),
            boot.parameters.clone(),
            boot.passed.to_string(),
            boot.failed.to_string(),
            boot.skipped.len().to_string(),
            format!("{:.0}", boot.elapsed_s),
            boot.problem.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn of_witnesses<'a>(witnesses: impl Iterator<Item = &'a WitnessRecord>) -> Table {
    let headers = ["counted", "kernel", "KVM", "by", "equal"];
    let mut table = Table::new(
        "What independent witnesses counted",
        headers.map(Column::text).to_vec(),
    );
    for witness in witnesses {
        let by = witness.by.iter();
        let by: Vec<String> = by.map(|(who, n)| format!("{who} {}", count(*n))).collect();
        let mut counts = witness.by.values();
        let first = counts.next();
        let are_equal = counts.all(|n| Some(n) == first);
        table.row(vec![
            witness.of.clone(),
            witness.kernel.clone(),
            witness.mode.clone(),
            by.join(", "),
            if are_equal { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

/// Skips that have the same reason are one row.
fn of_skips(boots: &[&BootRecord]) -> Table {
    let headers = ["not tested", "on", "because"];
    let mut table = Table::new(
        "What a kernel or configuration cannot be tested for",
        headers.map(Column::text).to_vec(),
    );
    let mut skips: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for boot in boots {
        for (test, reason) in &boot.skipped {
            let on = format!("{} {}", boot.kernel, boot.mode);
            skips.entry((test, reason)).or_default().push(on);
        }
    }
    for ((test, reason), on) in skips {
        table.row(vec![test.to_owned(), on.join(", "), reason.to_owned()]);
    }
    table
}
