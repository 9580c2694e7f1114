//! `rmapscope top`: who is being aged now, and what it costs, VM by VM.

use std::{collections::BTreeMap, io::IsTerminal as _, process::ExitCode, time::Duration};

use anyhow::Result;
use profiler_common::aging::Caller;
use report::{
    table::{Column, Format, Table, count, figure},
    terminal::reader_is_gone,
};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{Figures, View, add_to_view};
use crate::{
    observe::{Ground, Observe, Session, Signals, Stretch, begin},
    privileges::Keep,
    record::parse_duration,
    vms::{Registry, Tracked},
};

/// Options of `rmapscope top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Time between two updates, such as 2s or 500ms
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = parse_duration)]
    interval: Duration,
    /// Stop after this many updates
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Time, value_name = "BY")]
    sort: Sort,
    /// Only VMs whose command or cgroup contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Print one JSON line per VM and update
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    observe: Observe,
}

/// The order of rows, largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// Time spent in aging callbacks
    Time,
    /// Callbacks
    Callbacks,
    /// Mean time of a callback
    Mean,
}

/// One VM in one update.
#[derive(Debug, Clone, Serialize)]
struct Row {
    vm: u16,
    pid: u32,
    comm: String,
    cgroup: String,
    callbacks_per_s: f64,
    pages_per_s: f64,
    /// Time in callbacks, in percent of one CPU.
    busy_pct: f64,
    mean_ns: Option<f64>,
    /// The mean without samples, where several sampling rates tell it.
    rate_zero_ns: Option<f64>,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    max_ns: Option<u64>,
    young_pct: Option<f64>,
    /// Time before the walk, in percent of the time in callbacks.
    wait_pct: Option<f64>,
    /// Of callbacks over one page that found a chain: those with one SPTE.
    one_spte_pct: Option<f64>,
    busiest_caller: Option<&'static str>,
}

/// Shows updates until interrupted, or as many as were asked for.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    begin::run(&options.observe, watch(options))
}

async fn watch(options: &Options) -> Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let ground = Ground::find(&options.observe)?;
    let mut session = Session::prepare(&options.observe, 0, &ground)?;
    session.refresh()?;
    session.start(&ground.ladder, Keep::Observing)?;
    let _logging = session.forward_log()?;
    report::say!("{}", session.manner());
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut update = Update::default();
    let mut shown = 0;
    while options.count.is_none_or(|wanted| shown < wanted) && !reader_is_gone() {
        tokio::select! {
            biased;
            number = signals.next() => return Ok(ExitCode::from(128 + number)),
            _ = ticks.tick() => {}
            () = session.turn() => {
                update.add(&session.settle()?, &session);
                session.next_turn()?;
                continue;
            }
        }
        let stretch = session.settle()?;
        update.add(&stretch, &session);
        session.forget_gone()?;
        session.refresh()?;
        show(options, &session, std::mem::take(&mut update))?;
        if let Some(excess) = session.excess() {
            update.add(&session.settle()?, &session);
            session.lower(excess)?;
        }
        shown += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// What happened since the last update, in turns at several rates.
#[derive(Default)]
struct Update {
    view: View,
    lasted: Duration,
}

impl Update {
    fn add(&mut self, stretch: &Stretch, session: &Session<'_>) {
        add_to_view(&mut self.view, stretch, session.rung);
        self.lasted += stretch.lasted;
    }
}

fn show(options: &Options, session: &Session<'_>, update: Update) -> Result<()> {
    let lasted = update.lasted;
    let rows = rows(options, session, update);
    if options.json {
        for row in &rows {
            report::out!("{}", serde_json::to_string(row)?)?;
        }
        return Ok(());
    }
    let mut table = table(&rows);
    for (signal, cause, lost) in session.lost() {
        table.note(format!("{signal}: {} lost, {cause}", count(lost)));
    }
    let text = format!(
        "{}\n{}",
        heading(session, lasted),
        table.render(Format::Text)
    );
    if std::io::stdout().is_terminal() {
        report::out!("{}", in_place(&text))?;
    } else {
        report::out!("{text}")?;
    }
    Ok(())
}

fn heading(session: &Session<'_>, lasted: Duration) -> String {
    let alive = session.registry.alive().count();
    let lowered = session.lowered.last().map_or_else(String::new, |lowered| {
        format!(
            ", lowered to {} Hz because observing took {:.2} % of all CPUs",
            lowered.to_hz, lowered.overhead_pct
        )
    });
    format!(
        "{alive} VM{}, last {:.1} s, {}{lowered}",
        if alive == 1 { "" } else { "s" },
        lasted.as_secs_f64(),
        session.manner()
    )
}

/// The text drawn over what is on the terminal, without a flicker: every line
/// clears what was right of it, the last one what was below.
fn in_place(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

fn rows(options: &Options, session: &Session<'_>, update: Update) -> Vec<Row> {
    let lasted = update.lasted;
    let mut per_vm: BTreeMap<u16, Figures> = BTreeMap::new();
    for ((vm, _), figures) in update.view {
        per_vm.entry(vm).or_default().add(&figures);
    }
    let mut rows: Vec<Row> = wanted(&session.registry, options.filter.as_deref())
        .map(|tracked| {
            let figures = per_vm.remove(&tracked.number).unwrap_or_default();
            row(tracked, &figures, lasted)
        })
        .collect();
    let by = |row: &Row| match options.sort {
        Sort::Time => row.busy_pct,
        Sort::Callbacks => row.callbacks_per_s,
        Sort::Mean => row.mean_ns.unwrap_or(0.0),
    };
    rows.sort_by(|a, b| by(b).total_cmp(&by(a)));
    rows
}

/// VMs that run, or that were seen gone just now, and pass the filter.
fn wanted<'r>(
    registry: &'r Registry,
    filter: Option<&'r str>,
) -> impl Iterator<Item = &'r Tracked> {
    let passes = move |tracked: &&Tracked| {
        filter.is_none_or(|text| {
            let names = [&tracked.comm, &tracked.cgroup];
            names
                .iter()
                .any(|name| name.as_ref().is_ok_and(|n| n.contains(text)))
        })
    };
    registry.alive().filter(passes)
}

