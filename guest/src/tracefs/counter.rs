//! Counting events by what they leave in a trace buffer.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Tracefs, TracefsError};
use crate::error::PathError;
use crate::naming;

const PREFIX: &str = "rmapscope-test-";
/// Only the counts are read, so the buffers may be as small as they get, in KiB per CPU.
const BUFFER_KIB: &str = "64";

/// Which aging events are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter {
    /// Host virtual addresses the event's range must lie in.
    pub hva: Range<u64>,
    /// Only events of this thread, as the kernel numbers it.
    pub tid: Option<u32>,
    /// Only events of tasks whose comm does not match this pattern, such as `kdamond*`.
    pub not_comm: Option<String>,
}

impl EventFilter {
    /// All events inside `hva`.
    #[must_use]
    pub fn in_range(hva: Range<u64>) -> Self {
        Self {
            hva,
            tid: None,
            not_comm: None,
        }
    }

    /// The filter for an event whose range is called `first` to `end` (exclusive).
    fn text(&self, first: &str, end: &str) -> String {
        let Range { start, end: limit } = self.hva;
        let below = if first == end { "<" } else { "<=" };
        let mut text = format!("{first} >= {start:#x} && {end} {below} {limit:#x}");
        if let Some(tid) = self.tid {
            text += &format!(" && common_pid == {tid}");
        }
        if let Some(comm) = &self.not_comm {
            text += &format!(" && !(comm ~ \"{comm}\")");
        }
        text
    }
}

/// Aging events seen since the counter was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgingCounts {
    /// `kvm_age_hva`: both flavours of clearing.
    pub age: u64,
    /// `kvm_test_age_hva`.
    pub test_age: u64,
}

/// Counts KVM's aging events; dropping it removes all of its traces.
#[derive(Debug)]
pub struct EventCounter {
    age: Instance,
    test_age: Instance,
    // Dropped last: the instances lie in it.
    _tracefs: Tracefs,
}

impl EventCounter {
    /// Starts to count.
    ///
    /// # Errors
    /// If there is no tracefs for us, the events do not exist or the filter is refused.
    pub fn start(filter: &EventFilter) -> Result<Self, TracefsError> {
        let tracefs = Tracefs::open()?;
        sweep(&instances(&tracefs));
        let age = Instance::create(&tracefs, "kvm_age_hva", &filter.text("start", "end"))?;
        let test_age = Instance::create(&tracefs, "kvm_test_age_hva", &filter.text("hva", "hva"))?;
        Ok(Self {
            age,
            test_age,
            _tracefs: tracefs,
        })
    }

    /// Events counted so far.
    ///
    /// # Errors
    /// If the counts cannot be read, or if events were dropped.
    pub fn counts(&self) -> Result<AgingCounts, TracefsError> {
        Ok(AgingCounts {
            age: self.age.count()?,
            test_age: self.test_age.count()?,
        })
    }
}

fn instances(tracefs: &Tracefs) -> PathBuf {
    tracefs.root().join("instances")
}

/// Removes the instances of dead processes.
fn sweep(instances: &Path) {
    let Ok(entries) = fs::read_dir(instances) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_leftover) {
            // In use by somebody after all: then it is not ours to remove.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn is_leftover(name: &str) -> bool {
    naming::is_dead(name, PREFIX)
}

/// One tracefs instance with one event switched on.
#[derive(Debug)]
struct Instance {
    path: PathBuf,
    event: PathBuf,
}

impl Instance {
    fn create(tracefs: &Tracefs, event: &str, filter: &str) -> Result<Self, TracefsError> {
        let path = instances(tracefs).join(naming::new(PREFIX));
        fs::create_dir(&path).map_err(|cause| PathError::new("create", &path, cause))?;
        let instance = Self {
            event: path.join("events/kvm").join(event),
            path,
        };
        if !instance.event.is_dir() {
            return Err(TracefsError::NoEvent(format!("kvm:{event}")));
        }
        instance.switch_on(filter)?;
        Ok(instance)
    }

