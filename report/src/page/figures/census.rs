//! The census: how many rmap heads hold how many SPTEs.

use std::collections::BTreeMap;

use super::super::{Figure, PageError, Sources, bars::Bars, chart::Drawing, name};
use crate::{
    schema::{CensusRecord, Record, ResultKind},
    table::count,
};

const CAPTION: &str = "Rmap heads of 4K mappings by the number of SPTEs on their chains, all VMs \
    of a run together, read without any of KVM's locks at one time in the run. Heads that hold \
    nothing are left out and counted in the title; rare lengths are pooled. A guest under reclaim \
    is met while it maps again what was taken from it, so its chains are shorter there than at \
    the callbacks, which find them complete; khugepaged takes nothing. A run that follows another \
    of the same guest has no census of its own.";

/// More bars than this are pooled by powers of two.
const MOST_BARS: usize = 24;

/// One histogram per run.
pub(super) fn figure(sources: &Sources<'_>) -> Result<Figure, PageError> {
    let mut drawings: Vec<Drawing> = Vec::new();
    for file in sources.of_kind(ResultKind::Profile) {
        let mut runs: BTreeMap<u32, BTreeMap<u32, u64>> = BTreeMap::new();
        for census in latest(&file.records) {
            let lengths = runs.entry(census.run).or_default();
            for (length, heads) in &census.lengths {
                let sum = lengths.entry(*length).or_insert(0);
                *sum = sum.saturating_add(*heads);
            }
        }
        for (run, mut lengths) in runs {
            let empty = lengths.remove(&0).unwrap_or(0);
            if lengths.is_empty() {
                continue;
            }
            let guest = file.records.iter().find_map(|record| match record {
                Record::Run(of) if of.run == run => Some(of.guest.as_ref()?),
                _ => None,
            });
            // A host's own VMs have names in the tables.
            let whose = guest.map_or_else(String::new, |guest| {
                let nested = if guest.nested { " by L1" } else { "" };
                let mappings = match guest.aliases {
                    1 => "once".to_owned(),
                    many => format!("{} times", count(u64::from(many))),
                };
                format!(" ({}, each page mapped {mappings}{nested})", guest.driver)
            });
            let empty = count(empty);
            let bars = Bars {
                title: format!(
                    "{}, run {run}{whose}; {empty} heads hold nothing",
                    name(file)
                ),
                unit: "heads",
                bars: pooled(&lengths),
                series: vec!["rmap heads".to_owned()],
            };
            drawings.push(bars.draw()?);
        }
    }
    let absent = "no profile holds a census of a VM with rmaps";
    Ok(Figure::new(
        "census",
        "Census of chain lengths",
        CAPTION,
        drawings,
        absent,
    ))
}

/// The last census of each VM's 4K level: an earlier one counts the same heads.
fn latest(records: &[Record]) -> impl Iterator<Item = &CensusRecord> {
    let mut last: BTreeMap<(u32, u32), &CensusRecord> = BTreeMap::new();
    for record in records {
        if let Record::Census(census) = record
            && census.level == 1
        {
            last.insert((census.run, census.vm), census);
        }
    }
    last.into_values()
}

fn sptes(len: u32) -> String {
    match len {
        1 => "1 SPTE".to_owned(),
        many => format!("{many} SPTEs"),
    }
}

fn pooled(lengths: &BTreeMap<u32, u64>) -> Vec<(String, Vec<f64>)> {
    if lengths.len() <= MOST_BARS {
        let bars = lengths
            .iter()
            .map(|(len, heads)| (sptes(*len), vec![*heads as f64]));
        return bars.collect();
    }
    let mut pools: BTreeMap<u32, u64> = BTreeMap::new();
    for (length, heads) in lengths {
        let sum = pools.entry(length.ilog2()).or_insert(0);
        *sum = sum.saturating_add(*heads);
    }
    let name = |power: u32| match power {
        0 => sptes(1),
        p => format!("{}-{} SPTEs", 1_u64 << p, (1_u64 << (p + 1)) - 1),
    };
    pools
        .iter()
        .map(|(power, heads)| (name(*power), vec![*heads as f64]))
        .collect()
}
