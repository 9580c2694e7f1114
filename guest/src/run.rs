//! `guest run`.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use guest::wire::{End, Line, Progress, Ready};
use guest::{Driver, Guest, GuestError, GuestReport};

use crate::cli::RunArgs;
use crate::watch::{Reason, Watch, Word};

/// How often the guest's health is looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

const FAILURE: u8 = 1;
const USAGE: u8 = 2;

/// Runs one guest from start to end.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let config = args.config();
    config.validate().map_err(GuestError::from)?;
    let watch = Watch::start(args.until_stdin_closes)?;
    let mut guest = match Guest::start_unless(config, &|| watch.has_ended()) {
        Err(GuestError::Cancelled) => bail!("{}", stopped_early(&watch)),
        started => started?,
    };
    announce(args, &Line::Ready(Ready::of(&guest)?))?;
    if guest.config().driver != Driver::None && !args.on_request {
        guest.start_driving()?;
    }
    let reason = wait(args, &watch, &mut guest)?;
    let report = guest.stop()?;
    announce(
        args,
        &Line::End(End {
            stopped_by: reason.to_string(),
            report,
        }),
    )
}

fn stopped_early(watch: &Watch) -> String {
    let reason = std::iter::from_fn(|| watch.wait(CHECK_INTERVAL)).find_map(|word| match word {
        Word::End(reason) => Some(format!(": {reason}")),
        Word::Line => None,
    });
    let reason = reason.unwrap_or_default();
    format!("the guest was stopped before it was ready{reason}")
}

/// 2 for what no host could do, 1 for what this one could not.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(GuestError::Config(_)) => USAGE,
        _ => FAILURE,
    }
}

fn wait(args: &RunArgs, watch: &Watch, guest: &mut Guest) -> anyhow::Result<Reason> {
    let started = Instant::now();
    let limit = args.seconds.map(Duration::from_secs);
    loop {
        let left = limit.map_or(CHECK_INTERVAL, |limit| {
            limit.saturating_sub(started.elapsed())
        });
        if left.is_zero() {
            return Ok(Reason::Time);
        }
        match watch.wait(left.min(CHECK_INTERVAL)) {
            Some(Word::End(reason)) => return Ok(reason),
            Some(Word::Line) if args.on_request => announce(args, &answer(guest)?)?,
            Some(Word::Line) | None => {}
        }
        guest.check()?;
    }
}

/// Ages the guest once, if it has a driver, and tells how far it is.
fn answer(guest: &Guest) -> anyhow::Result<Line> {
    let aged_ns = match guest.config().driver {
        Driver::None => None,
        _ => {
            let took = guest.drive_held()?.as_nanos();
            Some(u64::try_from(took).context("aging took centuries")?)
        }
    };
    let passes = guest.passes();
    Ok(Line::Progress(Progress { passes, aged_ns }))
}

fn announce(args: &RunArgs, line: &Line) -> anyhow::Result<()> {
    let text = if args.json {
        serde_json::to_string(line).context("could not write the guest's state as JSON")?
    } else {
        describe(line)
    };
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .context("could not write to stdout, so the guest was stopped")
}

fn describe(line: &Line) -> String {
    match line {
        Line::Ready(ready) => describe_ready(ready),
        Line::Progress(progress) => describe_progress(*progress),
        Line::End(End { stopped_by, report }) => describe_end(stopped_by, report),
    }
}

fn describe_ready(ready: &Ready) -> String {
    let sptes = describe_sptes(ready.stats.sptes_4k());
    let cgroup = ready.cgroup.as_deref().unwrap_or("none");
    format!(
        "guest ready: pid {}, {} pages × {} aliases, {} memory at {:#x}..{:#x}, {sptes}; driver \
         {}, cgroup {cgroup}",
        ready.pid,
        ready.pages,
        ready.aliases,
        ready.backing.name(),
        ready.hva_start,
        ready.hva_start + ready.hva_len,
        ready.driver.name(),
    )
}

fn describe_progress(Progress { passes, aged_ns }: Progress) -> String {
    let aged = aged_ns.map_or_else(String::new, |ns| {
        format!("aged in {:.3} ms, ", ns as f64 / 1e6)
    });
    format!("{aged}{passes} passes")
}

fn describe_end(stopped_by: &str, report: &GuestReport) -> String {
    format!(
        "guest ended ({stopped_by}): {} passes, {} driver iterations, {} at the end",
        report.passes,
        report.driver_iterations,
        describe_sptes(report.sptes_4k),
    )
}

fn describe_sptes(sptes_4k: Option<u64>) -> String {
    sptes_4k.map_or_else(
        || "4 KiB SPTEs not counted by this KVM".into(),
        |count| format!("{count} SPTEs of 4 KiB"),
    )
}
