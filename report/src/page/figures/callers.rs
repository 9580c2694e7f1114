//! Who aged what: callers by kind of callback, VMs by caller.

use std::collections::BTreeMap;

use super::super::{Figure, PageError, Sources, bars::Bars, chart::Drawing};
use crate::schema::{CallbackRecord, Record, ResultKind, VmRecord};

const CAPTION: &str = "Callbacks of the whole recording. First who called, by kind of callback; \
    then whose pages were asked for, by caller. Callbacks outside of every recorded VM's \
    memslots are a bar of their own.";

/// Two charts per profile.
pub(super) fn figure(sources: &Sources<'_>) -> Result<Figure, PageError> {
    let mut drawings: Vec<Drawing> = Vec::new();
    for file in sources.of_kind(ResultKind::Profile) {
        let mut by_caller = Stacks::default();
        let mut by_vm = Stacks::default();
        for record in &file.records {
            let Record::Callbacks(cell) = record else {
                continue;
            };
            by_caller.add(
                (0, cell.caller.to_string()),
                cell.kind.to_string(),
                cell.callbacks,
            );
            by_vm.add(
                vm(&file.records, cell),
                cell.caller.to_string(),
                cell.callbacks,
            );
        }
        for (title, stacks) in [("Callers", by_caller), ("VMs", by_vm)] {
            if !stacks.bars.is_empty() {
                drawings.push(stacks.chart(title).draw()?);
            }
        }
    }
    let absent = "no profile with callbacks was named (cargo xtask profile makes one)";
    Ok(Figure::new(
        "callers",
        "Callers and VMs",
        CAPTION,
        drawings,
        absent,
    ))
}

/// A VM's place and name, which are those of its process: runs may have it in common.
fn vm(records: &[Record], cell: &CallbackRecord) -> (u32, String) {
    let Some(number) = cell.vm else {
        return (u32::MAX, "no recorded VM".to_owned());
    };
    let is_it = |vm: &&VmRecord| (vm.run, vm.vm) == (cell.run, number);
    let mut vms = records.iter().filter_map(|r| match r {
        Record::Vm(vm) => Some(vm),
        _ => None,
    });
    let Some(vm) = vms.find(is_it) else {
        return (cell.run, format!("VM {number} of run {}", cell.run));
    };
    let comm = vm.comm.value().map_or("?", String::as_str);
    (vm.pid, format!("{} {comm}", vm.pid))
}

/// Bars of parts, both in the order of their names; of bars a number may come first.
#[derive(Default)]
struct Stacks {
    bars: BTreeMap<(u32, String), BTreeMap<String, u64>>,
}

impl Stacks {
    fn add(&mut self, bar: (u32, String), part: String, callbacks: u64) {
        let sum = self.bars.entry(bar).or_default().entry(part).or_insert(0);
        *sum = sum.saturating_add(callbacks);
    }

    fn chart(self, title: &str) -> Bars {
        let mut series: Vec<String> = self.bars.values().flat_map(|b| b.keys().cloned()).collect();
        series.sort();
        series.dedup();
        let part =
            |bar: &BTreeMap<String, u64>, name: &String| bar.get(name).copied().unwrap_or(0) as f64;
        let bars = self
            .bars
            .iter()
            .map(|((_, name), bar)| (name.clone(), series.iter().map(|s| part(bar, s)).collect()));
        Bars {
            title: title.to_owned(),
            unit: "callbacks",
            bars: bars.collect(),
            series: series.clone(),
        }
    }
}
