//! Profiles: counts added, histograms merged, per kind, caller and chain length.
//!
//! VMs keep their records and censuses under new numbers; callbacks, faults and waits are
//! summed over VMs, which differ from file to file. Raw events are not carried over:
//! their times refer to a run of their own, and they are counted as lost.

use std::collections::{BTreeMap, btree_map::Entry};

use super::Runs;
use crate::{
    Observed,
    compare::cost_records,
    latency::Latency,
    schema::{
        CallbackKind, CallbackRecord, CallerClass, ChainLen, HeldUp, InterferenceRecord,
        LossRecord, MechanismRecord, OverheadRecord, Record, RunRecord, Samples, Sampling,
        StackRecord,
    },
};

type CallbackKey = (u32, CallbackKind, CallerClass, ChainLen, bool, Seen);

/// Which figures of a cell were observed; cells that differ in that are not
/// added up. Samples are observed at a period.
type Seen = (bool, bool, Option<u64>, bool, bool, bool);

/// By run, signal and cause: how often, and when.
type Losses = BTreeMap<(u32, String, String), (Observed<u64>, Option<f64>)>;

/// What is added up.
#[derive(Debug, Default)]
pub(super) struct Sums {
    keeps_runs: bool,
    files: u64,
    runs: BTreeMap<String, RunRecord>,
    callbacks: BTreeMap<CallbackKey, CallbackRecord>,
    /// By run, what took time, and which of the two times were observed.
    held_up: BTreeMap<(u32, HeldUp, (bool, bool)), InterferenceRecord>,
    losses: Losses,
    overheads: BTreeMap<(u32, String), OverheadRecord>,
    stacks: BTreeMap<(u32, CallerClass, Vec<String>), u64>,
    mechanisms: Vec<MechanismRecord>,
    vms: u32,
    events: u64,
    others: Vec<Record>,
}

impl Sums {
    pub(super) fn new(runs: Runs) -> Self {
        Self {
            keeps_runs: runs == Runs::Kept,
            ..Self::default()
        }
    }

    pub(super) fn take(&mut self, records: Vec<Record>, events: u64) {
        self.events += events;
        self.files += 1;
        let mut runs = BTreeMap::new();
        for record in &records {
            if let Record::Run(run) = record {
                runs.insert(run.run, self.run(run));
            }
        }
        let mut vms = BTreeMap::new();
        for mut record in records {
            if let Some(run) = record.run() {
                record.set_run(runs.get(&run).copied().unwrap_or(run));
                self.renumber(&mut record, run, &mut vms);
            }
            self.add(record);
        }
    }

    /// The number of the run that this one is added to.
    fn run(&mut self, run: &RunRecord) -> u32 {
        let period = run.sampling.value().map(|s| s.period_ns);
        let own = self.keeps_runs.then_some((self.files, run.run));
        let key = format!(
            "{own:?} {:?} {period:?} {:?} {:?}",
            run.guest, run.stack_every, run.event_every
        );
        let next = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        match self.runs.get_mut(&key) {
            Some(sum) => {
                add_run(sum, run);
                sum.run
            }
            None => {
                let pid = None;
                self.runs.insert(
                    key,
                    RunRecord {
                        run: next,
                        pid,
                        ..run.clone()
                    },
                );
                next
            }
        }
    }

