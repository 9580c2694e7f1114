//! What reads foreign files, and what shows them: the readers under a fuzzer, and the
//! page in a real browser.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Result;

use super::{Check, Step, target_folder};
use crate::{debian, process};

/// Time the fuzzer gets, seconds.
const FUZZ_SECONDS: u32 = 60;
/// Longest input, bytes: a few records.
const LONGEST_INPUT: u32 = 16 << 10;

/// Adds the steps; a tool that cannot be had is a skipped step with its reason.
pub(super) fn add(steps: &mut Vec<Step>) -> Result<()> {
    steps.push(Step {
        name: "fuzz",
        check: fuzz()?,
    });
    steps.push(Step {
        name: "page",
        check: page()?,
    });
    Ok(())
}

/// A bounded run over the readers of result files and of the blocks in documents.
fn fuzz() -> Result<Check> {
    let fuzz = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command
            .current_dir(process::workspace().join("report"))
            .args(["+nightly", "fuzz"])
            .args(arguments);
        command
    };
    let mut probe = fuzz(&["--version"]);
    probe.stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        let reason = "there is no nightly toolchain with cargo-fuzz; `cargo install --locked \
                      cargo-fuzz` installs it. The same readers are tested with mutated files by \
                      report/tests/mutations.rs";
        return Ok(Check::Skipped(reason.to_owned()));
    }
    let folder = target_folder()?.join("fuzz");
    let (seconds, longest) = (
        format!("-max_total_time={FUZZ_SECONDS}"),
        format!("-max_len={LONGEST_INPUT}"),
    );
    let mut command = fuzz(&["run", "read", "--", &seconds, &longest, "-timeout=20"]);
    command.env("CARGO_TARGET_DIR", folder);
    Ok(Check::Succeeds(command))
}

/// The committed results drawn, and looked at in headless Chromium.
fn page() -> Result<Check> {
    if !Path::new(debian::KEYRING).exists() {
        let reason = "this host is not Debian: Chromium is taken from Debian's archive";
        return Ok(Check::Skipped(reason.to_owned()));
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("page-test");
    Ok(Check::Succeeds(command))
}
