//! `cargo xtask dist`: the profiler as one static file that can be copied to
//! any x86-64 Linux host.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{Outcome, process};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `rmapscope` as one static file under `target/dist/`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

/// Builds and says where the file is.
pub(crate) fn run(_: &Options) -> Outcome {
    let built = build(&["build", "--package", "profiler", "--bin", "rmapscope"])?;
    let program = built.get("rmapscope").context("cargo built no rmapscope")?;
    let folder = process::workspace().join("target/dist");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("rmapscope");
    std::fs::copy(program, &file).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    Ok(ExitCode::SUCCESS)
}

/// Runs a cargo command that builds, statically linked and optimised, and
/// returns every executable it made by target name.
pub(crate) fn build(arguments: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = process::cargo();
    command
        .args(arguments)
        .args(["--release", "--target", TARGET]);
    command
        .arg("--target-dir")
        .arg(process::workspace().join("target/static"));
    command
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=symbols",
        )
        // It would be stripped.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    process::executables(&mut command)
}
