//! Cgroup detection over fixture directories.

use std::collections::HashMap;

use tempfile::TempDir;

use super::*;

/// A made-up host: mount points below a temporary directory and their file system types.
struct Host {
    dir: TempDir,
    mountinfo: String,
    membership: String,
    types: HashMap<PathBuf, FsType>,
}

impl Host {
    fn new(membership: &str) -> Self {
        Self {
            dir: tempfile::tempdir().expect("temporary directory"),
            mountinfo: "22 1 0:20 / / rw - ext4 /dev/vda rw\nnot a mount line\n".into(),
            membership: membership.into(),
            types: HashMap::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(mut self, name: &str, root: &str, kind: &str, options: &str) -> Self {
        let point = self.path(name);
        fs::create_dir_all(&point).expect("mount point");
        self.mountinfo += &format!(
            "35 31 0:32 {root} {} rw,relatime shared:9 - {kind} {kind} {options}\n",
            point.display()
        );
        let magic = if kind == "cgroup2" {
            CGROUP2_SUPER_MAGIC
        } else {
            CGROUP_SUPER_MAGIC
        };
        self.types.insert(point, magic);
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(path, text).expect("file");
        self
    }

    fn detect(&self) -> Result<MemoryHierarchy, CgroupError> {
        let proc_self = self.path("proc");
        fs::create_dir_all(&proc_self).expect("directory");
        fs::write(proc_self.join("mountinfo"), &self.mountinfo).expect("file");
        fs::write(proc_self.join("cgroup"), &self.membership).expect("file");
        MemoryHierarchy::detect_with(&proc_self, &|path| self.types.get(path).copied())
    }
}

#[test]
fn the_v1_controller_wins_over_a_v2_hierarchy_without_memory() {
    let host = Host::new("9:name=systemd:/\n4:memory:/jobs/one\n0::/\n")
        .mount("unified", "/", "cgroup2", "rw")
        .file("unified/cgroup.controllers", "hugetlb\n")
        .mount("cpu", "/", "cgroup", "rw,cpu")
        .mount("memory", "/", "cgroup", "rw,memory")
        .file("memory/jobs/one/cgroup.procs", "");
    let found = host.detect().expect("memory controller");
    assert_eq!(found.version, CgroupVersion::V1);
    assert_eq!(found.own, host.path("memory/jobs/one"));
    assert_eq!(
        found.parents(),
        [host.path("memory/jobs/one"), host.path("memory")]
    );
}

#[test]
fn a_v1_cgroup_outside_the_mount_falls_back_to_the_mount_point() {
    let host = Host::new("4:cpu,memory:/docker/abc\n").mount(
        "memory",
        "/docker/other",
        "cgroup",
        "rw,cpu,memory",
    );
    let found = host.detect().expect("memory controller");
    assert_eq!(found.own, host.path("memory"));
    assert_eq!(found.parents().len(), 1);
}

#[test]
fn a_bind_mounted_part_of_a_hierarchy_is_seen_from_its_root() {
    let host = Host::new("4:memory:/docker/abc/sub\n")
        .mount("memory", "/docker/abc", "cgroup", "rw,memory")
        .file("memory/sub/cgroup.procs", "");
    assert_eq!(host.detect().expect("found").own, host.path("memory/sub"));
}

#[test]
fn v2_uses_the_nearest_ancestor_that_delegates_memory() {
    let host = Host::new("0::/user/session/app\n")
        .mount("cg", "/", "cgroup2", "rw,nsdelegate")
        .file("cg/cgroup.controllers", "cpu memory pids\n")
        .file("cg/cgroup.subtree_control", "cpu memory\n")
        .file("cg/user/cgroup.subtree_control", "memory\n")
        .file("cg/user/session/cgroup.subtree_control", "pids\n")
        .file("cg/user/session/app/cgroup.subtree_control", "");
    let found = host.detect().expect("memory controller");
    assert_eq!(found.version, CgroupVersion::V2);
    assert_eq!(found.parents(), [host.path("cg/user"), host.path("cg")]);
    assert!(!found.needs_delegation(&host.path("cg/user")));
}

#[test]
fn v2_without_delegation_is_left_with_the_root() {
    let host = Host::new("0::/app\n")
        .mount("cg", "/", "cgroup2", "rw")
        .file("cg/cgroup.controllers", "memory\n")
        .file("cg/cgroup.subtree_control", "\n")
        .file("cg/app/cgroup.subtree_control", "\n");
    let found = host.detect().expect("memory controller");
    assert_eq!(found.parents(), [host.path("cg")]);
    assert!(found.needs_delegation(&host.path("cg")));
}

#[test]
fn no_memory_controller_is_an_error() {
    let plain = Host::new("0::/\n");
    assert!(matches!(plain.detect(), Err(CgroupError::NoController)));
    let without = Host::new("0::/\n")
        .mount("cg", "/", "cgroup2", "rw")
        .file("cg/cgroup.controllers", "cpu memoryx\n")
        .mount("cpu", "/", "cgroup", "rw,cpu");
    assert!(matches!(without.detect(), Err(CgroupError::NoController)));
}

#[test]
fn a_directory_that_only_claims_to_be_a_cgroup_is_ignored() {
    let mut host = Host::new("4:memory:/\n").mount("memory", "/", "cgroup", "rw,memory");
    host.types.clear();
    assert!(matches!(host.detect(), Err(CgroupError::NoController)));
}

#[test]
fn escaped_mount_points_are_read_back() {
    assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    assert_eq!(unescape("/a\\134040"), PathBuf::from("/a\\040"));
}