fn row(tracked: &Tracked, figures: &Figures, lasted: Duration) -> Row {
    let seconds = lasted.as_secs_f64().max(1e-9);
    let share = |part: u64, of: u64| (of > 0).then(|| 100.0 * part as f64 / of as f64);
    let latency = figures.latency().map(|latency| latency.summary());
    let name = |name: &Result<String, String>| name.clone().unwrap_or_else(|_| "?".to_owned());
    Row {
        vm: tracked.number,
        pid: tracked.found.vm.tgid,
        comm: name(&tracked.comm),
        cgroup: name(&tracked.cgroup),
        callbacks_per_s: figures.callbacks as f64 / seconds,
        pages_per_s: figures.pages as f64 / seconds,
        busy_pct: figures.busy_ns as f64 / 1e7 / seconds,
        mean_ns: (figures.callbacks > 0).then(|| figures.busy_ns as f64 / figures.callbacks as f64),
        rate_zero_ns: figures.mean_at_rate_zero_ns(),
        p50_ns: latency.as_ref().map(|l| l.p50_ns),
        p90_ns: latency.as_ref().map(|l| l.p90_ns),
        p99_ns: latency.as_ref().map(|l| l.p99_ns),
        p999_ns: latency.as_ref().map(|l| l.p999_ns),
        max_ns: latency.as_ref().map(|l| l.max_ns),
        young_pct: figures
            .young
            .and_then(|young| share(young, figures.callbacks)),
        wait_pct: figures
            .wait_ns
            .and_then(|wait| share(wait, figures.busy_ns)),
        one_spte_pct: share(figures.one_spte, figures.with_chain),
        busiest_caller: figures.busiest_caller().map(Caller::name),
    }
}

fn table(rows: &[Row]) -> Table {
    let mut columns = vec![Column::number("pid"), Column::text("VM")];
    let numbers = [
        "callbacks/s",
        "CPU %",
        "mean ns",
        "at rate 0",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "young %",
        "wait %",
        "one SPTE %",
    ];
    columns.extend(numbers.map(Column::number));
    columns.push(Column::text("asked by"));
    let mut table = Table::new("", columns);
    let whole = |ns: Option<u64>| ns.map_or_else(absent, |ns| figure(ns as f64));
    let real = |value: Option<f64>| value.map_or_else(absent, figure);
    for row in rows {
        table.row(vec![
            row.pid.to_string(),
            report::terminal::harmless(&row.comm).into_owned(),
            figure(row.callbacks_per_s),
            figure(row.busy_pct),
            real(row.mean_ns),
            real(row.rate_zero_ns),
            whole(row.p50_ns),
            whole(row.p90_ns),
            whole(row.p99_ns),
            whole(row.p999_ns),
            whole(row.max_ns),
            real(row.young_pct),
            real(row.wait_pct),
            real(row.one_spte_pct),
            row.busiest_caller.unwrap_or("–").to_owned(),
        ]);
    }
    table
}

/// What is printed for a figure that was not seen.
fn absent() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrawn_text_clears_what_it_does_not_cover() {
        assert_eq!(in_place("a\nb"), "\x1b[Ha\x1b[K\nb\x1b[J");
    }
}
