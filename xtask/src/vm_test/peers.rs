//! A tool of others for the matrix: bcc's funclatency, in the build that needs
//! neither Python nor a compiler, with the libraries it is linked to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{debian::PrivateApt, process};

const SUITE: &str = "bookworm";
const PACKAGES: [&str; 4] = ["libbpf-tools", "libelf1", "zlib1g", "libc6"];
/// Where the tool lies in its package, and where it belongs.
const PROGRAM: (&str, &str) = ("usr/sbin/funclatency", "bin/funclatency");
/// Where each library may lie in its package; the loader finds them by the last part.
const LIBRARIES: [&str; 4] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libelf.so.1",
    "libz.so.1",
];
const FOLDERS: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// Files for an initramfs: path there, path here.
pub(super) type Files = Vec<(String, PathBuf)>;

/// Fetches the tool unless it is there.
pub(super) fn fetch() -> Result<Files> {
    let folder = process::workspace().join("target/vm-test/peers");
    if !folder.exists() {
        eprintln!("fetching bcc's funclatency from Debian's {SUITE}");
        let apt = PrivateApt::new("peers", &[SUITE])?;
        let partial = folder.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        apt.unpack(&PACKAGES.map(str::to_owned), &partial)?;
        fs::rename(&partial, &folder)?;
    }
    files(&folder)
}

fn files(folder: &Path) -> Result<Files> {
    let mut files = vec![(PROGRAM.1.to_owned(), folder.join(PROGRAM.0))];
    for library in LIBRARIES {
        let candidates = FOLDERS.map(|part| folder.join(part).join(library));
        let found = candidates.into_iter().find(|path| path.exists());
        let path = found.with_context(|| format!("{} has no {library}", folder.display()))?;
        let place = if library.starts_with("ld-") {
            "lib64"
        } else {
            "lib"
        };
        files.push((format!("{place}/{library}"), path));
    }
    Ok(files)
}
