//! What a user sees who asks for something that cannot be done: one sentence
//! that says what and where, a failing exit status, and nothing lost.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use report::{
    ResultWriter, host,
    schema::{Disturbance, Outcome, ResultKind},
};

fn xtask(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Standard error of a command that has to fail without a panic.
fn refused(arguments: &[&str], folder: &Path) -> String {
    let out = xtask(arguments, folder);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success(), "{arguments:?} succeeded");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

fn result(folder: &Path, name: &str, kind: ResultKind) -> String {
    let path = folder.join(name);
    let writer = ResultWriter::create(&path, host::context(kind)).unwrap();
    writer
        .finish(Outcome::Complete, None, Disturbance::unwatched("a test"))
        .unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn files_that_cannot_be_compared_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let bench = result(folder.path(), "bench.jsonl", ResultKind::Bench);
    let profile = result(folder.path(), "profile.jsonl", ResultKind::Profile);
    let whole = fs::read_to_string(&bench).unwrap();
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        name.to_owned()
    };
    let cut = write("cut.jsonl", &whole[..whole.len() - 10]);
    let future = write(
        "future.jsonl",
        &whole.replacen("\"major\":1", "\"major\":9", 1),
    );
    let text = write("text.jsonl", "not a result\n");

    let run = |a: &str, b: &str| refused(&["compare", a, b], folder.path());
    assert!(run(&cut, &profile).contains("cut.jsonl was cut short"));
    assert!(run(&future, &profile).contains("schema version 9"));
    assert!(run(&text, &profile).contains("text.jsonl is not an rmapscope result file"));
    assert!(run("absent.jsonl", &profile).contains("cannot read absent.jsonl"));
    let other = |name: &str, kind| result(folder.path(), name, kind);
    let (bench2, profile2) = (
        other("bench2.jsonl", ResultKind::Bench),
        other("profile2.jsonl", ResultKind::Profile),
    );
    assert!(run(&bench, &bench2).contains("have nothing in common"));
    assert!(run(&profile, &profile2).contains("have nothing in common"));
    assert!(run(&bench, &bench).contains("are one file"));
    assert!(run("bench.jsonl", "./bench.jsonl").contains("are one file"));
    assert!(run(&bench, &profile).contains("no chain length in common"));
    let chosen = |option: &str, a: &str, b: &str| {
        let value = if option == "--young" {
            "0.5"
        } else {
            "bitlock"
        };
        refused(&["compare", option, value, a, b], folder.path())
    };
    assert!(chosen("--young", &bench, &bench2).contains("both files are bench results"));
    assert!(chosen("--young", &profile, &profile2).contains("both files are profile results"));
    assert!(chosen("--schemes", &profile, &profile2).contains("both files are profile results"));
    let alone = refused(&["compare", &bench], folder.path());
    assert!(alone.contains("alone cannot be compared"), "{alone}");
    assert_eq!(
        fs::read_to_string(&bench).unwrap(),
        whole,
        "the input was changed"
    );
}

#[test]
fn a_share_outside_of_0_to_1_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for share in ["2", "-1", "NaN"] {
        let young = format!("--young={share}");
        assert!(refused(&["compare", &young], folder.path()).contains("between 0 and 1"));
    }
}

#[test]
fn a_format_that_a_command_does_not_have_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let lines = refused(&["compare", "--format", "benchstat"], folder.path());
    assert!(lines.contains("no lines for benchstat"), "{lines}");
    let page = refused(&["report", "--html", "--format", "csv"], folder.path());
    assert!(page.contains("cannot be used with"), "{page}");
}

#[test]
fn an_existing_output_is_not_overwritten_nor_a_bad_guest_started() {
    let folder = tempfile::tempdir().unwrap();
    let profile = result(folder.path(), "mine.jsonl", ResultKind::Profile);
    let before = fs::read_to_string(&profile).unwrap();
    let stderr = refused(&["profile", "--output", &profile], folder.path());
    assert!(stderr.contains("never overwritten"), "{stderr}");
    assert_eq!(fs::read_to_string(&profile).unwrap(), before);

    let stderr = refused(&["profile", "--guest-aliases", "0,4"], folder.path());
    assert!(stderr.contains("at least 1 alias"), "{stderr}");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "something was left behind"
    );
}

#[test]
fn an_unknown_command_or_flag_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(xtask(&["frobnicate"], folder.path()).status.code(), Some(2));
    assert_eq!(
        xtask(&["compare", "--frobnicate"], folder.path())
            .status
            .code(),
        Some(2)
    );
}
