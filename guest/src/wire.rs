//! What the `guest` binary prints with `--json`, for the programs that start it: one line when the
//! guest is ready, one for every request, and one when it has ended.

use serde::{Deserialize, Serialize};

use crate::{Backing, CgroupVersion, Driver, Guest, GuestError, GuestReport, KvmStats};

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Line {
    /// The guest has done its first pass, and its driver is at work.
    Ready(Ready),
    /// How far the guest is, because a line on stdin asked for it.
    Progress(Progress),
    /// The guest was stopped, and nothing of it is left.
    End(End),
}

/// The guest as it is once ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The process the VM belongs to.
    pub pid: u32,
    /// First host virtual address of the data pages.
    pub hva_start: u64,
    /// Bytes of data pages.
    pub hva_len: u64,
    /// Data pages.
    pub pages: u64,
    /// Aliases of each.
    pub aliases: u64,
    /// Whether the guest is an L1 whose L2 uses the pages.
    pub nested: bool,
    /// What the data pages are made of.
    pub backing: Backing,
    /// Whether the guest writes.
    pub write: bool,
    /// Who makes the kernel age the memory.
    pub driver: Driver,
    /// Kind of the cgroup the process is in, if the driver needs one.
    pub cgroup_version: Option<CgroupVersion>,
    /// That cgroup's directory.
    pub cgroup: Option<String>,
    /// KVM's statistics after the first pass, before the driver started.
    pub stats: KvmStats,
}

impl Ready {
    /// Describes `guest`, whose driver does not run yet.
    ///
    /// # Errors
    /// If KVM's statistics cannot be read.
    pub fn of(guest: &Guest) -> Result<Self, GuestError> {
        let config = guest.config();
        let memory = guest.memory();
        let cgroup = guest.cgroup();
        Ok(Self {
            pid: std::process::id(),
            hva_start: memory.start,
            hva_len: memory.end - memory.start,
            pages: config.pages,
            aliases: config.aliases,
            nested: config.nested,
            backing: config.backing,
            write: config.write,
            driver: config.driver,
            cgroup_version: cgroup.map(|(version, _)| version),
            cgroup: cgroup.map(|(_, path)| path.display().to_string()),
            stats: guest.stats()?,
        })
    }
}

/// How far the guest is, told on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Passes so far.
    pub passes: u64,
    /// How long one iteration of the driver took that the request set off, in nanoseconds; the
    /// guest stood still meanwhile. `None` if it has no driver.
    pub aged_ns: Option<u64>,
}

/// What the guest did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why it was stopped: `time`, `stdin closed`, `parent died` or a signal's name.
    pub stopped_by: String,
    /// The guest's own report.
    #[serde(flatten)]
    pub report: GuestReport,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_wire() {
        let line = Line::End(End {
            stopped_by: "time".into(),
            report: GuestReport {
                passes: 3,
                pages: 512,
                aliases: 4,
                sptes_4k: None,
                driver_iterations: 2,
                exit_reason: "stopped by the host".into(),
                stats: KvmStats::default(),
            },
        });
        let text = serde_json::to_string(&line).expect("serialises");
        assert!(text.starts_with(r#"{"event":"end","stopped_by":"time","passes":3"#));
        assert_eq!(serde_json::from_str::<Line>(&text).expect("parses"), line);
    }
}
