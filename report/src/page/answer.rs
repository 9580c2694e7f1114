//! The page's first table: what one more SPTE costs, in the kernel and under each scheme.

use super::{Sources, absent, html};
use crate::{
    compare::{Comparison, CostModel, Side},
    schema::{Cache, CallbackKind},
    summary::{self, Marks},
    table::{Column, Table},
};

/// How to read it.
const READING: &str = "The first row is the kernel's own callbacks, from what was recorded at each \
    chain length; the others are the model's, by the state of its caches (hot: everything cached; swept: over a set as large \
    as the recorded guest; llc: in the last-level cache only; cold: nothing cached). Hold the kernel's figure against the scheme marked *, which is what it \
    does: where it lies between the columns says what a real walk finds in the caches. Where its \
    interval reaches over several columns, or over 0, this recording cannot tell; a longer one \
    (cargo xtask profile --duration 40s) has a narrower interval. What \
    one more SPTE costs under another scheme is another row of the same column; where two \
    intervals meet, this run does not tell the two schemes apart, which does not make them equal. \
    What a whole callback would cost, for the recorded chain lengths, is \
    the table of savings further down. A scheme with † is cheap because it passes chains over \
    without looking. Absolute times are this host's; ratios of two rows of one column carry over \
    better.";

/// What one more SPTE costs, first of all.
pub(super) fn section(sources: &Sources<'_>) -> String {
    let title = html::element("h2", "What one more SPTE on a chain costs");
    let content = match &sources.comparison {
        None => absent(&sources.no_comparison),
        Some(comparison) => {
            let tables = tables(comparison);
            if tables.is_empty() {
                absent("chains of fewer than three lengths are on both sides")
            } else {
                let shown: String = tables
                    .iter()
                    .map(|table| html::element("h3", table.title()) + &html::table(table))
                    .collect();
                html::element("p", READING) + &shown
            }
        }
    };
    format!("<section id=\"answer\">{title}{content}</section>\n")
}

/// A table per kind of callback. Peers and limits are in the tables of the comparison.
fn tables(comparison: &Comparison) -> Vec<Table> {
    let mut kinds: Vec<CallbackKind> = comparison.models.iter().map(|m| m.kind).collect();
    kinds.dedup();
    let of = |kind| comparison.models.iter().filter(move |m| m.kind == kind);
    let tables = kinds.into_iter().map(|kind| {
        let models: Vec<&CostModel> = of(kind).collect();
        let mut table = table(kind, &models, comparison.marks());
        let host = &comparison.profile_host;
        table.note(comparison.young.note());
        for note in comparison.cores.iter().chain(&host.unusual) {
            table.note(note.as_str());
        }
        table
    });
    tables.filter(|table| !table.is_empty()).collect()
}

fn table(kind: CallbackKind, models: &[&CostModel], marks: Marks<'_>) -> Table {
    let at = |scheme: &str, cache: Cache| {
        let side = Side::Synthetic(scheme.to_owned(), cache);
        models.iter().find(|model| model.side == side)
    };
    let mut schemes: Vec<&str> = Vec::new();
    for model in models {
        if let Side::Synthetic(scheme, _) = &model.side
            && summary::is_scheme(scheme)
            && !schemes.contains(&scheme.as_str())
        {
            schemes.push(scheme);
        }
    }
    let seen = |cache: &Cache| schemes.iter().any(|scheme| at(scheme, *cache).is_some());
    let caches: Vec<Cache> = Cache::ALL.into_iter().filter(seen).collect();
    let mut columns = vec![Column::text(""), Column::number("kernel (ns)")];
    columns.extend(caches.iter().map(|c| Column::number(format!("{c} (ns)"))));
    let mut table = Table::new(format!("{kind}, per SPTE"), columns);
    let real = models.iter().find(|model| model.side == Side::Real);
    if let Some(real) = real {
        let mut cells = vec!["the kernel".to_owned(), real.per_spte.to_string()];
        cells.extend(caches.iter().map(|_| String::new()));
        table.row(cells);
    }
    for scheme in schemes {
        let mut cells = vec![marks.named(scheme), String::new()];
        cells.extend(caches.iter().map(|cache| {
            at(scheme, *cache).map_or_else(|| "-".to_owned(), |m| m.per_spte.to_string())
        }));
        table.row(cells);
    }
    table
}
