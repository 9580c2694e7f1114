//! `rmapscope top`: who is being aged now, and what it costs, VM by VM.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Result;
use profiler_common::aging::Caller;
use report::{
    table::{Column, Format, Table, count, figure},
    terminal::{self, reader_is_gone},
};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{Figures, View, add_to_view};
use crate::{
    ladder::Rung,
    observe::{Above, Ground, Loss, Lowered, Observe, Session, Signals, Stretch, begin, whole},
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
    #[arg(long, value_name = "N", value_parser = whole(1_u64.., "10"))]
    count: Option<u64>,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Time, value_name = "BY")]
    sort: Sort,
    /// Only VMs whose command or cgroup contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Print JSON lines, of which one with `vm` is one per VM and update
    ///
    /// One with `lost` says how often something was lost since the start, with its `signal` and
    /// `cause`. One with `notice` says that the sampling rate was lowered, or that the limit of
    /// --max-overhead cannot be kept. Both come with every update as long as they hold.
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
    busy_pct: Option<f64>,
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

/// One line of `--json`.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'r> {
    Vm(&'r Row),
    Loss {
        signal: &'static str,
        cause: &'static str,
        lost: u64,
    },
    Notice {
        notice: String,
    },
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
    if !options.json && terminal::size().is_some() {
        report::out!("\x1b[2J")?;
    }
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
        for line in lines(&rows, session.lost(), notices(session)) {
            report::out!("{}", serde_json::to_string(&line)?)?;
        }
        return Ok(());
    }
    let size = terminal::size();
    let width = size.map_or(usize::MAX, |(columns, _)| columns);
    let mut table = table(&rows, session.rung, width);
    for (signal, cause, lost) in session.lost() {
        table.note(format!("{signal}: {} lost, {cause}", count(lost)));
    }
    if rows.is_empty() && session.registry.alive().next().is_some() {
        let filter = options.filter.as_deref().unwrap_or_default();
        table.note(format!("No VM has {filter:?} in its command or cgroup."));
    }
    let text = format!(
        "{}\n{}",
        heading(session, lasted),
        table.render(Format::Text)
    );
    match size {
        Some(size) => report::out!("{}", in_place(&text, size))?,
        None => report::out!("{text}")?,
    }
    Ok(())
}

/// What is shown, how it was seen, and how to end it.
fn heading(session: &Session<'_>, lasted: Duration) -> String {
    let alive = session.registry.alive().count();
    let mut lines = vec![
        format!(
            "{alive} VM{}, last {:.1} s; Ctrl-C quits",
            if alive == 1 { "" } else { "s" },
            lasted.as_secs_f64(),
        ),
        session.manner(),
    ];
    lines.extend(notices(session));
    lines.join("\n")
}

/// What became of the sampling rate and the limit on what observing costs.
fn notices(session: &Session<'_>) -> impl Iterator<Item = String> {
    let lowered = session.lowered.last().map(Lowered::told);
    lowered
        .into_iter()
        .chain(session.above.as_ref().map(Above::told))
}

/// All that `--json` prints of one update.
fn lines(
    rows: &[Row],
    lost: impl Iterator<Item = Loss>,
    notices: impl Iterator<Item = String>,
) -> impl Iterator<Item = Line<'_>> {
    let lost = lost.map(|(signal, cause, lost)| Line::Loss {
        signal,
        cause,
        lost,
    });
    let notices = notices.map(|notice| Line::Notice { notice });
    rows.iter().map(Line::Vm).chain(lost).chain(notices)
}

/// The text drawn over what is on the terminal, without a flicker: every line is cleared before
/// it is written and ends at the terminal's edge, the last one clears what was below.
fn in_place(text: &str, (columns, lines): (usize, usize)) -> String {
    let wrapped = text.lines().flat_map(|line| in_columns(line, columns));
    // The cursor ends up in the line below the last one.
    let shown = wrapped.take(lines.saturating_sub(1));
    let shown: Vec<String> = shown.map(|line| format!("\x1b[2K{line}")).collect();
    format!("\x1b[H{}\x1b[J", shown.join("\r\n"))
}

