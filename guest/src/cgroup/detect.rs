//! Finds the hierarchy that has the memory controller, and this process's place in it.
//!
//! The mount table proposes, `statfs` and the controller lists decide; no kernel version is
//! looked at. A host may have v1 and v2 mounted side by side with the controller on either.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use serde::{Deserialize, Serialize};

use super::CgroupError;
use crate::error::PathError;

/// The two kinds of cgroup hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// The hierarchy with the memory controller, and where this process is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryHierarchy {
    /// v1 or v2.
    pub version: CgroupVersion,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// This process's own cgroup; the mount point if the process lies outside the mount.
    pub own: PathBuf,
}

impl MemoryHierarchy {
    /// Looks at the running host.
    ///
    /// # Errors
    /// [`CgroupError::NoController`], or the file that could not be read.
    pub fn detect() -> Result<Self, CgroupError> {
        Self::detect_with(Path::new("/proc/self"), &|path| {
            statfs(path).ok().map(|found| found.filesystem_type())
        })
    }

    /// As [`detect`](Self::detect), with this process's procfs folder and the file system types
    /// from elsewhere.
    fn detect_with(
        proc_self: &Path,
        filesystem: &dyn Fn(&Path) -> Option<FsType>,
    ) -> Result<Self, CgroupError> {
        let mounts = read(&proc_self.join("mountinfo"))?;
        let membership = read(&proc_self.join("cgroup"))?;
        let candidates: Vec<_> = mounts
            .lines()
            .filter_map(Mount::parse)
            .filter(|mount| mount.is_what_it_says(filesystem))
            .collect();
        let found = [CgroupVersion::V1, CgroupVersion::V2]
            .into_iter()
            .find_map(|version| {
                let mut of_version = candidates.iter().filter(|mount| mount.version == version);
                of_version.find(|mount| mount.has_memory())
            });
        let mount = found.ok_or(CgroupError::NoController)?;
        Ok(Self {
            version: mount.version,
            own: mount.own_cgroup(&membership),
            mount: mount.point.clone(),
        })
    }

    /// Where a cgroup of ours may be made, best place first.
    ///
    /// v1: below our own cgroup, else at the root. v2: in the nearest cgroup on the way up that
    /// hands the memory controller to its children (one with processes cannot), else at the
    /// root, where the controller has to be [delegated](Self::needs_delegation) first.
    pub(super) fn parents(&self) -> Vec<PathBuf> {
        if self.version == CgroupVersion::V1 {
            let mut parents = vec![self.own.clone()];
            if self.own != self.mount {
                parents.push(self.mount.clone());
            }
            return parents;
        }
        let ancestors = self.own.ancestors();
        let mut parents: Vec<_> = ancestors
            .take_while(|path| path.starts_with(&self.mount))
            .filter(|path| lists_memory(&subtree_control(path)))
            .map(Path::to_owned)
            .collect();
        if parents.is_empty() {
            parents.push(self.mount.clone());
        }
        parents
    }

    /// Whether children of `parent` do not get the memory controller yet.
    pub(super) fn needs_delegation(&self, parent: &Path) -> bool {
        self.version == CgroupVersion::V2 && !lists_memory(&subtree_control(parent))
    }
}

/// The file that says which controllers the children of a v2 cgroup get.
pub(super) fn subtree_control(cgroup: &Path) -> PathBuf {
    cgroup.join("cgroup.subtree_control")
}

/// One cgroup line of mountinfo.
#[derive(Debug)]
struct Mount {
    version: CgroupVersion,
    /// The directory of the hierarchy that is mounted.
    root: PathBuf,
    point: PathBuf,
    /// Controllers of a v1 hierarchy are mount options.
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (places, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup" => CgroupVersion::V1,
            "cgroup2" => CgroupVersion::V2,
            _ => return None,
        };
        let options = kind.nth(1)?.to_owned();
        let mut places = places.split(' ').skip(3);
        Some(Self {
            version,
            root: unescape(places.next()?),
            point: unescape(places.next()?),
            options,
        })
    }

    fn is_what_it_says(&self, filesystem: &dyn Fn(&Path) -> Option<FsType>) -> bool {
        let expected = match self.version {
            CgroupVersion::V1 => CGROUP_SUPER_MAGIC,
            CgroupVersion::V2 => CGROUP2_SUPER_MAGIC,
        };
        filesystem(&self.point) == Some(expected)
    }

    fn has_memory(&self) -> bool {
        match self.version {
            CgroupVersion::V1 => self.options.split(',').any(|option| option == "memory"),
            CgroupVersion::V2 => lists_memory(&self.point.join("cgroup.controllers")),
        }
    }

    /// This process's directory under the mount point.
    fn own_cgroup(&self, membership: &str) -> PathBuf {
        let path = membership.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let hierarchy = fields.next()?;
            let mut controllers = fields.next()?.split(',');
            let path = fields.next()?;
            let ours = match self.version {
                CgroupVersion::V1 => controllers.any(|controller| controller == "memory"),
                CgroupVersion::V2 => hierarchy == "0",
            };
            ours.then(|| Path::new(path))
        });
        let below = path.and_then(|path| path.strip_prefix(&self.root).ok());
        let own = below.map(|below| self.point.join(below));
        own.filter(|own| own.is_dir())
            .unwrap_or_else(|| self.point.clone())
    }
}

/// mountinfo writes blanks and the like as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n")] {
        text = text.replace(code, plain);
    }
    PathBuf::from(text.replace("\\134", "\\"))
}

/// Whether a space-separated list of controllers in a file has the memory controller.
fn lists_memory(path: &Path) -> bool {
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().any(|name| name == "memory")
}

fn read(path: &Path) -> Result<String, PathError> {
    fs::read_to_string(path).map_err(|cause| PathError::new("read", path, cause))
}

#[cfg(test)]
#[path = "detect_tests.rs"]
mod tests;
