//! Which CPUs a run may use, and pinning threads to them.
//!
//! Invariant: a [`CpuList`] is never empty, names no CPU twice, and, once it went
//! through [`CpuList::check`], names only CPUs that are online and that this
//! process may run on. Every measuring thread pins itself to one CPU of such a
//! list before its start barrier.

use std::fmt;
use std::str::FromStr;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use thiserror::Error;

/// Where the kernel lists the CPUs that are online.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Why a CPU list cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CpuError {
    /// The list names no CPU.
    #[error("the CPU list is empty: name at least one CPU, for example 0-1 or 0,2")]
    Empty,
    /// A part of the list is neither a number nor a range.
    #[error("'{0}' in the CPU list is neither a CPU number nor a range such as 0-3")]
    Syntax(String),
    /// A range ends before it starts.
    #[error("the CPU range {0}-{1} ends before it starts")]
    Backwards(usize, usize),
    /// A CPU is named twice.
    #[error("CPU {0} is named twice in the CPU list: name each CPU once")]
    Overlap(usize),
    /// A CPU is not online.
    #[error("CPU {cpu} is not online: the CPUs online are {online}")]
    Offline {
        /// The CPU asked for.
        cpu: usize,
        /// The CPUs that are online.
        online: String,
    },
    /// A cpuset or an affinity mask forbids a CPU.
    #[error(
        "CPU {cpu} is forbidden to this process by its cgroup or affinity: it may use {allowed}"
    )]
    Forbidden {
        /// The CPU asked for.
        cpu: usize,
        /// The CPUs this process may use.
        allowed: String,
    },
    /// More threads than CPUs.
    #[error(
        "{threads} threads need {threads} CPUs, but the CPU list {cpus} has {available}: ask for fewer threads or more CPUs"
    )]
    TooFew {
        /// Threads asked for.
        threads: usize,
        /// CPUs in the list.
        available: usize,
        /// The list.
        cpus: String,
    },
    /// No two CPUs of the list share a core.
    #[error(
        "--placement smt needs two hardware threads of one core, and the CPUs {0} have none: choose other CPUs or another placement"
    )]
    NoSiblings(String),
    /// The kernel did not answer.
    #[error("could not {what}: {reason}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        reason: String,
    },
}