    fn renumber(&mut self, record: &mut Record, run: u32, vms: &mut BTreeMap<(u32, u32), u32>) {
        let mut number = |vm: u32| {
            *vms.entry((run, vm)).or_insert_with(|| {
                self.vms += 1;
                self.vms - 1
            })
        };
        match record {
            Record::Vm(vm) => vm.vm = number(vm.vm),
            Record::Census(census) => census.vm = number(census.vm),
            Record::Interference(held_up) => held_up.vm = None,
            Record::Callbacks(callbacks) => callbacks.vm = None,
            _ => {}
        }
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Run(_) => {}
            Record::Callbacks(cell) => self.add_callbacks(*cell),
            Record::Interference(held_up) => self.add_held_up(*held_up),
            Record::Loss(loss) => {
                let sum = self.losses.entry((loss.run, loss.signal, loss.cause));
                let (sum, _) = sum.or_insert((Observed::Value(0), loss.at_s));
                add_observed(sum, &loss.count);
            }
            Record::Overhead(overhead) => self.add_overhead(overhead),
            Record::Mechanism(mechanism) => {
                if !self.mechanisms.contains(&mechanism) {
                    self.mechanisms.push(mechanism);
                }
            }
            Record::Stack(stack) => {
                let key = (stack.run, stack.caller, stack.frames);
                let sum = self.stacks.entry(key).or_insert(0);
                *sum = sum.saturating_add(stack.count);
            }
            // Made anew from the sums.
            Record::Cost(_) => {}
            Record::Event(_) => self.events += 1,
            other => self.others.push(other),
        }
    }

    fn add_callbacks(&mut self, cell: CallbackRecord) {
        let seen = (
            cell.locked.value().is_some(),
            cell.young.value().is_some(),
            cell.samples.value().map(|s| s.period_ns),
            cell.latency.value().is_some(),
            cell.wait.value().is_some(),
            cell.tdp.value().is_some(),
        );
        let key = (
            cell.run,
            cell.kind,
            cell.caller,
            cell.chain_len,
            cell.several_pages,
            seen,
        );
        let Some(sum) = self.callbacks.get_mut(&key) else {
            self.callbacks.insert(key, cell);
            return;
        };
        sum.callbacks = sum.callbacks.saturating_add(cell.callbacks);
        sum.pages = sum.pages.saturating_add(cell.pages);
        add_observed(&mut sum.locked, &cell.locked);
        add_observed(&mut sum.young, &cell.young);
        if let (Observed::Value(a), Observed::Value(b)) = (&mut sum.samples, &cell.samples) {
            add_samples(a, b);
        }
        add_latency(&mut sum.latency, &cell.latency);
        add_latency(&mut sum.wait, &cell.wait);
        add_latency(&mut sum.tdp, &cell.tdp);
    }

    fn add_held_up(&mut self, held_up: InterferenceRecord) {
        let seen = (
            held_up.while_aging.value().is_some(),
            held_up.not_aging.value().is_some(),
        );
        match self.held_up.entry((held_up.run, held_up.what, seen)) {
            Entry::Vacant(new) => drop(new.insert(held_up)),
            Entry::Occupied(mut sum) => {
                let sum = sum.get_mut();
                add_latency(&mut sum.while_aging, &held_up.while_aging);
                add_latency(&mut sum.not_aging, &held_up.not_aging);
            }
        }
    }

    fn add_overhead(&mut self, overhead: OverheadRecord) {
        let key = (overhead.run, overhead.program.clone());
        match self.overheads.get_mut(&key) {
            None => {
                self.overheads.insert(key, overhead);
            }
            Some(sum) => {
                add_observed(&mut sum.runs, &overhead.runs);
                add_observed(&mut sum.run_time_ns, &overhead.run_time_ns);
                add_observed(&mut sum.recursion_misses, &overhead.recursion_misses);
                let measured = sum.measured_s.zip(overhead.measured_s);
                sum.measured_s = measured.map(|(sum, more)| sum + more);
            }
        }
    }

    pub(super) fn records(self) -> Vec<Record> {
        let mut runs: Vec<RunRecord> = self.runs.into_values().collect();
        runs.sort_by_key(|run| run.run);
        let mut records: Vec<Record> = Vec::new();
        records.extend(runs.into_iter().map(|run| Record::Run(Box::new(run))));
        records.extend(self.mechanisms.into_iter().map(Record::Mechanism));
        records.extend(self.others);
        let callbacks = self.callbacks.into_values();
        records.extend(callbacks.map(|cell| Record::Callbacks(Box::new(cell))));
        let held_up = self.held_up.into_values();
        records.extend(held_up.map(|sum| Record::Interference(Box::new(sum))));
        let costs = cost_records(&records, 0);
        records.extend(costs.into_iter().map(Record::Cost));
        for ((run, caller, frames), count) in self.stacks {
            records.push(Record::Stack(StackRecord {
                run,
                caller,
                count,
                frames,
            }));
        }
        for ((run, signal, cause), (count, at_s)) in self.losses {
            records.push(Record::Loss(LossRecord {
                run,
                signal,
                cause,
                count,
                at_s,
            }));
        }
        records.extend(self.overheads.into_values().map(Record::Overhead));
        if self.events > 0 {
            records.push(Record::Loss(LossRecord {
                run: 0,
                signal: "events".to_owned(),
                cause: "raw events stay in the files that were merged".to_owned(),
                count: Observed::Value(self.events),
                at_s: None,
            }));
        }
        records
    }
}

/// What observed each signal, for comparison with other files.
pub(super) fn mechanisms(records: &[Record]) -> Vec<(String, String)> {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for record in records {
        if let Record::Mechanism(m) = record {
            let name = m.mechanism.value().map_or("nothing", String::as_str);
            found.insert(&m.signal, name);
        }
    }
    // Only what changes the meaning of a figure.
    ["latency", "callbacks", "chain length at the callback"]
        .iter()
        .map(|signal| {
            let name = found.get(signal).copied().unwrap_or("nothing");
            (format!("what observed {signal}"), name.to_owned())
        })
        .collect()
}

fn add_run(sum: &mut RunRecord, run: &RunRecord) {
    if let (Observed::Value(a), Observed::Value(b)) = (&mut sum.sampling, &run.sampling) {
        add_sampling(a, b, (sum.duration_s, run.duration_s));
    }
    sum.duration_s += run.duration_s;
    if run.started_utc < sum.started_utc {
        sum.started_utc.clone_from(&run.started_utc);
    }
    if !run.complete {
        sum.complete = false;
        sum.ended_by.clone_from(&run.ended_by);
    }
}

fn add_sampling(sum: &mut Sampling, other: &Sampling, seconds: (f64, f64)) {
    let total = (seconds.0 + seconds.1).max(f64::MIN_POSITIVE);
    sum.reached_hz = (sum.reached_hz * seconds.0 + other.reached_hz * seconds.1) / total;
    sum.samples = sum.samples.saturating_add(other.samples);
    sum.kernel = sum.kernel.saturating_add(other.kernel);
    sum.stack_failed = sum.stack_failed.saturating_add(other.stack_failed);
    sum.in_callback = sum.in_callback.saturating_add(other.in_callback);
}

fn add_samples(sum: &mut Samples, other: &Samples) {
    sum.rmap = sum.rmap.saturating_add(other.rmap);
    sum.age_gfn = sum.age_gfn.saturating_add(other.age_gfn);
    sum.notifier = sum.notifier.saturating_add(other.notifier);
    sum.own = sum.own.saturating_add(other.own);
}

fn add_observed(sum: &mut Observed<u64>, other: &Observed<u64>) {
    match (&mut *sum, other) {
        (Observed::Value(a), Observed::Value(b)) => *a = a.saturating_add(*b),
        (Observed::Value(_), missing @ Observed::Missing(_)) => *sum = missing.clone(),
        (Observed::Missing(_), _) => {}
    }
}

fn add_latency(sum: &mut Observed<Latency>, other: &Observed<Latency>) {
    if let (Observed::Value(a), Observed::Value(b)) = (sum, other) {
        a.merge(b);
    }
}
