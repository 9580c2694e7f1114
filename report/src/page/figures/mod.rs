//! The figures of the page, each made from whatever records are there.

mod callers;
mod census;
mod cost;
mod latency;
mod scaling;
mod verdicts;

use super::{Figure, PageError, Sources, chart::Drawing};
use crate::{
    schema::{BenchRecord, Params, Record, ResultKind},
    summary,
};

/// All figures, in the order they are read best.
pub(super) fn all(sources: &Sources<'_>) -> Result<Vec<Figure>, PageError> {
    Ok(vec![
        cost::figure(sources)?,
        latency::callbacks(sources)?,
        latency::faults(sources)?,
        scaling::figure(sources)?,
        census::figure(sources)?,
        callers::figure(sources)?,
        verdicts::figure(sources),
    ])
}

impl Figure {
    /// A figure of these drawings; with none, the reason why.
    fn new(
        id: &'static str,
        title: &str,
        caption: &str,
        drawings: Vec<Drawing>,
        absent: &str,
    ) -> Self {
        Self {
            id,
            title: title.to_owned(),
            caption: caption.to_owned(),
            parts: if drawings.is_empty() {
                Err(absent.to_owned())
            } else {
                Ok(drawings)
            },
        }
    }
}

/// The bench cells of all files.
fn cells<'a>(sources: &Sources<'a>) -> impl Iterator<Item = &'a BenchRecord> {
    let records = sources.of_kind(ResultKind::Bench).flat_map(|f| &f.records);
    records.filter_map(|r| match r {
        Record::Bench(cell) => Some(&**cell),
        _ => None,
    })
}

/// What cells of one drawing have in common; sorted as drawings are read best.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    workload: String,
    chain_len: Option<u32>,
    /// In words.
    words: String,
    /// All of it.
    key: String,
}

impl Group {
    /// That of a cell, without the parameters that `vary` takes away.
    fn of(cell: &BenchRecord, vary: impl Fn(&mut Params)) -> Self {
        let mut params = Params {
            huge_page_share: None,
            numa_nodes: None,
            working_set_bytes: None,
            slot_pages: None,
            cpus: None,
            ..cell.params.clone()
        };
        vary(&mut params);
        let mut words = summary::describe(&params);
        // In the order they are listed is how CPUs are taken where nothing was asked for.
        let placement = params.placement.as_deref().filter(|p| *p != "listed");
        if let Some(placement) = placement {
            words.push_str(&format!(", CPUs {placement}"));
        }
        Self {
            workload: cell.workload.clone(),
            chain_len: params.chain_len,
            words,
            // Parameters are numbers and names, which always become JSON.
            key: serde_json::to_string(&params).unwrap_or_default(),
        }
    }
}