/// CPU numbers in the order the user gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// The CPUs that are online and allowed to this process.
    ///
    /// # Errors
    /// When the kernel's lists cannot be read or have no CPU in common.
    pub fn usable() -> Result<Self, CpuError> {
        let (online, allowed) = (online()?, allowed()?);
        let both: Vec<_> = online
            .0
            .into_iter()
            .filter(|c| allowed.0.contains(c))
            .collect();
        Self::from_cpus(both)
    }

    /// A list of exactly these CPUs.
    ///
    /// # Errors
    /// When it is empty or names a CPU twice.
    pub fn from_cpus(cpus: Vec<usize>) -> Result<Self, CpuError> {
        if cpus.is_empty() {
            return Err(CpuError::Empty);
        }
        for (i, cpu) in cpus.iter().enumerate() {
            if cpus[..i].contains(cpu) {
                return Err(CpuError::Overlap(*cpu));
            }
        }
        Ok(Self(cpus))
    }

    /// Checks that every CPU is online and allowed.
    ///
    /// # Errors
    /// Names the first CPU that is not.
    pub fn check(self) -> Result<Self, CpuError> {
        let (online, allowed) = (online()?, allowed()?);
        self.check_against(&online, &allowed)?;
        Ok(self)
    }

    fn check_against(&self, online: &Self, allowed: &Self) -> Result<(), CpuError> {
        for &cpu in &self.0 {
            if !online.0.contains(&cpu) {
                return Err(CpuError::Offline {
                    cpu,
                    online: online.to_string(),
                });
            }
            if !allowed.0.contains(&cpu) {
                return Err(CpuError::Forbidden {
                    cpu,
                    allowed: allowed.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The first `threads` CPUs, one per thread.
    ///
    /// # Errors
    /// When the list is shorter than that.
    pub fn first(&self, threads: usize) -> Result<&[usize], CpuError> {
        self.0.get(..threads).ok_or_else(|| CpuError::TooFew {
            threads,
            available: self.0.len(),
            cpus: self.to_string(),
        })
    }

    /// The CPU a single-threaded measurement runs on.
    #[must_use]
    pub fn leader(&self) -> usize {
        self.0[0]
    }

    /// All CPUs, in the order given.
    #[must_use]
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for CpuList {
    type Err = CpuError;

    /// Reads the kernel's list format: numbers and ranges, separated by commas.
    fn from_str(text: &str) -> Result<Self, CpuError> {
        if text.trim().is_empty() {
            return Err(CpuError::Empty);
        }
        let mut cpus = Vec::new();
        for part in text.trim().split(',') {
            let (first, last) = parse_part(part.trim())?;
            cpus.extend(first..=last);
        }
        Self::from_cpus(cpus)
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut separator = "";
        while let [first, ..] = rest {
            let run = rest
                .iter()
                .zip(*first..)
                .take_while(|(a, b)| *a == b)
                .count();
            let last = rest[run - 1];
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

fn parse_part(part: &str) -> Result<(usize, usize), CpuError> {
    let number = |text: &str| {
        let cpu: usize = text
            .trim()
            .parse()
            .map_err(|_| CpuError::Syntax(part.to_owned()))?;
        if cpu >= CpuSet::count() {
            return Err(CpuError::Syntax(part.to_owned()));
        }
        Ok(cpu)
    };
    let Some((first, last)) = part.split_once('-') else {
        let cpu = number(part)?;
        return Ok((cpu, cpu));
    };
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(CpuError::Backwards(first, last));
    }
    Ok((first, last))
}

fn online() -> Result<CpuList, CpuError> {
    std::fs::read_to_string(ONLINE)
        .map_err(|e| system(&format!("read {ONLINE}"), &e.to_string()))?
        .parse()
}

fn allowed() -> Result<CpuList, CpuError> {
    let set = sched_getaffinity(Pid::from_raw(0))
        .map_err(|e| system("read this process's CPU affinity", e.desc()))?;
    CpuList::from_cpus(
        (0..CpuSet::count())
            .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
            .collect(),
    )
}

fn system(what: &str, reason: &str) -> CpuError {
    CpuError::System {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// When the kernel refuses, for example because the CPU went offline.
pub fn pin_current_thread(cpu: usize) -> Result<(), CpuError> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|e| system(&format!("pin a thread to CPU {cpu}"), e.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(cpus: &[usize]) -> CpuList {
        CpuList(cpus.to_vec())
    }

    #[test]
    fn numbers_and_ranges_are_read_in_the_order_given() {
        assert_eq!("3,0-1".parse(), Ok(list(&[3, 0, 1])));
        assert_eq!(" 0 - 2 , 5\n".parse(), Ok(list(&[0, 1, 2, 5])));
    }

    #[test]
    fn a_list_is_printed_as_the_kernel_prints_it() {
        for text in ["0", "0-3", "3,0-1", "0,2,4-7"] {
            assert_eq!(text.parse::<CpuList>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn empty_lists_are_refused() {
        for text in ["", "  ", "\n"] {
            assert_eq!(text.parse::<CpuList>(), Err(CpuError::Empty));
        }
        // As where no CPU that is online is allowed.
        assert_eq!(CpuList::from_cpus(Vec::new()), Err(CpuError::Empty));
    }

    #[test]
    fn overlapping_lists_are_refused() {
        assert_eq!("0-2,2".parse::<CpuList>(), Err(CpuError::Overlap(2)));
        assert_eq!("1,1".parse::<CpuList>(), Err(CpuError::Overlap(1)));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for part in ["x", "1-", "-1", "1-2-3", "99999999", "0x1"] {
            let text = format!("0,{part}");
            assert_eq!(
                text.parse::<CpuList>(),
                Err(CpuError::Syntax(part.to_owned())),
                "{text}"
            );
        }
        assert_eq!("3-1".parse::<CpuList>(), Err(CpuError::Backwards(3, 1)));
        assert_eq!(
            "0,,1".parse::<CpuList>(),
            Err(CpuError::Syntax(String::new()))
        );
    }

    #[test]
    fn offline_and_forbidden_cpus_are_told_apart() {
        let wanted = list(&[0, 2]);
        assert_eq!(
            wanted.check_against(&list(&[0, 1]), &list(&[0, 1])),
            Err(CpuError::Offline {
                cpu: 2,
                online: "0-1".to_owned()
            })
        );
        assert_eq!(
            wanted.check_against(&list(&[0, 1, 2]), &list(&[0, 1])),
            Err(CpuError::Forbidden {
                cpu: 2,
                allowed: "0-1".to_owned()
            })
        );
        assert_eq!(
            wanted.check_against(&list(&[0, 1, 2]), &list(&[0, 1, 2])),
            Ok(())
        );
    }

    #[test]
    fn more_threads_than_cpus_are_refused() {
        assert_eq!(list(&[4, 2]).first(2), Ok(&[4, 2][..]));
        assert!(matches!(
            list(&[4, 2]).first(3),
            Err(CpuError::TooFew {
                threads: 3,
                available: 2,
                ..
            })
        ));
    }

    #[test]
    fn a_pinned_thread_runs_on_its_cpu() {
        let cpu = CpuList::usable().unwrap().leader();
        std::thread::spawn(move || {
            pin_current_thread(cpu).unwrap();
            assert_eq!(allowed().unwrap(), list(&[cpu]));
            assert_eq!(nix::sched::sched_getcpu(), Ok(cpu));
        })
        .join()
        .unwrap();
    }
}
