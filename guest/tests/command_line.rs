//! Bad input to the `guest` binary: one clear sentence, the right exit code, no guest.

use std::process::{Command, Output, Stdio};

const USAGE: i32 = 2;
const FAILURE: i32 = 1;

fn run(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_guest"))
        .arg("run")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn assert_refused(arguments: &str, code: i32, said: &str) {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {stderr}");
    assert!(stderr.contains(said), "{arguments}: {stderr}");
    assert!(stderr.starts_with("error: "), "{arguments}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments}");
}

#[test]
fn impossible_guests_are_wrong_usage() {
    assert_refused("--pages 0", USAGE, "at least 1 page");
    assert_refused("--aliases 0", USAGE, "at least 1 alias");
    assert_refused("--aliases 1001", USAGE, "at most 1000");
    assert_refused("--pages 18446744073709551615", USAGE, "pages fit");
    assert_refused("--pages 15000000 --aliases 40", USAGE, "pages fit");
    assert_refused("--driver khugepaged --pages 511", USAGE, "at least 512");
    assert_refused("--driver khugepaged --backing file", USAGE, "anonymous");
    assert_refused("--driver lru", USAGE, "possible values");
    assert_refused("--seconds 0", USAGE, "0 is not in");
}

#[test]
fn memory_on_tmpfs_or_nowhere_is_refused() {
    let name = "memory_on_tmpfs_or_nowhere_is_refused";
    let Some(()) = guest::live::require(name, guest::live::kvm()) else {
        return;
    };
    let file = "--pages 8 --seconds 1 --backing file --dir";
    assert_refused(&format!("{file} /dev/shm"), FAILURE, "is on tmpfs");
    assert_refused(&format!("{file} /proc"), FAILURE, "--dir");
    assert_refused(&format!("{file} /nonexistent"), FAILURE, "/nonexistent");
}

#[test]
fn help_teaches_by_example() {
    let output = run("--help");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(text.contains("guest run --pages 2048 --aliases 16"));
    assert!(text.contains("Exit codes"));
}
