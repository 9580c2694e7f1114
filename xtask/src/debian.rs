//! Debian packages without installing them: apt with sources, lists and cache
//! of its own under `target/`, and archives unpacked beside them.
//!
//! The mirror is whatever the host's own apt is configured to use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The keys that Debian signs its archive with; only Debian has them.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Whether Debian packages can be fetched here.
///
/// # Errors
/// What this host lacks.
pub(crate) fn possible() -> Result<(), String> {
    if Path::new(KEYRING).exists() {
        return Ok(());
    }
    Err(
        "this host has no Debian archive keyring, so it cannot fetch Debian packages; on Debian \
         install debian-archive-keyring"
            .to_owned(),
    )
}

/// apt with lists, cache and sources of its own.
pub(crate) struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// apt over these suites of the host's mirror, its lists brought up to
    /// date. `name` keeps several apart.
    ///
    /// # Errors
    /// If the host is not Debian, has no mirror configured or cannot reach it.
    pub(crate) fn new(name: &str, suites: &[&str]) -> Result<Self> {
        if let Err(reason) = possible() {
            bail!(reason);
        }
        let uris = process::output(Command::new("apt-get").args(["update", "--print-uris"]))?;
        let site = archive_site(&uris).context("this host has no Debian mirror configured")?;
        let folder = process::workspace().join("target/apt").join(name);
        for part in ["lists/partial", "cache/archives/partial", "archives"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {site} {suite} main\n"))
            .collect();
        let path = folder.join("sources.list");
        fs::write(&path, sources).with_context(|| format!("cannot write {}", path.display()))?;
        let apt = Self { folder };
        process::output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// An apt program on these lists, in the folder archives are put in.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.join("archives"));
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

    /// Downloads packages (`name` or `name=version`) and unpacks them into
    /// `to`.
    ///
    /// # Errors
    /// If a package does not exist, or cannot be fetched or unpacked.
    pub(crate) fn unpack(&self, packages: &[String], to: &Path) -> Result<()> {
        let archives = self.folder.join("archives");
        clear(&archives)?;
        process::output(self.command("apt-get").arg("download").args(packages))?;
        fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
        for archive in entries(&archives)? {
            let mut extract = Command::new("dpkg-deb");
            process::output(extract.arg("--extract").arg(&archive).arg(to))?;
        }
        clear(&archives)
    }

    /// Names of all packages that match a regular expression, sorted.
    ///
    /// # Errors
    /// If apt fails.
    pub(crate) fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        let found = process::output(command.args(["search", "--names-only", pattern]))?;
        let mut names: Vec<String> = found
            .lines()
            .filter_map(|l| Some(l.split_once(" - ")?.0.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    read.map(|entry| Ok(entry?.path())).collect()
}

fn clear(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        if path.is_file() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
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
}