/// A line broken between words, or where it meets the edge.
fn in_columns(line: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let (mut lines, mut rest) = (Vec::new(), line);
    while let Some((edge, _)) = rest.char_indices().nth(columns) {
        let space = match rest[edge..].starts_with(' ') {
            true => Some(edge),
            false => rest[..edge].rfind(' '),
        };
        let (cut, next) = match space {
            Some(space) if space > 0 => (space, space + 1),
            _ => (edge, edge),
        };
        lines.push(rest[..cut].to_owned());
        rest = &rest[next..];
    }
    lines.push(rest.to_owned());
    lines
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
        Sort::Time => row.busy_pct.unwrap_or(0.0),
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
        busy_pct: figures.known_busy_ns().map(|ns| ns as f64 / 1e7 / seconds),
        mean_ns: figures.mean_ns(),
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

/// A column: its header, the rung that alone can fill it, and what it shows.
struct Shown {
    header: &'static str,
    only: Option<Rung>,
    cell: fn(&Row) -> String,
}

/// All columns, and how early each is left out where they do not fit: never (0), or the higher
/// the earlier.
const COLUMNS: [(u8, Shown); 15] = {
    const fn any(header: &'static str, cell: fn(&Row) -> String) -> Shown {
        let only = None;
        Shown { header, only, cell }
    }
    const fn on(rung: Rung, header: &'static str, cell: fn(&Row) -> String) -> Shown {
        let only = Some(rung);
        Shown { header, only, cell }
    }
    use Rung::{Exact, Sampled};
    [
        (0, any("pid", |row| row.pid.to_string())),
        (
            0,
            any("VM", |row| terminal::harmless(&row.comm).into_owned()),
        ),
        (0, any("callbacks/s", |row| figure(row.callbacks_per_s))),
        (0, any("CPU (%)", |row| real(row.busy_pct))),
        (0, any("mean (ns)", |row| real(row.mean_ns))),
        (2, on(Sampled, "rate 0 (ns)", |row| real(row.rate_zero_ns))),
        (6, on(Exact, "p50 (ns)", |row| nanoseconds(row.p50_ns))),
        (8, on(Exact, "p90 (ns)", |row| nanoseconds(row.p90_ns))),
        (1, on(Exact, "p99 (ns)", |row| nanoseconds(row.p99_ns))),
        (9, on(Exact, "p99.9 (ns)", |row| nanoseconds(row.p999_ns))),
        (5, on(Exact, "max (ns)", |row| nanoseconds(row.max_ns))),
        (4, on(Exact, "young (%)", |row| real(row.young_pct))),
        (7, on(Exact, "wait (%)", |row| real(row.wait_pct))),
        (3, any("one SPTE (%)", |row| real(row.one_spte_pct))),
        (
            1,
            any("asked by", |row| {
                row.busiest_caller.unwrap_or("-").to_owned()
            }),
        ),
    ]
};

/// The columns that this rung can fill, without the least important ones where the others are
/// as wide as there is room for.
fn table(rows: &[Row], rung: Rung, width: usize) -> Table {
    let mut columns: Vec<&(u8, Shown)> = COLUMNS
        .iter()
        .filter(|(_, shown)| shown.only.is_none_or(|only| only == rung))
        .collect();
    loop {
        let table = of_columns(rows, &columns);
        let text = table.render(Format::Text);
        let fits = text.lines().all(|line| line.chars().count() <= width);
        let least = columns.iter().map(|(early, _)| *early).max();
        match least.filter(|early| *early > 0) {
            Some(least) if !fits => columns.retain(|(early, _)| *early != least),
            _ => return table,
        }
    }
}

fn of_columns(rows: &[Row], columns: &[&(u8, Shown)]) -> Table {
    const WORDS: [&str; 2] = ["VM", "asked by"];
    let headers = columns.iter().map(|(_, shown)| match shown.header {
        words if WORDS.contains(&words) => Column::text(words),
        number => Column::number(number),
    });
    let mut table = Table::new("", headers.collect());
    for row in rows {
        table.row(columns.iter().map(|(_, shown)| (shown.cell)(row)).collect());
    }
    table
}

fn nanoseconds(ns: Option<u64>) -> String {
    real(ns.map(|ns| ns as f64))
}

fn real(value: Option<f64>) -> String {
    value.map_or_else(absent, figure)
}

/// What is printed for a figure that was not seen.
fn absent() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            vm: 0,
            pid: 1_234_567,
            comm: "qemu-system-x86".to_owned(),
            cgroup: String::new(),
            callbacks_per_s: 123_456.0,
            pages_per_s: 123_456.0,
            busy_pct: Some(12.5),
            mean_ns: Some(12_345.0),
            rate_zero_ns: Some(12_345.0),
            p50_ns: Some(12_345),
            p90_ns: Some(12_345),
            p99_ns: Some(12_345),
            p999_ns: Some(1_234_567),
            max_ns: Some(1_234_567),
            young_pct: None,
            wait_pct: None,
            one_spte_pct: None,
            busiest_caller: Some("khugepaged"),
        }
    }

    #[test]
    fn a_redrawn_text_clears_what_it_does_not_cover_and_wraps_at_the_edge() {
        let drawn = in_place("ab\n\nabcde", (3, 5));
        let lines = [
            "\x1b[H\x1b[2Kab",
            "\x1b[2K",
            "\x1b[2Kabc",
            "\x1b[2Kde\x1b[J",
        ];
        assert_eq!(drawn, lines.join("\r\n"));
        assert_eq!(in_columns("ab cd é", 5), ["ab cd", "é"]);
        assert_eq!(in_columns("ab cdé fg", 4), ["ab", "cdé", "fg"]);
        assert!(
            !in_place("a\nb\nc", (3, 3)).contains('c'),
            "below the last line"
        );
    }

    #[test]
    fn json_says_what_was_lost_and_that_the_rate_was_lowered() {
        let lost = [("samples", "the kernel stack could not be read", 7)];
        let notices = ["the rate was lowered".to_owned()];
        let rows = [row()];
        let lines = lines(&rows, lost.into_iter(), notices.into_iter());
        let lines: Vec<serde_json::Value> = lines
            .map(|line| serde_json::to_value(&line).expect("JSON"))
            .collect();
        assert_eq!(lines[0]["vm"], 0);
        assert_eq!(lines[0]["pid"], 1_234_567);
        assert_eq!(
            lines[1..],
            [
                serde_json::json!({
                    "signal": "samples",
                    "cause": "the kernel stack could not be read",
                    "lost": 7
                }),
                serde_json::json!({ "notice": "the rate was lowered" }),
            ]
        );
    }

    #[test]
    fn a_table_fits_the_terminal_and_has_what_its_rung_sees() {
        for rung in [Rung::Exact, Rung::Sampled] {
            let text = |width| table(&[row()], rung, width).render(Format::Text);
            let longest = text(80).lines().map(|line| line.chars().count()).max();
            assert!(longest.is_some_and(|longest| longest <= 80), "{}", text(80));
            assert!(text(80).contains("mean (ns)"), "{}", text(80));
            assert_eq!(text(500).contains("p99 (ns)"), rung == Rung::Exact);
            assert_eq!(text(500).contains("rate 0 (ns)"), rung == Rung::Sampled);
            // What tells most is left out last.
            assert!(text(10).contains("callbacks/s"), "{}", text(10));
        }
    }
}
