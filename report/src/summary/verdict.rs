//! The table of claims and what became of them.

use crate::{
    ResultFile,
    schema::{Record, VerdictNumber},
    table::{Column, Table, with_interval},
};

/// One row per claim.
pub(super) fn tables(file: &ResultFile) -> Vec<Table> {
    let mut table = Table::new(
        "Claims and verdicts",
        ["claim", "verdict", "figures", "because", "tested by"]
            .map(Column::text)
            .to_vec(),
    );
    for record in &file.records {
        let Record::Verdict(v) = record else { continue };
        let numbers: Vec<String> = v.numbers.iter().map(shown).collect();
        table.row(vec![
            format!("{}: {}", v.claim_id, v.claim),
            v.verdict.to_string(),
            numbers.join("; "),
            v.because.clone(),
            v.tested_by.clone(),
        ]);
    }
    if table.is_empty() {
        return Vec::new();
    }
    vec![table]
}

fn shown(number: &VerdictNumber) -> String {
    let value = number
        .value
        .value()
        .map_or_else(|| "-".to_owned(), |v| with_interval(*v, number.ci95));
    let space = if number.unit.is_empty() { "" } else { " " };
    format!("{}: {value}{space}{}", number.name, number.unit)
}
