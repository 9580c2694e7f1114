//! Conditions that production hosts get into: what was recorded is kept, and
//! nothing hangs.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use crate::{
    bad_input::assert_refused,
    common::{Recording, callbacks, host, reclaim_host, rmapscope, run, stderr},
};
use guest::{Driver, Guest, GuestConfig, live};
use nix::sys::signal::Signal;
use report::{
    ResultFile,
    schema::{Outcome, Record, VmRecord},
};

/// Runs rmapscope with `arguments` after `setup`, in mounts of its own.
fn with_own_mounts(setup: &str, arguments: &[&str], temporary: &Path) -> Output {
    let script = format!("{setup} && exec \"$0\" \"$@\"");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script]);
    unshare.arg(env!("CARGO_BIN_EXE_rmapscope")).args(arguments);
    unshare.env("TMPDIR", temporary);
    unshare.output().expect("it starts")
}

fn own_mounts() -> Result<(), String> {
    host()?;
    let tried = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs none /mnt"])
        .output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(stderr(&output)),
        Err(error) => Err(format!("needs unshare(1): {error}")),
    }
}

#[test]
fn a_disk_that_is_full_at_the_end_does_not_cost_the_recording() {
    let _alone = live::exclusive();
    let name = "a_disk_that_is_full_at_the_end_does_not_cost_the_recording";
    let Some(()) = live::require(name, own_mounts()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let (small, other) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let target = small.path().join("profile.jsonl");
    let pid = std::process::id().to_string();
    let arguments = ["record", "--quiet", "--duration", "300ms", "--pid", &pid];
    let output = ["--output", target.to_str().expect("UTF-8")];
    let setup = format!("mount -t tmpfs -o size=8k none {}", small.path().display());
    let ended = with_own_mounts(&setup, &[&arguments[..], &output].concat(), other.path());
    guest.stop().expect("stops");
    assert_refused(&ended, &["No space left on device", "is kept in"]);
    assert_eq!(ended.status.code(), Some(1));
    let kept: Vec<_> = fs::read_dir(other.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let file = ResultFile::read(&kept[0]).expect("a result file");
    assert_eq!(file.end.outcome, Outcome::Complete);
}

#[test]
fn a_reader_that_goes_away_ends_what_prints_for_ever_and_costs_no_result() {
    let _alone = live::exclusive();
    let name = "a_reader_that_goes_away_ends_what_prints_for_ever_and_costs_no_result";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("profile.jsonl");
    let path = path.to_str().expect("UTF-8");
    let pid = std::process::id().to_string();
    let commands: [&[&str]; 3] = [
        &["record", "--json", "--duration", "300ms", "--output", path],
        &["top", "--interval", "200ms"],
        &["census", "--interval", "200ms"],
    ];
    for command in commands {
        let mut child = rmapscope()
            .args(command)
            .args(["--pid", &pid])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("it ends");
        assert!(ended.status.success(), "{command:?}: {}", stderr(&ended));
        assert!(!stderr(&ended).contains("panicked"), "{}", stderr(&ended));
    }
    guest.stop().expect("stops");
    assert!(ResultFile::read(Path::new(path)).is_ok());
}

/// rmapscope as a user who has these capabilities and no others.
fn with_capabilities(capabilities: &str, arguments: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().expect("a folder");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), mode).expect("permissions");
    let program = folder.path().join("rmapscope");
    fs::copy(env!("CARGO_BIN_EXE_rmapscope"), &program).expect("a copy");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(format!("--inh-caps={capabilities}"))
        .arg(format!("--ambient-caps={capabilities}"))
        .arg(&program)
        .args(arguments)
        .output();
    output.ok()
}

/// Whether a program of util-linux is there.
fn installed(program: &str) -> Result<(), String> {
    match Command::new(program).arg("-V").output() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("needs {program}(1): {error}")),
    }
}

#[test]
fn one_capability_of_two_is_refused_and_all_that_are_asked_for_suffice() {
    let _alone = live::exclusive();
    let name = "one_capability_of_two_is_refused_and_all_that_are_asked_for_suffice";
    let able = host().and_then(|()| installed("setpriv"));
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let refused = with_capabilities("-all,+bpf", &["census"]).expect("it starts");
    assert_refused(&refused, &["root", "CAP_PERFMON"]);
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let pid = std::process::id().to_string();
    let all = "-all,+bpf,+perfmon,+syslog";
    let counted = with_capabilities(all, &["census", "--json", "--pid", &pid]);
    let counted = counted.expect("it starts");
    // A place that this user may write to.
    let folder = tempfile::tempdir().expect("a folder");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(folder.path(), mode).expect("permissions");
    let path = folder.path().join("profile.jsonl");
    let record = ["record", "--json", "--duration", "1s", "--pid", &pid];
    let output = ["--output", path.to_str().expect("UTF-8")];
    let recorded = with_capabilities(all, &[&record[..], &output].concat());
    let recorded = recorded.expect("it starts");
    let tried = with_capabilities(all, &["doctor", "--json"]).expect("it starts");
    guest.stop().expect("stops");
    for output in [&counted, &recorded] {
        assert!(output.status.success(), "{}", stderr(output));
        let lines = String::from_utf8_lossy(&output.stdout);
        assert!(lines.contains("\"record\":\"vm\""), "{lines}");
    }
    // What doctor says of this user holds for the recording.
    assert!(tried.status.success(), "{}", stderr(&tried));
}

