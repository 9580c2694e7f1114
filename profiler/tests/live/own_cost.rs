//! What rmapscope says it costs is what the kernel counts of its programs.

use std::time::{Duration, Instant};

use crate::{
    cleanup::held_by,
    common::{Recording, reclaim_host},
    watch::{Exporter, sum},
};
use aya::programs::loaded_programs;
use guest::{Driver, Guest, GuestConfig, live};
use nix::sys::signal::Signal;
use report::{ResultFile, schema::Record};

/// Programs that look for VMs and read heads, which are no part of the figure.
const LOOKS: [&str; 2] = ["rs_vms", "rs_heads"];
/// How long the guest is reclaimed.
const WHILE: Duration = Duration::from_secs(6);
/// Longer than between two reads of the exporter's counters.
const READ: Duration = Duration::from_millis(2500);
/// The estimate over what the kernel counted.
const AGREES: std::ops::Range<f64> = 0.5..2.0;
const TRIES: usize = 3;

fn guest() -> Guest {
    let config = GuestConfig::new(1024, 2).with_driver(Driver::Reclaim);
    Guest::start(config).expect("the guest starts")
}

fn reclaim(guest: &Guest) {
    let began = Instant::now();
    while began.elapsed() < WHILE {
        guest.drive_once().expect("reclaims");
    }
}

/// Seconds that the kernel counted of a process's programs, while somebody has
/// BPF statistics on.
fn counted_s(pid: u32) -> f64 {
    let (held, _) = held_by(pid);
    let programs = loaded_programs().flatten();
    let ours = programs.filter(|program| held.contains(&program.id()));
    ours.filter(|program| !program.name_as_str().is_some_and(|it| LOOKS.contains(&it)))
        .map(|program| program.run_time().as_secs_f64())
        .sum()
}

/// Seconds that a file's recording lasted, and during which its programs were
/// measured.
fn lasted_and_measured_s(file: &ResultFile) -> (f64, Option<f64>) {
    let runs = file.records.iter().filter_map(|record| match record {
        Record::Run(run) => Some(run.duration_s),
        _ => None,
    });
    let measured = file.records.iter().find_map(|record| match record {
        Record::Overhead(own) => own.measured_s,
        _ => None,
    });
    (runs.sum(), measured)
}

#[test]
fn statistics_go_off_once_they_have_shown_enough_unless_a_limit_needs_them() {
    let _alone = live::exclusive();
    let name = "statistics_go_off_once_they_have_shown_enough_unless_a_limit_needs_them";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let guest = guest();
    let shares = [&[][..], &["--max-overhead", "100"]].map(|arguments| {
        let recording = Recording::start(arguments);
        reclaim(&guest);
        let ended = recording.end(Some(Signal::SIGINT));
        let (lasted, measured) = lasted_and_measured_s(ended.file());
        measured.expect("programs were measured") / lasted
    });
    guest.stop().expect("stops");
    assert!(shares[0] > 0.0 && shares[0] < 0.7, "{shares:?}");
    assert!(shares[1] > 0.9, "{shares:?}");
}

#[test]
fn what_is_estimated_without_statistics_is_what_the_kernel_would_have_counted() {
    let _alone = live::exclusive();
    let name = "what_is_estimated_without_statistics_is_what_the_kernel_would_have_counted";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let guest = guest();
    // What a run costs is told by its first second, which a busy host may disturb; an
    // estimate that is wrong is wrong each time.
    let agrees = (0..TRIES).any(|_| AGREES.contains(&estimated_over_counted(&guest)));
    guest.stop().expect("stops");
    assert!(agrees, "not once in {TRIES} tries");
}

/// The exporter's own cost as it says it, over what the kernel counted.
fn estimated_over_counted(guest: &Guest) -> f64 {
    // Its statistics are everybody's: they count the exporter's programs too, which has
    // switched off its own.
    let measuring = Recording::start(&["--max-overhead", "100"]);
    let exporter = Exporter::start();
    reclaim(guest);
    std::thread::sleep(READ);
    let said_s = sum(&exporter.get("/metrics"), "rmapscope_own_seconds_total");
    let counted_s = counted_s(exporter.pid());
    assert_eq!(exporter.end(Signal::SIGTERM), Some(143));
    measuring.end(Some(Signal::SIGINT));
    println!("{said_s} s estimated, {counted_s} s counted");
    assert!(counted_s > 0.0, "{said_s} s said");
    said_s / counted_s
}
