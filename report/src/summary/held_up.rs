//! What aging and vCPUs do to each other: faults and waits for `mmu_lock`.

use std::collections::BTreeMap;

use super::profile::duration_s;
use crate::{
    Observed, ResultFile,
    latency::Latency,
    schema::{HeldUp, Record},
    table::{Column, Table, count, figure},
};

/// Times of all VMs together, while aging ran and while not.
type Sums = BTreeMap<(HeldUp, bool), Observed<Latency>>;

fn sums(file: &ResultFile) -> Sums {
    let mut sums = Sums::new();
    for record in &file.records {
        let Record::Interference(record) = record else {
            continue;
        };
        for (aging, times) in [(true, &record.while_aging), (false, &record.not_aging)] {
            match (sums.get_mut(&(record.what, aging)), times) {
                (Some(Observed::Value(sum)), Observed::Value(times)) => sum.merge(times),
                (Some(Observed::Value(_)), Observed::Missing(_)) => {}
                _ => {
                    sums.insert((record.what, aging), times.clone());
                }
            }
        }
    }
    sums
}

/// How long each took.
pub(super) fn table(file: &ResultFile) -> Table {
    let mut columns = vec![Column::text("what"), Column::text("while aging runs")];
    let figures = [
        "count",
        "time (ms/s)",
        "mean (ns)",
        "p50 (ns)",
        "p99 (ns)",
        "max (ns)",
    ];
    columns.extend(figures.map(Column::number));
    let mut table = Table::new("What aging and vCPUs do to each other", columns);
    let seconds = duration_s(file).max(f64::MIN_POSITIVE);
    let mut reasons: Vec<String> = Vec::new();
    for ((what, aging), times) in sums(file) {
        let figures = match &times {
            Observed::Value(times) => figures_of(times, seconds),
            Observed::Missing(reason) => {
                let note = format!("{what}: {reason}.");
                if !reasons.contains(&note) {
                    reasons.push(note);
                }
                vec!["-".to_owned(); 6]
            }
        };
        let aging = if aging { "yes" } else { "no" };
        let words = [what.to_string(), aging.to_owned()];
        table.row(words.into_iter().chain(figures).collect());
    }
    if !table.is_empty() {
        table.note(
            "Aging runs while a callback on the VM began at most one timer tick before. time: per \
             second recorded, whether aging ran or not.",
        );
        reasons.into_iter().for_each(|reason| table.note(reason));
    }
    table
}

fn figures_of(times: &Latency, seconds: f64) -> Vec<String> {
    let total_ms = times.mean_ns() * times.count() as f64 / 1e6;
    let mut figures = vec![count(times.count()), figure(total_ms / seconds)];
    if times.count() == 0 {
        figures.resize(6, "-".to_owned());
        return figures;
    }
    figures.push(figure(times.mean_ns()));
    figures.extend([0.5, 0.99, 1.0].map(|q| count(times.quantile_ns(q))));
    figures
}
