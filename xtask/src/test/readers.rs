//! What reads foreign files, and what shows them: the readers under a fuzzer, and the
//! page in a real browser.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{Check, Step, target_folder};
use crate::{debian, process, tools::Tool};

const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
};
/// Time the fuzzer gets, seconds.
const FUZZ_SECONDS: u32 = 30;
/// Longest input, bytes: a few records.
const LONGEST_INPUT: u32 = 16 << 10;

/// Adds the steps; a tool that cannot be had is a skipped step with its reason.
pub(super) fn add(steps: &mut Vec<Step>) -> Result<()> {
    steps.push(Step {
        name: "fuzz",
        check: Check::Prepared(CARGO_FUZZ, fuzz),
    });
    steps.push(Step {
        name: "page",
        check: page()?,
    });
    Ok(())
}

/// A bounded run over the readers of result files and of the blocks in documents.
///
/// Without AddressSanitizer: the readers have no unsafe code, and without it the stable
/// compiler suffices, compiles sooner and tries more inputs a second.
fn fuzz(cargo_fuzz: PathBuf) -> Result<Command> {
    let (seconds, longest) = (
        format!("-max_total_time={FUZZ_SECONDS}"),
        format!("-max_len={LONGEST_INPUT}"),
    );
    let mut command = Command::new(cargo_fuzz);
    command
        .current_dir(process::workspace().join("report"))
        .args(["run", "--sanitizer", "none", "read", "--"])
        .args([&seconds, &longest, "-timeout=20"])
        .env("CARGO_TARGET_DIR", target_folder()?.join("fuzz"));
    Ok(command)
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
