//! The table of claims and what became of them.

use super::super::{Figure, Sources, chart::Drawing};
use crate::{schema::ResultKind, summary};

const CAPTION: &str = "Claims made about aging and its locks, how each was tested, and what came \
    of it.";

/// The verdicts of all files.
pub(super) fn figure(sources: &Sources<'_>) -> Figure {
    let files = sources.of_kind(ResultKind::Verdict);
    let tables = files.flat_map(summary::tables);
    let drawings: Vec<Drawing> = tables.map(Drawing::of_table).collect();
    let absent = "no file with verdicts was named (cargo xtask verdicts makes one)";
    Figure::new("verdicts", "Claims and verdicts", CAPTION, drawings, absent)
}
