//! What cannot be done is one clear sentence and an exit status, and leaves nothing.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, Output},
};

use crate::common::{host, rmapscope, run, stderr};
use guest::{Guest, GuestConfig, live};

/// It failed with one sentence that has all of `words`.
pub(crate) fn assert_refused(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert!(!output.status.success(), "it succeeded");
    assert!(
        said.starts_with("error: ") && said.lines().count() == 1,
        "{said}"
    );
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

#[test]
fn options_out_of_range_are_refused_before_anything_is_tried() {
    for (arguments, words) in [
        (["record", "--rate", "0"], ["--rate", "4000"]),
        (["record", "--rate", "997,4001"], ["--rate", "4000"]),
        (["record", "--rate", ""], ["--rate", "invalid"]),
        (["record", "--stack-every", "0"], ["--stack-every", "0"]),
        (["record", "--pid", "qemu"], ["--pid", "like 4711"]),
        (
            ["record", "--event-every", "-"],
            ["--event-every", "like 10000"],
        ),
        (["top", "--count", "0"], ["--count", "at least 1"]),
        (["record", "--duration", "0s"], ["--duration", "time"]),
        (["record", "--duration", "10"], ["--duration", "10s"]),
        (
            ["record", "--duration", "10000000000000000000s"],
            ["--duration", "ten years"],
        ),
        (
            ["top", "--interval", "10000000000000000000s"],
            ["--interval", "ten years"],
        ),
        (["record", "--max-overhead", "0"], ["--max-overhead", "100"]),
        (
            ["record", "--mechanism", "best"],
            ["--mechanism", "sampled"],
        ),
        (["top", "--interval", "0s"], ["--interval", "time"]),
        (["census", "--interval", "0s"], ["--interval", "time"]),
        (
            ["exporter", "--listen", "here"],
            ["--listen", "write 127.0.0.1:9847"],
        ),
        (["census", "--count", "3"], ["--interval", "required"]),
    ] {
        let output = run(&arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("error: "), "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
    }
}

#[test]
fn a_user_without_privileges_is_told_what_to_do() {
    let Some(()) = live::require("a_user_without_privileges_is_told_what_to_do", live::root())
    else {
        return;
    };
    // Where this test's program lies, another user may not get to.
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let program = folder.path().join("rmapscope");
    fs::copy(env!("CARGO_BIN_EXE_rmapscope"), &program).expect("a copy");
    for command in ["doctor", "record", "census"] {
        let output = Command::new(&program)
            .arg(command)
            .uid(65534)
            .gid(65534)
            .output();
        assert_refused(&output.expect("it starts"), &["root", "CAP_BPF"]);
    }
}

#[test]
fn a_process_that_does_not_exist_or_has_no_vm_is_named() {
    let name = "a_process_that_does_not_exist_or_has_no_vm_is_named";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("profile.jsonl");
    let record = |pid: &str| {
        rmapscope()
            .args(["record", "--pid", pid, "--output"])
            .arg(&output)
            .output()
    };
    let gone = record("4194304").expect("it starts");
    assert_refused(&gone, &["no process 4194304"]);
    let without = record("1").expect("it starts");
    assert_refused(&without, &["no VM", "process 1", "--wait"]);
    assert_refused(&run(&["census", "--pid", "1"]), &["no VM", "process 1"]);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}

#[test]
fn an_output_that_exists_or_cannot_be_written_stops_it_before_it_starts() {
    let name = "an_output_that_exists_or_cannot_be_written_stops_it_before_it_starts";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let existing = folder.path().join("profile.jsonl");
    fs::write(&existing, "precious").expect("written");
    let record = |path: &std::path::Path| {
        let output = rmapscope().args(["record", "--output"]).arg(path).output();
        output.expect("it starts")
    };
    assert_refused(&record(&existing), &["exists already", "--output"]);
    assert_eq!(
        fs::read_to_string(&existing).expect("still there"),
        "precious"
    );
    let nowhere = std::path::Path::new("/proc/no/such/folder/profile.jsonl");
    assert_refused(
        &record(nowhere),
        &["cannot write in the folder", "--output"],
    );
}

#[test]
fn standard_output_that_is_full_is_named() {
    let Some(()) = live::require("standard_output_that_is_full_is_named", host()) else {
        return;
    };
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let output = rmapscope()
        .arg("doctor")
        .stdout(full.expect("/dev/full"))
        .output()
        .expect("it starts");
    assert_refused(&output, &["standard output", "No space left"]);
}

#[test]
fn one_recording_twice_and_schemes_of_recordings_are_refused() {
    let name = "one_recording_twice_and_schemes_of_recordings_are_refused";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("profile.jsonl");
    let recorded = rmapscope()
        .args(["record", "--quiet", "--duration", "200ms", "--output"])
        .arg(&path)
        .output()
        .expect("it starts");
    guest.stop().expect("stops");
    assert!(recorded.status.success(), "{}", stderr(&recorded));
    let other = folder.path().join("other.jsonl");
    std::fs::copy(&path, &other).expect("copied");
    let compare = |files: [&std::path::Path; 2]| {
        let mut command = rmapscope();
        command
            .args(["compare", "--schemes", "bitlock"])
            .args(files);
        command.output().expect("it starts")
    };
    assert_refused(&compare([&path, &path]), &["are one file"]);
    assert_refused(&compare([&path, &other]), &["--schemes", "profile results"]);
}

#[test]
fn a_rung_the_host_does_not_offer_is_refused_and_doctor_says_why() {
    let name = "a_rung_the_host_does_not_offer_is_refused_and_doctor_says_why";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let doctor = run(&["doctor", "--json"]);
    let ladder: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    if ladder["rung"] == "exact" {
        return;
    }
    let reasons = ladder["signals"][0]["attempts"]
        .as_array()
        .expect("attempts");
    assert!(
        reasons.iter().any(|attempt| attempt["refused"].is_string()),
        "{reasons:?}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("profile.jsonl");
    let output = rmapscope()
        .args(["record", "--mechanism", "exact", "--output"])
        .arg(&path)
        .output();
    assert_refused(
        &output.expect("it starts"),
        &["--mechanism exact", "doctor"],
    );
    assert!(!path.exists());
}

#[test]
fn a_kernel_without_btf_is_named_as_the_reason() {
    let name = "a_kernel_without_btf_is_named_as_the_reason";
    let hidden = |command: &str| {
        let script = format!("mount -t tmpfs none /sys/kernel/btf && exec \"$0\" {command}");
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--mount",
            "sh",
            "-c",
            &script,
            env!("CARGO_BIN_EXE_rmapscope"),
        ]);
        unshare.output()
    };
    let able = host().and_then(|()| match hidden("--version") {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(stderr(&output)),
        Err(error) => Err(format!("needs unshare(1): {error}")),
    });
    let Some(()) = live::require(name, able) else {
        return;
    };
    assert_refused(
        &hidden("doctor").expect("it starts"),
        &["CONFIG_DEBUG_INFO_BTF"],
    );
}

#[test]
fn waiting_for_a_vm_can_be_interrupted_and_leaves_nothing() {
    let _alone = live::exclusive();
    let name = "waiting_for_a_vm_can_be_interrupted_and_leaves_nothing";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = rmapscope()
        .args([
            "record",
            "--wait",
            "--pid",
            &std::process::id().to_string(),
            "--output",
        ])
        .arg(folder.path().join("profile.jsonl"))
        .spawn()
        .expect("it starts");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(child.try_wait().expect("a status"), None, "it waits");
    let pid = i32::try_from(child.id()).expect("a pid");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGINT,
    )
    .expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}

#[test]
fn waiting_ends_when_a_vm_starts() {
    let _alone = live::exclusive();
    let Some(()) = live::require("waiting_ends_when_a_vm_starts", host()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = rmapscope()
        .args([
            "record",
            "--wait",
            "--quiet",
            "--duration",
            "500ms",
            "--pid",
        ])
        .arg(std::process::id().to_string())
        .arg("--output")
        .arg(folder.path().join("profile.jsonl"))
        .spawn()
        .expect("it starts");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let status = child.wait().expect("it ends");
    guest.stop().expect("stops");
    assert!(status.success(), "{status}");
}
