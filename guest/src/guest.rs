//! A running guest, from its start to its report.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupVersion, Memcg};
use crate::config::{Driver, GuestConfig};
use crate::driver::{
    Aging, Damon, DriverError, DriverLoop, Khugepaged, Mglru, Plan, Reclaim, SharedDriver, age_held,
};
use crate::error::{GuestError, PathError};
use crate::stats::KvmStats;
use crate::vcpu::{Pauser, Vcpu};
use crate::vm::Machine;

/// A guest that has done its first full pass. Dropping it stops it and cleans up.
pub struct Guest {
    config: GuestConfig,
    // Fields drop in this order: nobody ages, nobody runs, no memory, no cgroup.
    driving: Option<DriverLoop>,
    driver: Option<SharedDriver>,
    vcpu: Vcpu,
    machine: Arc<Machine>,
    memcg: Option<Memcg>,
}

/// What a guest did, told when it is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Full passes over all pages through all aliases.
    pub passes: u64,
    /// Data pages.
    pub pages: u64,
    /// Aliases of each.
    pub aliases: u64,
    /// SPTEs of 4 KiB mapped at the end, to compare with `pages` × `aliases`: equal but for a few
    /// of the guest's own under shadow paging, `pages` at most under two-dimensional paging.
    /// `None` where KVM does not count them.
    pub sptes_4k: Option<u64>,
    /// Iterations of the driver, by loop and by hand.
    pub driver_iterations: u64,
    /// Why the vCPU ended.
    pub exit_reason: String,
    /// All statistics of the VM at the end.
    pub stats: KvmStats,
}

impl Guest {
    /// Starts a guest and returns when it has touched every page through every alias once.
    ///
    /// A guest with the driver [`Driver::Reclaim`] or [`Driver::Mglru`] moves this whole process into a memory cgroup
    /// of its own until the guest is dropped, so a process can have one such guest at a time.
    ///
    /// # Errors
    /// If the configuration cannot be met or the host lacks what it takes; nothing is left behind.
    pub fn start(config: GuestConfig) -> Result<Self, GuestError> {
        Self::start_unless(config, &|| false)
    }

    /// As [`start`](Self::start), but gives up with [`GuestError::Cancelled`] when `cancelled`
    /// says so.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_unless(
        config: GuestConfig,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self, GuestError> {
        config.validate()?;
        config.validate_memory(available_memory()?)?;
        // Pages are charged to the cgroup of whoever brings them in, so join it before any is.
        let memcg = match config.driver {
            Driver::Reclaim | Driver::Mglru => Some(Memcg::join()?),
            Driver::None | Driver::Khugepaged | Driver::Damon => None,
        };
        let (machine, vcpu) = Machine::new(&config)?;
        let machine = Arc::new(machine);
        let vcpu = Vcpu::start(Arc::clone(&machine), vcpu, config.idle)?;
        vcpu.handle()
            .wait_for_passes(1, config.pass_timeout, cancelled)?;
        let driver = prepare(&config, memcg.as_ref(), &machine)?;
        Ok(Self {
            config,
            driving: None,
            driver,
            vcpu,
            machine,
            memcg,
        })
    }

    /// What was asked for.
    #[must_use]
    pub fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// Host virtual addresses of the data pages.
    #[must_use]
    pub fn memory(&self) -> Range<u64> {
        self.machine.data().hva()
    }

