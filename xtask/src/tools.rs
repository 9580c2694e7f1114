//! Cargo's own tools that a step needs: installed under `target/` at one version, so
//! that nothing of the user's is changed.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::process;

/// A program of crates.io.
pub(crate) struct Tool {
    /// The crate and its program.
    pub(crate) name: &'static str,
    /// The version that is asked for.
    pub(crate) version: &'static str,
}

impl Tool {
    /// Where the program is; it is installed first if it is not there at that version.
    ///
    /// # Errors
    /// If it cannot be installed: the message has cargo's command line.
    pub(crate) fn installed(&self) -> Result<PathBuf> {
        let Self { name, version } = *self;
        let root = process::workspace().join("target/tools");
        let program = root.join("bin").join(name);
        let there = Command::new(&program).arg("--version").output();
        let is_it = |printed: &[u8]| String::from_utf8_lossy(printed).trim().ends_with(version);
        if there.is_ok_and(|there| is_it(&there.stdout)) {
            return Ok(program);
        }
        eprintln!("installing {name} {version} under target/tools (1 to 2 minutes)");
        let mut command = process::cargo();
        command
            .args(["install", "--locked", "--force", "--root"])
            .arg(&root)
            .arg(format!("{name}@{version}"));
        process::run(&mut command)?;
        Ok(program)
    }
}
