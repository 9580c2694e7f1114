//! What was not counted, and what a limit on the cost of observing led to.

use std::{cmp::Ordering, collections::BTreeMap};

use crate::{
    Observed, ResultFile,
    schema::{LossRecord, Record},
    table::{Column, Table, count},
};

fn is_of_rate(loss: &LossRecord) -> bool {
    loss.signal == LossRecord::SAMPLING_RATE
}

fn losses(file: &ResultFile) -> impl Iterator<Item = &LossRecord> {
    file.records.iter().filter_map(|record| match record {
        Record::Loss(loss) => Some(loss),
        _ => None,
    })
}

/// What the limit led to, in the order of time.
pub(super) fn rates(file: &ResultFile) -> Table {
    let columns = vec![Column::text(
        "what --max-overhead led to, in the order of time",
    )];
    let mut table = Table::new("Limit on the cost of observing", columns);
    let mut of_rate: Vec<&LossRecord> = losses(file).filter(|loss| is_of_rate(loss)).collect();
    of_rate.sort_by(|a, b| a.at_s.partial_cmp(&b.at_s).unwrap_or(Ordering::Equal));
    for loss in of_rate {
        table.row(vec![loss.cause.clone()]);
    }
    table
}

/// What was lost, the most first; all that was not is one line.
pub(super) fn table(file: &ResultFile) -> Table {
    let mut sums: BTreeMap<(&str, &str), Observed<u64>> = BTreeMap::new();
    for loss in losses(file).filter(|loss| !is_of_rate(loss)) {
        let sum = sums.entry((&loss.signal, &loss.cause));
        let sum = sum.or_insert(Observed::Value(0));
        sum.add_with(&loss.count, |sum, more| *sum = sum.saturating_add(*more));
    }
    let columns = vec![
        Column::text("signal"),
        Column::text("cause"),
        Column::number("count"),
    ];
    let mut table = Table::new("Losses", columns);
    let mut rows: Vec<_> = sums.into_iter().collect();
    let zeros = rows.len();
    rows.retain(|(_, sum)| *sum != Observed::Value(0));
    let zeros = zeros - rows.len();
    // What is not known comes before what is.
    rows.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.value().copied().unwrap_or(u64::MAX)));
    let has_others = !rows.is_empty();
    for ((signal, cause), sum) in rows {
        let shown = match sum {
            Observed::Value(n) => count(n),
            Observed::Missing(reason) => format!("unknown: {reason}"),
        };
        table.row(vec![signal.to_owned(), cause.to_owned(), shown]);
    }
    if zeros > 0 {
        let causes = if zeros == 1 { "cause" } else { "causes" };
        let other = if has_others { "other " } else { "" };
        table.row(vec![
            "all".to_owned(),
            format!("{zeros} {other}{causes}"),
            "0".to_owned(),
        ]);
    }
    table
}