    fn switch_on(&self, filter: &str) -> Result<(), TracefsError> {
        write(&self.path.join("buffer_size_kb"), BUFFER_KIB)?;
        let refused = |cause| TracefsError::Filter {
            filter: filter.to_owned(),
            cause,
        };
        fs::write(self.event.join("filter"), filter).map_err(refused)?;
        Ok(write(&self.event.join("enable"), "1")?)
    }

    fn count(&self) -> Result<u64, TracefsError> {
        let per_cpu = self.path.join("per_cpu");
        let failed = |cause| PathError::new("read", &per_cpu, cause);
        let mut total = Tally::default();
        for entry in fs::read_dir(&per_cpu).map_err(failed)? {
            let stats = entry.map_err(failed)?.path().join("stats");
            let text = fs::read_to_string(&stats)
                .map_err(|cause| PathError::new("read", &stats, cause))?;
            let tally = Tally::parse(&text).ok_or_else(|| {
                PathError::new("understand", stats, io::ErrorKind::InvalidData.into())
            })?;
            total.counted += tally.counted;
            total.dropped += tally.dropped;
        }
        match total.dropped {
            0 => Ok(total.counted),
            dropped => Err(TracefsError::Dropped(dropped)),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The next counter sweeps up what cannot be removed now.
        let _ = write(&self.event.join("enable"), "0");
        let _ = fs::remove_dir(&self.path);
    }
}

/// What one CPU's buffer has seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    counted: u64,
    dropped: u64,
}

impl Tally {
    /// Takes a `stats` file apart: counted are the events in the buffer, those overwritten and
    /// those read.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(':')?.trim().parse().ok()
        };
        let counted = [field("entries")?, field("overrun")?, field("read events")?];
        let dropped = [field("commit overrun")?, field("dropped events")?];
        Some(Self {
            counted: counted
                .iter()
                .try_fold(0, |sum: u64, n| sum.checked_add(*n))?,
            dropped: dropped
                .iter()
                .try_fold(0, |sum: u64, n| sum.checked_add(*n))?,
        })
    }
}

fn write(path: &Path, value: &str) -> Result<(), PathError> {
    fs::write(path, value).map_err(|cause| PathError::new("write", path, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_the_range_and_what_narrows_it() {
        let mut filter = EventFilter::in_range(0x1000..0x3000);
        assert_eq!(
            filter.text("start", "end"),
            "start >= 0x1000 && end <= 0x3000"
        );
        assert_eq!(filter.text("hva", "hva"), "hva >= 0x1000 && hva < 0x3000");
        filter.tid = Some(7);
        filter.not_comm = Some("kdamond*".into());
        assert!(
            filter
                .text("hva", "hva")
                .ends_with(" && common_pid == 7 && !(comm ~ \"kdamond*\")")
        );
    }

    #[test]
    fn tallies_add_what_is_there_overwritten_and_read() {
        let text = "entries: 5\noverrun: 7\ncommit overrun: 1\nbytes: 96\noldest event ts: 1.2\n\
                    now ts: 3.4\ndropped events: 2\nread events: 4\n";
        let tally = Tally::parse(text).expect("well-formed");
        assert_eq!(
            tally,
            Tally {
                counted: 16,
                dropped: 3
            }
        );
        assert_eq!(Tally::parse(&text.replace("overrun: 7\n", "")), None);
        assert_eq!(Tally::parse(&text.replace(": 5", ": x")), None);
        let huge = text.replace(": 5", ": 18446744073709551615");
        assert_eq!(Tally::parse(&huge), None);
    }

    #[test]
    fn only_instances_of_dead_processes_are_leftovers() {
        assert!(is_leftover("rmapscope-test-4294967295.0"));
        assert!(!is_leftover(&format!("{PREFIX}{}.0", std::process::id())));
        assert!(!is_leftover("rmapscope-guest-4294967295.0"), "not ours");
    }
}