    /// Full passes done so far.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.vcpu.handle().passes()
    }

    /// The cgroup this process is in for the guest's sake.
    #[must_use]
    pub fn cgroup(&self) -> Option<(CgroupVersion, &Path)> {
        self.memcg
            .as_ref()
            .map(|memcg| (memcg.version(), memcg.path()))
    }

    /// Takes the vCPU out of the guest. From the return on it touches nothing until
    /// [`resume`](Self::resume). A driving loop goes on, but one that [holds](GuestConfig::hold)
    /// the guest waits for it to run, and fails after [`GuestConfig::pass_timeout`].
    ///
    /// # Errors
    /// If the guest has ended, or does not answer.
    pub fn pause(&self) -> Result<(), GuestError> {
        self.vcpu.handle().pause(Pauser::Caller)
    }

    /// Lets a paused guest go on where it was.
    ///
    /// # Errors
    /// If the guest has ended.
    pub fn resume(&self) -> Result<(), GuestError> {
        self.vcpu.handle().resume(Pauser::Caller)
    }

    /// Adds memory while the guest runs, as hot-plugging does: `count` memslots of `pages` pages
    /// each, of one size as long as any is there. The guest does not touch it.
    ///
    /// # Errors
    /// If memory or memslots run out; what was added until then stays.
    pub fn plug(&self, count: u32, pages: u64) -> Result<(), GuestError> {
        self.machine.plug(count, pages)
    }

    /// Removes the `count` memslots that were [added](Self::plug) last, or as many as there are.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn unplug(&self, count: u32) -> Result<(), GuestError> {
        self.machine.unplug(count)
    }

    /// Drops every data page: the guest faults each in again.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn discard(&self) -> Result<(), GuestError> {
        Ok(self.machine.data().discard()?)
    }

    /// KVM's statistics of this VM now.
    ///
    /// # Errors
    /// If KVM's file cannot be read.
    pub fn stats(&self) -> Result<KvmStats, GuestError> {
        Ok(self.machine.stats()?)
    }

    /// Fails with the reason if the vCPU or a driving loop ended by itself.
    ///
    /// # Errors
    /// [`GuestError::Exited`] or the driver's error.
    pub fn check(&mut self) -> Result<(), GuestError> {
        self.vcpu.handle().check()?;
        if self.driving.as_ref().is_some_and(DriverLoop::has_failed) {
            self.stop_driving()?;
        }
        Ok(())
    }

    /// Makes the kernel age the guest's memory once, in this thread; returns when it has.
    ///
    /// # Errors
    /// If the guest has no driver, or the driver fails.
    pub fn drive_once(&self) -> Result<(), GuestError> {
        Ok(self.driver()?.age_once()?)
    }

    /// As [`drive_once`](Self::drive_once), but keeps the guest paused meanwhile and lets it touch
    /// everything again afterwards: the next call finds the same work. Returns how long the aging
    /// took.
    ///
    /// # Errors
    /// As for [`drive_once`](Self::drive_once), or if the guest does not touch everything within
    /// [`GuestConfig::pass_timeout`].
    pub fn drive_held(&self) -> Result<Duration, GuestError> {
        let (driver, vcpu) = (self.driver()?, self.vcpu.handle());
        age_held(driver, vcpu, self.config.pass_timeout, &|| false)
    }

    /// Starts aging in a loop, with the configured pause between iterations. Does nothing if the
    /// loop runs already.
    ///
    /// # Errors
    /// If the guest has no driver, or no thread can be started.
    pub fn start_driving(&mut self) -> Result<(), GuestError> {
        if self.driving.is_none() {
            let driver = self.driver()?.clone();
            let plan = Plan {
                pause: self.config.driver_pause,
                hold: self.config.hold,
                pass_timeout: self.config.pass_timeout,
            };
            let vcpu = self.vcpu.handle().clone();
            self.driving = Some(DriverLoop::start(driver, vcpu, plan)?);
        }
        Ok(())
    }

    /// Ends the loop after the iteration that runs.
    ///
    /// # Errors
    /// If an iteration failed.
    pub fn stop_driving(&mut self) -> Result<(), GuestError> {
        match self.driving.take() {
            Some(mut driving) => driving.stop(),
            None => Ok(()),
        }
    }

    /// Iterations of the driver so far.
    #[must_use]
    pub fn driver_iterations(&self) -> u64 {
        self.driver.as_ref().map_or(0, SharedDriver::iterations)
    }

    /// Stops the guest, cleans up and tells what it did.
    ///
    /// # Errors
    /// If the vCPU does not stop, a driving loop had failed, or the statistics cannot be read.
    pub fn stop(mut self) -> Result<GuestReport, GuestError> {
        self.quiesce();
        self.stop_driving()?;
        let exit_reason = self.vcpu.stop()?;
        let stats = self.stats()?;
        Ok(GuestReport {
            passes: self.passes(),
            pages: self.config.pages,
            aliases: self.config.aliases,
            sptes_4k: stats.sptes_4k(),
            driver_iterations: self.driver_iterations(),
            exit_reason,
            stats,
        })
    }

    /// Lets a reclaim that is under way come to its end: a running guest brings back what it takes.
    fn quiesce(&self) {
        // A vCPU that ended or does not answer is reported when it is stopped.
        let _ = self.pause();
    }

    fn driver(&self) -> Result<&SharedDriver, DriverError> {
        self.driver.as_ref().ok_or(DriverError::NoDriver)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.quiesce();
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("config", &self.config)
            .field("memory", &self.memory())
            .field("passes", &self.passes())
            .finish_non_exhaustive()
    }
}

fn prepare(
    config: &GuestConfig,
    memcg: Option<&Memcg>,
    machine: &Arc<Machine>,
) -> Result<Option<SharedDriver>, GuestError> {
    let aging: Box<dyn Aging> = match (config.driver, memcg) {
        (Driver::Reclaim, Some(memcg)) => Box::new(Reclaim::new(memcg, config)?),
        (Driver::Khugepaged, _) => Box::new(Khugepaged::new(Arc::clone(machine))?),
        (Driver::Mglru, Some(memcg)) => Box::new(Mglru::new(memcg)?),
        (Driver::Damon, _) => Box::new(Damon::new(machine.data().hva())?),
        (Driver::None | Driver::Reclaim | Driver::Mglru, _) => return Ok(None),
    };
    Ok(Some(SharedDriver::new(aging)))
}

/// Memory the host could give without swapping, in bytes.
fn available_memory() -> Result<u64, PathError> {
    let path = PathBuf::from("/proc/meminfo");
    let text =
        std::fs::read_to_string(&path).map_err(|cause| PathError::new("read", &path, cause))?;
    parse_available(&text).ok_or_else(|| {
        PathError::new(
            "find MemAvailable in",
            path,
            std::io::ErrorKind::InvalidData.into(),
        )
    })
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_found_or_missed_without_a_guess() {
        let text = "MemTotal:  100 kB\nMemAvailable:   42 kB\n";
        assert_eq!(parse_available(text), Some(42 * 1024));
        for broken in ["", "MemAvailable:", "MemAvailable: x kB", "MemAvailable: 1"] {
            assert_eq!(parse_available(broken), None, "{broken}");
        }
    }
}
