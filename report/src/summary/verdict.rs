//! The table of claims and what became of them.

use crate::{
    ResultFile,
    schema::{Record, VerdictNumber},
    table::{Column, Table, figure, with_interval},
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

/// A figure in words, its interval by its ends where it is one-sided: the share of
/// what was never seen is 0, and its interval is all above.
pub fn shown(number: &VerdictNumber) -> String {
    let Some(&value) = number.value.value() else {
        return format!("{}: not observed", number.name);
    };
    let shown = match number.ci95 {
        Some((low, high)) if is_one_sided(value, low, high) => {
            format!("{} ({} to {})", figure(value), figure(low), figure(high))
        }
        interval => with_interval(value, interval),
    };
    let space = if number.unit.is_empty() { "" } else { " " };
    format!("{}: {shown}{space}{}", number.name, number.unit)
}

/// Whether one side of the interval is less than a third of the other.
fn is_one_sided(value: f64, low: f64, high: f64) -> bool {
    let (below, above) = (value - low, high - value);
    below.min(above) * 3.0 < below.max(above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Observed;

    #[test]
    fn an_interval_on_one_side_is_told_by_its_ends() {
        let number = |value, ci95| VerdictNumber {
            name: "x".to_owned(),
            unit: "per million".to_owned(),
            value: Observed::Value(value),
            ci95: Some(ci95),
        };
        assert_eq!(
            shown(&number(0.0, (0.0, 7.0))),
            "x: 0.00 (0.00 to 7.00) per million"
        );
        assert_eq!(shown(&number(5.0, (4.0, 6.0))), "x: 5.00 ±1.00 per million");
    }
}
