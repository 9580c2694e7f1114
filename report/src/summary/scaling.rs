//! Scaling curves of a bench result: what was fitted, and apart from everything
//! measured what the fit says of machines that were not.

use super::bench::{distinct, measured};
use crate::{
    schema::{BenchRecord, Params},
    table::{Column, Table, figure},
    usl::{self, Banded, Measured, NotFitted, Scaling},
};

/// The workload and the metric that a curve is fitted to.
const WORKLOAD: &str = "agers";
const METRIC: &str = "gfns_per_us";
/// CPUs for which the fit is extrapolated.
const EXTRAPOLATED: [u32; 3] = [64, 128, 256];

/// What one curve is about.
#[derive(Clone, PartialEq)]
struct Curve {
    scheme: String,
    chain_len: Option<u32>,
    /// `same` or `disjoint`.
    ranges: String,
}

impl Curve {
    /// The cells the curve goes through: a single ager belongs to all of them.
    fn holds(&self, cell: &BenchRecord) -> bool {
        let Params {
            chain_len, ranges, ..
        } = &cell.params;
        cell.scheme == self.scheme
            && *chain_len == self.chain_len
            && ranges.as_ref().is_none_or(|r| *r == self.ranges)
    }

    fn words(&self) -> Vec<String> {
        let len = self
            .chain_len
            .map_or_else(String::new, |len| len.to_string());
        vec![self.scheme.clone(), len, self.ranges.clone()]
    }
}

/// The tables, if the result has cells to fit a curve to.
pub(super) fn tables(cells: &[&BenchRecord]) -> Vec<Table> {
    let cells = measured(cells, (WORKLOAD, METRIC));
    let curve = |cell: &BenchRecord| {
        Some(Curve {
            scheme: cell.scheme.clone(),
            chain_len: cell.params.chain_len,
            ranges: cell.params.ranges.clone()?,
        })
    };
    let curves: Vec<Curve> = distinct(&cells, curve).into_iter().flatten().collect();
    if curves.is_empty() {
        return Vec::new();
    }
    let fits: Vec<_> = curves
        .iter()
        .map(|curve| (curve, fit(curve, &cells)))
        .collect();
    match fits.iter().all(|(_, fit)| fit.is_err()) {
        true => vec![without_curve(&fits)],
        false => vec![parameters(&fits), extrapolated(&fits)],
    }
}

fn fit(curve: &Curve, cells: &[&BenchRecord]) -> Result<Scaling, NotFitted> {
    let measured: Vec<Measured> = cells
        .iter()
        .filter(|c| curve.holds(c))
        .map(|c| Measured {
            threads: c.params.agers.unwrap_or(0),
            rounds: c.rounds.clone(),
        })
        .collect();
    usl::fit(&measured)
}

type Fits<'a> = [(&'a Curve, Result<Scaling, NotFitted>)];

fn without_curve(fits: &Fits<'_>) -> Table {
    let mut reasons: Vec<String> = fits
        .iter()
        .filter_map(|(_, fit)| fit.as_ref().err().map(ToString::to_string))
        .collect();
    reasons.dedup();
    let title = format!("{WORKLOAD}: no scaling curve");
    let mut table = Table::new(title, vec![Column::text("why")]);
    for reason in reasons {
        table.row(vec![format!("{reason}: nothing is extrapolated")]);
    }
    table
}

fn banded(banded: Banded) -> String {
    let Banded { value, low, high } = banded;
    format!("{} [{}, {}]", figure(value), figure(low), figure(high))
}

fn percent(share: Banded) -> String {
    banded(Banded {
        value: share.value * 100.0,
        low: share.low * 100.0,
        high: share.high * 100.0,
    })
}

fn columns(numbers: impl IntoIterator<Item = String>) -> Vec<Column> {
    let mut columns = ["scheme", "SPTEs", "pages"].map(Column::text).to_vec();
    columns.extend(numbers.into_iter().map(Column::number));
    columns
}

fn parameters(fits: &Fits<'_>) -> Table {
    let numbers = [
        "one ager (gfns/µs)",
        "serial share σ",
        "pair cost κ",
        "peak at (agers)",
    ];
    let mut table = Table::new(
        format!("{WORKLOAD}: universal scalability law, fitted"),
        columns(numbers.map(ToOwned::to_owned)),
    );
    for (curve, fit) in fits {
        let mut row = curve.words();
        if let Ok(scaling) = fit {
            row.push(figure(scaling.fit.gamma));
            row.extend([percent(scaling.sigma()), percent(scaling.kappa())]);
            let peak = scaling.fit.peak();
            row.push(peak.map_or_else(|| "none".to_owned(), figure));
        }
        table.row(row);
    }
    table.note("fitted value [95 % band from drawing rounds with replacement].");
    table
}

fn extrapolated(fits: &Fits<'_>) -> Table {
    let heads = EXTRAPOLATED.map(|cpus| format!("{cpus} CPUs (gfns/µs)"));
    let mut table = Table::new(
        format!("{WORKLOAD}: EXTRAPOLATED from the fitted law, NOT MEASURED"),
        columns(heads),
    );
    for (curve, fit) in fits {
        let mut row = curve.words();
        if let Ok(scaling) = fit {
            row.extend(EXTRAPOLATED.map(|cpus| banded(scaling.throughput(f64::from(cpus)))));
        }
        table.row(row);
    }
    table.note(
        "the band is the uncertainty of the measurement; that the law holds beyond the largest \
         count measured is an assumption.",
    );
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Observed, schema::Op};

    fn cell(agers: u32, ranges: Option<&str>) -> BenchRecord {
        let serial = if ranges == Some("same") { 0.1 } else { 0.0 };
        let speed = f64::from(agers) * 20.0 / (1.0 + serial * f64::from(agers - 1));
        BenchRecord {
            workload: WORKLOAD.to_owned(),
            scheme: "bitlock".to_owned(),
            op: Op::Age,
            metric: METRIC.to_owned(),
            params: Params {
                chain_len: Some(1),
                agers: Some(agers),
                ranges: ranges.map(ToOwned::to_owned),
                ..Params::default()
            },
            rounds: vec![speed; 6],
            summary: Observed::missing("not needed"),
            latency: None,
            counts: None,
            counters: Default::default(),
            spoiled: None,
        }
    }

    fn of(counts: &[u32]) -> Vec<Table> {
        let several = |n: &u32| [cell(*n, Some("same")), cell(*n, Some("disjoint"))];
        let mut cells: Vec<BenchRecord> = counts.iter().flat_map(several).collect();
        cells.push(cell(1, None));
        tables(&cells.iter().collect::<Vec<_>>())
    }

    #[test]
    fn two_counts_are_no_curve_and_nothing_is_extrapolated() {
        let tables = of(&[2]);
        assert_eq!(tables.len(), 1);
        assert!(tables[0].title().contains("no scaling curve"));
        assert!(tables[0].rows()[0][0].starts_with("2 thread counts"));
    }

    #[test]
    fn what_is_extrapolated_stands_apart_and_says_so() {
        let tables = of(&[2, 4, 8]);
        let titles: Vec<_> = tables.iter().map(Table::title).collect();
        assert_eq!(titles.len(), 2);
        assert!(titles[0].contains("fitted") && titles[1].contains("NOT MEASURED"));
        // One row per kind of range; 256 agers at 10 % serial get 193 done, and
        // those that do not meet as much as one times 256.
        let last = |row: &Vec<String>| row.last().cloned().unwrap();
        let last: Vec<_> = tables[1].rows().iter().map(last).collect();
        assert_eq!(last, ["193 [193, 193]", "5120 [5120, 5120]"]);
    }
}
