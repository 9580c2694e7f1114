//! Where core's source comes from.
//!
//! The toolchain's own `rust-src` component if it is installed. If not, and the
//! host is Debian, the package `rust-src` of exactly rustc's version, taken
//! from the mirrors this host is configured with through a configuration, lists
//! and cache of our own under `target/`, so that nothing of the host's package
//! state changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::manifest::folder_sha256;
use crate::process;

const SUITE: &str = "trixie-backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
    output(&mut command)
}

/// Runs a program that must succeed and returns what it prints.
fn output(command: &mut Command) -> Result<String> {
    let shown = process::shown(command);
    let out = command
        .output()
        .with_context(|| format!("cannot start: {shown}"))?;
    if !out.status.success() {
        bail!(
            "{} from: {shown}\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Downloads and unpacks Debian's `rust-src` of this version into `to`.
fn fetch(version: &str, to: &Path) -> Result<()> {
    let apt = PrivateApt::new(&process::workspace().join("target/apt"))?;
    eprintln!("fetching Debian's rust-src {version} from {SUITE}");
    output(apt.command("apt-get").arg("update"))?;
    let known = output(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let package = debian_version(&known, version)
        .with_context(|| format!("{SUITE} has no rust-src {version}"))?;
    output(
        apt.command("apt-get")
            .arg("download")
            .arg(format!("rust-src={package}")),
    )?;
    let archive = apt.downloaded("rust-src_")?;
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    output(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&archive)
            .arg(to),
    )?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

/// The Debian version of an upstream version, from `apt-cache madison`.
fn debian_version<'a>(madison: &'a str, upstream: &str) -> Option<&'a str> {
    madison.lines().find_map(|line| {
        let version = line.split('|').nth(1)?.trim();
        let rest = version.strip_prefix(upstream)?;
        rest.starts_with(['+', '-', '~']).then_some(version)
    })
}

/// The address of Debian's archive, from what `apt-get update` would fetch.
fn archive_site(uris: &str) -> Option<&str> {
    uris.lines().find_map(|line| {
        let address = line.strip_prefix('\'')?.split('\'').next()?;
        let (site, suite) = address.strip_suffix("/InRelease")?.split_once("/dists/")?;
        let is_release = suite.chars().all(|c| c.is_ascii_lowercase());
        (is_release && site.ends_with("/debian")).then_some(site)
    })
}

/// apt with lists, cache and sources of its own.
struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    fn new(folder: &Path) -> Result<Self> {
        let uris = output(Command::new("apt-get").args(["update", "--print-uris"]))?;
        let site = archive_site(&uris).context("this host has no Debian mirror configured")?;
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        let sources = folder.join("sources.list");
        fs::write(
            &sources,
            format!("deb [signed-by={KEYRING}] {site} {SUITE} main\n"),
        )
        .with_context(|| format!("cannot write {}", sources.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        let at = |part: &str| self.folder.join(part).display().to_string();
        for (key, value) in [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::State::lists", at("lists")),
            ("Dir::Cache", at("cache")),
            ("Dir::Cache::pkgcache", String::new()),
            ("APT::Sandbox::User", String::new()),
            ("Acquire::Languages", "none".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }

    /// The one package file with this prefix.
    fn downloaded(&self, prefix: &str) -> Result<PathBuf> {
        let entries = fs::read_dir(&self.folder)
            .with_context(|| format!("cannot list {}", self.folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(prefix) && name.ends_with(".deb") {
                return Ok(entry.path());
            }
        }
        bail!(
            "apt-get download left no {prefix}*.deb in {}",
            self.folder.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_found_among_updates_and_security() {
        let uris = "'http://mirror.test/debian-security/dists/bookworm-security/InRelease' a 0\n\
                    'http://mirror.test/debian/dists/bookworm-updates/InRelease' b 0\n\
                    'http://mirror.test/debian/dists/bookworm/InRelease' c 0\n";
        assert_eq!(archive_site(uris), Some("http://mirror.test/debian"));
        assert_eq!(
            archive_site("'http://mirror.test/other/dists/jammy/InRelease' a 0\n"),
            None
        );
    }

    #[test]
    fn only_the_exact_upstream_version_is_taken() {
        let madison =
            " rust-src | 1.95.01-1 | m Packages\n rust-src | 1.95.0+dfsg1-1 | m Packages\n";
        assert_eq!(debian_version(madison, "1.95.0"), Some("1.95.0+dfsg1-1"));
        assert_eq!(debian_version(madison, "1.94.0"), None);
    }
}
