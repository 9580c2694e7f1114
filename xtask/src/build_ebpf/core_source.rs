//! Where core's source comes from.
//!
//! The toolchain's own `rust-src` component if it is installed. If not, and the
//! host is Debian, the package `rust-src` of exactly rustc's version, taken
//! from the mirrors this host is configured with; nothing of the host's package
//! state changes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::manifest::folder_sha256;
use crate::{debian::PrivateApt, process};

const SUITE: &str = "trixie-backports";

/// The `library` folder of a Rust source tree.
pub(super) struct CoreSource {
    library: PathBuf,
}

impl CoreSource {
    /// Finds or fetches the source that belongs to the rustc in use.
    pub(super) fn find() -> Result<Self> {
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
        let component = sysroot.join("lib/rustlib/src/rust/library");
        if component.join("core/src/lib.rs").is_file() {
            return Ok(Self { library: component });
        }
        let version = release()?;
        let unpacked = process::workspace().join("target/rust-src").join(&version);
        let library = unpacked.join(format!("usr/src/rustc-{version}/library"));
        if !library.join("core/src/lib.rs").is_file() {
            fetch(&version, &unpacked).with_context(|| {
                format!("core's source for rustc {version} is missing; `rustup component add rust-src` installs it")
            })?;
        }
        if !library.join("core/src/lib.rs").is_file() {
            bail!(
                "the package rust-src {version} does not contain {}",
                library.display()
            );
        }
        Ok(Self { library })
    }

    pub(super) fn library(&self) -> &Path {
        &self.library
    }

    /// The hash over core's own source.
    pub(super) fn sha256(&self) -> Result<String> {
        folder_sha256(&self.library.join("core/src"))
    }
}

/// rustc's version line and its LLVM.
pub(super) fn rustc_version() -> Result<String> {
    let text = rustc(&["-vV"])?;
    let first = text.lines().next().unwrap_or_default();
    let llvm = text
        .lines()
        .find(|line| line.starts_with("LLVM"))
        .unwrap_or_default();
    Ok(format!("{first}, {llvm}"))
}

fn release() -> Result<String> {
    let text = rustc(&["-vV"])?;
    let release = text.lines().find_map(|line| line.strip_prefix("release: "));
    Ok(release.context("rustc -vV names no release")?.to_owned())
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("rustc");
    // Where the build runs, so that a toolchain file applies to both.
    command.current_dir(process::workspace()).args(arguments);
    process::output(&mut command)
}

/// Downloads and unpacks Debian's `rust-src` of this version into `to`.
fn fetch(version: &str, to: &Path) -> Result<()> {
    eprintln!("fetching Debian's rust-src {version} from {SUITE}");
    let apt = PrivateApt::new(SUITE, &[SUITE])?;
    let known = process::output(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let package = debian_version(&known, version)
        .with_context(|| format!("{SUITE} has no rust-src {version}"))?;
    apt.unpack(&[format!("rust-src={package}")], to)
}

/// The Debian version of an upstream version, from `apt-cache madison`.
fn debian_version<'a>(madison: &'a str, upstream: &str) -> Option<&'a str> {
    madison.lines().find_map(|line| {
        let version = line.split('|').nth(1)?.trim();
        let rest = version.strip_prefix(upstream)?;
        rest.starts_with(['+', '-', '~']).then_some(version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_upstream_version_is_taken() {
        let madison =
            " rust-src | 1.95.01-1 | m Packages\n rust-src | 1.95.0+dfsg1-1 | m Packages\n";
        assert_eq!(debian_version(madison, "1.95.0"), Some("1.95.0+dfsg1-1"));
        assert_eq!(debian_version(madison, "1.94.0"), None);
    }
}
