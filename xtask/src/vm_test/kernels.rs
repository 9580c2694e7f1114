//! The stock kernels of the matrix: which packages they come in, and what of
//! them a boot needs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{debian::PrivateApt, process};

/// A kernel of Debian's.
pub(super) struct Stock {
    /// The version tables print.
    pub(super) version: &'static str,
    /// Debian's suite.
    suite: &'static str,
    /// Patterns of the packages' names; of several matches the newest is taken.
    packages: &'static [&'static str],
    /// Whether it is booted without being asked for.
    pub(super) is_always: bool,
}

/// The matrix, oldest first. The cloud flavours are small and have what is
/// needed built in: NVMe, ext4, BTF, kprobes.
pub(super) const STOCK: [Stock; 6] = [
    Stock {
        version: "6.1",
        suite: "bookworm",
        packages: &["^linux-image-6\\.1\\.0-[0-9]+-cloud-amd64-unsigned$"],
        is_always: true,
    },
    Stock {
        version: "6.12",
        suite: "trixie",
        packages: &["^linux-image-6\\.12\\.[0-9]+[+]deb13-cloud-amd64-unsigned$"],
        is_always: true,
    },
    Stock {
        version: "6.16",
        suite: "trixie-backports",
        packages: &["^linux-image-6\\.16\\.[0-9]+[+]deb13-cloud-amd64$"],
        is_always: false,
    },
    Stock {
        version: "6.18",
        suite: "trixie-backports",
        packages: &["^linux-image-6\\.18\\.[0-9]+[+]deb13-cloud-amd64$"],
        is_always: false,
    },
    Stock {
        version: "7.2",
        suite: "trixie-backports",
        packages: &[
            "^linux-binary-unsigned-7\\.2\\.[0-9]+[+]deb13-cloud-amd64$",
            "^linux-modules-7\\.2\\.[0-9]+[+]deb13-cloud-amd64$",
        ],
        is_always: false,
    },
    Stock {
        version: "7.3",
        suite: "trixie-backports",
        packages: &[
            "^linux-binary-unsigned-7\\.3\\.[0-9]+[+]deb13-cloud-amd64$",
            "^linux-modules-7\\.3\\.[0-9]+[+]deb13-cloud-amd64$",
        ],
        is_always: true,
    },
];

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// What it is called.
    pub(super) version: String,
    /// Whether it is one of the matrix, of which is known what it must be able to do.
    pub(super) is_stock: bool,
    /// Its image.
    pub(super) image: PathBuf,
    /// The folder `kernel/` of its modules.
    pub(super) modules: PathBuf,
}

impl Stock {
    /// Fetches and unpacks the kernel's packages unless they are there.
    pub(super) fn fetch(&self) -> Result<Kernel> {
        let folder = process::workspace()
            .join("target/vm-test/kernels")
            .join(self.version);
        if !folder.exists() {
            eprintln!(
                "fetching Linux {} from Debian's {}",
                self.version, self.suite
            );
            let apt = PrivateApt::new(self.suite, &[self.suite])?;
            let mut names = Vec::new();
            for pattern in self.packages {
                let newest = newest(apt.search(pattern)?);
                names.push(newest.with_context(|| format!("{} has no {pattern}", self.suite))?);
            }
            let partial = folder.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            apt.unpack(&names, &partial)?;
            fs::rename(&partial, &folder)?;
        }
        Kernel::find(self.version, &folder)
    }
}

impl Kernel {
    /// Finds image and modules below a folder of unpacked packages.
    fn find(version: &str, folder: &Path) -> Result<Self> {
        let image = search(folder, &|p| {
            p.is_file() && file_name(p).is_some_and(|n| n.starts_with("vmlinuz"))
        });
        let modules = search(folder, &|p| p.is_dir() && p.join("arch/x86/kvm").is_dir());
        Ok(Self {
            version: version.to_owned(),
            is_stock: true,
            image: image.with_context(|| format!("no kernel image below {}", folder.display()))?,
            modules: modules
                .with_context(|| format!("no KVM modules below {}", folder.display()))?,
        })
    }

    /// A kernel the user has.
    pub(super) fn of_user(image: &Path, modules: &Path) -> Result<Self> {
        let found = search(modules, &|p| p.is_dir() && p.join("arch/x86/kvm").is_dir());
        let version = file_name(image).unwrap_or("user's").to_owned();
        Ok(Self {
            version,
            is_stock: false,
            image: image.to_owned(),
            modules: found.with_context(|| {
                format!("--modules {}: no KVM modules there", modules.display())
            })?,
        })
    }
}

/// The newest of several package names: the one whose numbers are largest.
fn newest(names: Vec<String>) -> Option<String> {
    let numbers = |name: &String| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse().ok())
            .collect()
    };
    names.into_iter().max_by_key(numbers)
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The first path below `folder` that `wanted` accepts, depth first.
fn search(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .collect();
    entries.sort();
    entries.into_iter().find_map(|path| {
        if wanted(&path) {
            return Some(path);
        }
        // Debian's packages link lib to usr/lib; links are not followed.
        if path.is_symlink() {
            None
        } else {
            search(&path, wanted)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_taken_by_number_not_by_spelling() {
        let names = [
            "linux-6.12.9+deb13",
            "linux-6.12.107+deb13",
            "linux-6.12.94+deb13",
        ];
        assert_eq!(newest(names.map(str::to_owned).to_vec()).unwrap(), names[1]);
    }
}