/// The VM of a recording, from its last run.
fn vm(file: &ResultFile) -> &VmRecord {
    let mut vms = file.records.iter().filter_map(|record| match record {
        Record::Vm(vm) => Some(vm),
        _ => None,
    });
    vms.next_back().expect("a VM")
}

/// What a recording reports of a loss.
fn lost(file: &ResultFile, wanted: &str) -> u64 {
    let losses = file.records.iter().filter_map(|record| match record {
        Record::Loss(loss) if loss.cause == wanted => loss.count.value(),
        _ => None,
    });
    losses.sum()
}

/// Lets a process that runs open no more files than it has open.
fn forbid_more_files(pid: u32) {
    let first_free = || {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let open: BTreeSet<u32> = open
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        (0..).find(|number| !open.contains(number)).expect("one")
    };
    // What it opens for a moment must not count.
    let least = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        first_free()
    });
    let least = least.min().expect("some");
    let limited = Command::new("prlimit")
        .arg(format!("--pid={pid}"))
        .arg(format!("--nofile={least}:{least}"))
        .output()
        .expect("it starts");
    assert!(limited.status.success(), "{}", stderr(&limited));
}

#[test]
fn what_fails_while_it_records_ends_a_recording_and_costs_nothing_of_it() {
    let _alone = live::exclusive();
    let name = "what_fails_while_it_records_ends_a_recording_and_costs_nothing_of_it";
    let able = reclaim_host().and_then(|()| installed("prlimit"));
    let Some(()) = live::require(name, able) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(256, 1).with_driver(Driver::Reclaim));
    let guest = guest.expect("the guest starts");
    let recording = Recording::start(&[]);
    guest.drive_once().expect("reclaims");
    forbid_more_files(recording.pid());
    // It needs one to look for VMs.
    let ended = recording.end(None);
    guest.stop().expect("stops");
    let why = "Too many open files";
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    let said = ended.said.lines().last().expect("an error");
    let is_error = said.starts_with("error: ") && said.contains(why);
    assert!(is_error && said.contains("profile.jsonl"), "{said}");
    let end = &ended.file().end;
    assert_eq!(end.outcome, Outcome::Partial);
    let reason = end.reason.as_deref().unwrap_or_default();
    assert!(reason.contains(why), "{reason}");
    let pages: u64 = callbacks(ended.file()).map(|record| record.pages).sum();
    assert!(pages >= 256, "{pages} pages");
}

#[test]
fn memory_plugged_into_a_recorded_vm_is_seen_and_leaves_it_one_vm() {
    let _alone = live::exclusive();
    let name = "memory_plugged_into_a_recorded_vm_is_seen_and_leaves_it_one_vm";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let recording = Recording::start(&[]);
    guest.plug(3, 512).expect("memory is added");
    // A look for VMs every second.
    std::thread::sleep(Duration::from_millis(2500));
    guest.unplug(1).expect("memory is removed");
    std::thread::sleep(Duration::from_millis(2500));
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    let vm = vm(ended.file());
    assert_eq!((vm.vm, vm.memslots), (0, 4), "{vm:?}");
    assert!(vm.pages > 64 + 2 * 512 && vm.gone_s.is_none(), "{vm:?}");
}

#[test]
fn thousands_of_memslots_are_all_read_and_none_is_lost() {
    const SLOTS: u32 = 3000;
    let _alone = live::exclusive();
    let name = "thousands_of_memslots_are_all_read_and_none_is_lost";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    guest.plug(SLOTS, 2).expect("memory is added");
    let pid = std::process::id().to_string();
    let census = run(&["census", "--json", "--heads-only", "--pid", &pid]);
    let recording = Recording::start(&[]);
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    assert!(census.status.success(), "{}", stderr(&census));
    let lines = String::from_utf8(census.stdout).expect("UTF-8");
    let records: Vec<Record> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect();
    let heads = records.iter().find_map(|record| match record {
        Record::Census(census) if census.level == 1 => {
            assert_eq!(census.discarded_chunks, 0);
            Some(census.heads)
        }
        _ => None,
    });
    let pages = records.iter().find_map(|record| match record {
        Record::Vm(vm) => Some((vm.memslots, vm.pages)),
        _ => None,
    });
    let (memslots, pages) = pages.expect("the VM");
    assert_eq!(memslots, SLOTS + 2);
    // Without rmaps there are no heads to read.
    assert!(heads.is_none_or(|heads| heads == pages), "{heads:?}");
    assert_eq!(vm(ended.file()).memslots, SLOTS + 2);
    assert_eq!(lost(ended.file(), "VMs or memslots beyond the tables"), 0);
    assert_eq!(lost(ended.file(), "address intervals beyond the table"), 0);
}
