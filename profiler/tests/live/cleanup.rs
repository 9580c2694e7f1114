//! Whatever way a recording ends, the kernel keeps nothing of it.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use crate::common::{Recording, host, rmapscope};
use aya::{maps::loaded_maps, programs::loaded_programs};
use guest::{Guest, GuestConfig, live};
use nix::sys::signal::Signal;

/// How long the kernel may take to free what nobody refers to any more.
const GRACE: Duration = Duration::from_secs(10);

/// Ids of the programs and maps that a process holds.
pub(crate) fn held_by(pid: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let folder = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(folder).expect("it runs");
    let texts: Vec<String> = entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .collect();
    let ids = |key: &str| {
        let lines = texts.iter().flat_map(|text| text.lines());
        let ids = lines.filter_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        ids.collect()
    };
    (ids("prog_id:"), ids("map_id:"))
}

fn are_loaded(programs: &BTreeSet<u32>, maps: &BTreeSet<u32>) -> bool {
    let program = loaded_programs()
        .flatten()
        .any(|program| programs.contains(&program.id()));
    let map = loaded_maps().flatten().any(|map| maps.contains(&map.id()));
    program || map
}

fn leaves_nothing(signal: Signal) {
    let recording = Recording::start(&[]);
    let (programs, maps) = held_by(recording.pid());
    assert!(
        programs.len() >= 3 && maps.len() >= 10,
        "{programs:?} {maps:?}"
    );
    assert!(are_loaded(&programs, &maps), "the check sees what is there");
    let ended = recording.end(Some(signal));
    let files = usize::from(signal != Signal::SIGKILL);
    assert_eq!(ended.left.len(), files, "{signal}: {:?}", ended.left);
    wait_until_freed(&programs, &maps, signal);
}

fn wait_until_freed(programs: &BTreeSet<u32>, maps: &BTreeSet<u32>, signal: Signal) {
    let deadline = Instant::now() + GRACE;
    while are_loaded(programs, maps) {
        assert!(
            Instant::now() < deadline,
            "{signal} left programs or maps behind"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_program_or_map_outlives_a_recording_however_it_ends() {
    let _alone = live::exclusive();
    let name = "no_program_or_map_outlives_a_recording_however_it_ends";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        leaves_nothing(signal);
    }
    guest.stop().expect("stops");
}

/// Ids of all BPF links of the host.
fn links() -> BTreeSet<u32> {
    aya::programs::loaded_links()
        .flatten()
        .map(|link| link.id())
        .collect()
}

/// Names in the BPF file system, wherever something may be pinned.
fn pins() -> BTreeSet<std::path::PathBuf> {
    let entries = fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn a_hundred_starts_that_are_killed_leave_nothing() {
    const STARTS: usize = 100;
    let _alone = live::exclusive();
    let name = "a_hundred_starts_that_are_killed_leave_nothing";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    let (links_before, pins_before) = (links(), pins());
    let folder = tempfile::tempdir().expect("a folder");
    for start in 0..STARTS {
        // Some are killed while they record, some at any point before.
        if start % 20 == 0 {
            let recording = Recording::start(&[]);
            let held = held_by(recording.pid());
            assert!(held.0.len() >= 3 && held.1.len() >= 10, "{held:?}");
            programs.extend(held.0);
            maps.extend(held.1);
            recording.end(Some(Signal::SIGKILL));
            continue;
        }
        let mut child = rmapscope()
            .args(["record", "--quiet", "--duration", "100s", "--output"])
            .arg(folder.path().join(format!("{start}.jsonl")))
            .args(["--pid", &std::process::id().to_string()])
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_millis(3 * start as u64 % 150));
        child.kill().expect("killed");
        child.wait().expect("it ends");
    }
    guest.stop().expect("stops");
    wait_until_freed(&programs, &maps, Signal::SIGKILL);
    let left: Vec<u32> = links().difference(&links_before).copied().collect();
    assert!(left.is_empty(), "links {left:?}");
    assert_eq!(pins(), pins_before);
}
