//! The figures of the page, each made from whatever records are there.

mod callers;
mod census;
mod cost;
mod latency;
mod scaling;
mod verdicts;

use super::{Figure, PageError, Sources, chart::Drawing};
use crate::schema::{BenchRecord, Params, Record, ResultKind};

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

/// Parameters without those that `vary` takes away, in words that tell groups
/// of cells apart.
fn group(params: &Params, vary: impl Fn(&mut Params)) -> String {
    let mut params = Params {
        huge_page_share: None,
        numa_nodes: None,
        working_set_bytes: None,
        slot_pages: None,
        cpus: None,
        ..params.clone()
    };
    vary(&mut params);
    // Parameters are numbers and names, which always become JSON.
    let json = serde_json::to_value(&params).unwrap_or_default();
    let words = json.as_object().into_iter().flatten();
    let words = words.map(|(key, value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        format!("{} {value}", key.replace('_', " "))
    });
    words.collect::<Vec<_>>().join(", ")
}
