//! What stands beside the committed object: its hash, the hash of what it was
//! built from, and the tools.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::process;

/// Folders whose files are the object's sources.
const SOURCES: [&str; 2] = ["profiler-common", "profiler-ebpf"];

/// The tools that decide about the bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tools {
    /// First line of `rustc -vV`, with commit, and its LLVM.
    pub(super) rustc: String,
    pub(super) bpf_linker: String,
    /// Over core's source.
    pub(super) core_sha256: String,
}

impl Tools {
    /// What differs, in words; empty if nothing does.
    pub(super) fn differences(&self, here: &Self) -> Vec<String> {
        let pairs = [
            ("rustc", &self.rustc, &here.rustc),
            ("bpf-linker", &self.bpf_linker, &here.bpf_linker),
            ("core's source", &self.core_sha256, &here.core_sha256),
        ];
        pairs
            .iter()
            .filter(|(_, recorded, here)| recorded != here)
            .map(|(what, recorded, here)| format!("{what} was {recorded}, is {here}"))
            .collect()
    }
}

/// The manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) object_sha256: String,
    /// Over the sources and the locked versions of what they depend on.
    pub(super) sources_sha256: String,
    pub(super) tools: Tools,
}

impl Manifest {
    pub(super) fn new(object: &[u8], tools: Tools) -> Result<Self> {
        Ok(Self {
            object_sha256: sha256(object),
            sources_sha256: sources_sha256()?,
            tools,
        })
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read {}; run `cargo xtask build-ebpf`",
                path.display()
            )
        })?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a manifest of the eBPF object", path.display()))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The hash of some bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash over everything the object is made from, except the tools.
pub(super) fn sources_sha256() -> Result<String> {
    let workspace = process::workspace();
    let mut hash = Sha256::new();
    for folder in SOURCES {
        hash_folder(&mut hash, workspace, &workspace.join(folder))?;
    }
    let lock =
        fs::read_to_string(workspace.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    for package in locked_dependencies(&lock)? {
        hash.update(package);
    }
    Ok(hex(&hash.finalize()))
}

/// The hash over a folder's Rust sources.
pub(super) fn folder_sha256(folder: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    hash_folder(&mut hash, folder, folder)?;
    Ok(hex(&hash.finalize()))
}

/// Adds every `.rs` and `.toml` below `folder`: name, length, bytes, in the
/// order of their names.
fn hash_folder(hash: &mut Sha256, root: &Path, folder: &Path) -> Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("cannot list {}", folder.display()))?;
    entries.sort_unstable();
    for path in entries {
        if path.is_dir() {
            hash_folder(hash, root, &path)?;
            continue;
        }
        if !path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "toml")
        {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hash.update(path.strip_prefix(root)?.to_string_lossy().as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    Ok(())
}

/// The entries of `Cargo.lock` that `profiler-ebpf` depends on, sorted.
fn locked_dependencies(lock: &str) -> Result<Vec<&str>> {
    let packages: Vec<&str> = lock.split("[[package]]").skip(1).map(str::trim).collect();
    let find = |name: &str| {
        packages
            .iter()
            .find(|entry| field(entry, "name") == Some(name))
    };
    let mut todo = vec!["profiler-ebpf"];
    let mut seen: Vec<&str> = Vec::new();
    while let Some(name) = todo.pop() {
        let Some(entry) = find(name) else {
            bail!("Cargo.lock has no package {name}, which the eBPF programs depend on");
        };
        // profiler-common depends on aya for user space only.
        if seen.contains(entry) || name == "aya" {
            continue;
        }
        seen.push(entry);
        todo.extend(dependencies(entry));
    }
    seen.sort_unstable();
    Ok(seen)
}

fn field<'a>(entry: &'a str, key: &str) -> Option<&'a str> {
    let line = entry
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
    Some(line.trim_matches('"'))
}

fn dependencies(entry: &str) -> impl Iterator<Item = &str> {
    let list = entry
        .split_once("dependencies = [")
        .map_or("", |(_, rest)| rest);
    let list = list.split(']').next().unwrap_or("");
    // `"name"`, or `"name version"` where two versions are locked.
    list.split(',')
        .filter_map(|item| item.trim().trim_matches('"').split(' ').next())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
[[package]]
name = "profiler-ebpf"
version = "0.1.0"
dependencies = [
 "aya-ebpf",
 "profiler-common",
]

[[package]]
name = "profiler-common"
version = "0.1.0"
dependencies = [
 "aya",
]

[[package]]
name = "aya"
version = "0.14.0"

[[package]]
name = "aya-ebpf"
version = "0.2.1"
dependencies = [
 "cty 0.3.0",
]

[[package]]
name = "cty"
version = "0.3.0"

[[package]]
name = "unrelated"
version = "1.0.0"
"#;

    #[test]
    fn the_lock_entries_of_the_kernel_side_are_followed_and_no_others() {
        let found = locked_dependencies(LOCK).unwrap();
        let names: Vec<_> = found
            .iter()
            .filter_map(|entry| field(entry, "name"))
            .collect();
        assert_eq!(
            names,
            ["aya-ebpf", "cty", "profiler-common", "profiler-ebpf"]
        );
        assert!(locked_dependencies("").is_err());
    }

    #[test]
    fn a_folder_hash_depends_on_names_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        let hash = || folder_sha256(folder.path()).unwrap();
        let empty = hash();
        fs::write(folder.path().join("a.rs"), "x").unwrap();
        let one = hash();
        assert_ne!(one, empty);
        fs::write(folder.path().join("a.rs"), "y").unwrap();
        let other = hash();
        assert_ne!(other, one);
        fs::rename(folder.path().join("a.rs"), folder.path().join("b.rs")).unwrap();
        assert_ne!(hash(), other);
        fs::write(folder.path().join("notes"), "x").unwrap();
        fs::rename(folder.path().join("b.rs"), folder.path().join("a.rs")).unwrap();
        assert_eq!(hash(), other);
    }
}
