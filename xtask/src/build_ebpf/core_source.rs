//! Where core's source comes from.
//!
//! The toolchain's own `rust-src` component if it is installed. If not, and the
//! host is Debian, the package `rust-src` of exactly rustc's version, taken
//! from the mirrors this host is configured with; nothing of the host's package
//! state changes.
//!
//! Cargo mixes the path of core's source into the names of every crate that
//! uses it, and no flag maps that away. So the build sees the source through a
//! link at the same place on every machine, which is removed afterwards.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::manifest::folder_sha256;
use crate::{debian::PrivateApt, process};

const SUITE: &str = "trixie-backports";

/// The `library` folder of a Rust source tree, and the link to it.
pub(super) struct CoreSource {
    library: PathBuf,
    link: Link,
}

impl CoreSource {
    /// Finds or fetches the source that belongs to the rustc in use.
    pub(super) fn find() -> Result<Self> {
        let version = release()?;
        let library = library(&version)?;
        let link = Path::new("/tmp").join(format!("rmapscope-core-{version}"));
        let link = Link::new(link, &library)?;
        Ok(Self { library, link })
    }

    /// Where the build finds it.
    pub(super) fn library(&self) -> &Path {
        &self.link.0
    }

    /// The hash over core's own source.
    pub(super) fn sha256(&self) -> Result<String> {
        folder_sha256(&self.library.join("core/src"))
    }
}

/// The `library` folder of the standard library's source that belongs to the rustc in
/// use, found or fetched.
pub(crate) fn std_source() -> Result<PathBuf> {
    library(&release()?)
}

/// The `library` folder itself.
fn library(version: &str) -> Result<PathBuf> {
    let is_library = |folder: &Path| folder.join("core/src/lib.rs").is_file();
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
    let component = sysroot.join("lib/rustlib/src/rust/library");
    if is_library(&component) {
        return Ok(component);
    }
    let unpacked = process::workspace().join("target/rust-src").join(version);
    let library = unpacked.join(format!("usr/src/rustc-{version}/library"));
    if !is_library(&library) {
        fetch(version, &unpacked).with_context(|| {
            format!(
                "core's source for rustc {version} is missing; `rustup component add rust-src` \
                 installs it"
            )
        })?;
    }
    if !is_library(&library) {
        bail!(
            "the package rust-src {version} does not contain {}",
            library.display()
        );
    }
    Ok(library)
}

/// A symbolic link that is removed when it is dropped.
struct Link(PathBuf);

impl Link {
    /// Makes a link; takes over one that a killed build left.
    fn new(path: PathBuf, to: &Path) -> Result<Self> {
        match std::os::unix::fs::symlink(to, &path) {
            Ok(()) => Ok(Self(path)),
            Err(_) if fs::read_link(&path).is_ok_and(|there| there == to) => Ok(Self(path)),
            Err(error) => Err(error).with_context(|| {
                format!(
                    "cannot make the link {}; if no other build-ebpf runs, remove it",
                    path.display()
                )
            }),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A link that stays is taken over by the next build.
        let _ = fs::remove_file(&self.0);
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
    fn a_link_is_taken_over_from_the_same_checkout_only_and_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (path, here) = (folder.path().join("link"), folder.path().join("here"));
        std::os::unix::fs::symlink(&here, &path).unwrap();
        assert!(Link::new(path.clone(), &folder.path().join("elsewhere")).is_err());
        drop(Link::new(path.clone(), &here).unwrap());
        assert!(path.symlink_metadata().is_err());
    }

    #[test]
    fn only_the_exact_upstream_version_is_taken() {
        let madison =
            " rust-src | 1.95.01-1 | m Packages\n rust-src | 1.95.0+dfsg1-1 | m Packages\n";
        assert_eq!(debian_version(madison, "1.95.0"), Some("1.95.0+dfsg1-1"));
        assert_eq!(debian_version(madison, "1.94.0"), None);
    }
}
