//! Looking for VMs and at their rmaps while a session lasts, and telling the
//! kernel side what changed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use aya::maps::MapError;
use profiler_common::exact::VmAt;

use super::Session;
use crate::{
    census::Scanner,
    object,
    tables::Walker,
    vms::{Changes, FindError},
};

/// Time between two looks for new, changed and ended VMs.
const REFRESH: Duration = Duration::from_secs(1);
/// A look may take this share of the time between two.
const REFRESH_SHARE: u32 = 50;

/// When a look that took this long is due again.
fn due_after(took: Duration) -> Duration {
    REFRESH.max(took * REFRESH_SHARE)
}

/// What looking for VMs missed, summed over all looks.
#[derive(Debug, Default)]
pub(crate) struct FindProblems {
    /// The most at one look: what finds no room does so at every look.
    pub(crate) did_not_fit: u64,
    pub(crate) faults: u64,
    pub(crate) changed: u64,
}

impl Session<'_> {
    /// Chain lengths at the start; a VM that ends meanwhile has none.
    pub(crate) fn take_census(&mut self) -> Result<()> {
        let mut scanner = Scanner::new(&mut self.ebpf, &self.kernel.btf)?;
        let mut walker = Walker::new(&mut self.ebpf, self.kernel);
        for tracked in self.registry.alive_mut() {
            let read = walker.walk(&tracked.found).and_then(|tables| {
                tracked.tdp = tables;
                scanner.scan(&tracked.found, false)
            });
            match read {
                Ok(levels) => {
                    let number = u32::from(tracked.number);
                    self.census
                        .extend(levels.iter().map(|level| level.record(0, number)));
                }
                Err(FindError::Gone(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.scanner = Some(scanner);
        Ok(())
    }

    /// Reads the heads of the census again if that is due, while callbacks
    /// come: how many are locked at a time.
    pub(crate) fn look_again(&mut self) -> Result<()> {
        let began = Instant::now();
        if began < self.next_look {
            return Ok(());
        }
        let Some(scanner) = &mut self.scanner else {
            return Ok(());
        };
        for tracked in self.registry.alive() {
            let number = u32::from(tracked.number);
            let known = self.census.iter_mut().filter(|record| record.vm == number);
            let mut known = known.peekable();
            if known.peek().is_none() {
                continue;
            }
            match scanner.scan(&tracked.found, false) {
                Ok(levels) => known.for_each(|record| {
                    levels.iter().for_each(|level| level.add_again(record));
                }),
                Err(FindError::Gone(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.next_look = began + due_after(began.elapsed());
        Ok(())
    }

    /// Looks for VMs and tells the kernel side what changed; returns the
    /// time to wait before the next look.
    ///
    /// # Errors
    /// If KVM was unloaded: nothing that was read about it holds any more.
    pub(crate) fn refresh(&mut self) -> Result<Duration> {
        if !self.kernel.has_same_kvm() {
            bail!("KVM was unloaded, and what was known about it with it; start again");
        }
        let began = Instant::now();
        // All of them: an address of the recorded VM may be one of another's too.
        let mut inventory = self.finder.find(None)?;
        let foreign = inventory.take_foreign(self.observe.pid, &self.foreign);
        let problems = &mut self.find_problems;
        problems.did_not_fit = problems.did_not_fit.max(inventory.totals.did_not_fit);
        problems.faults += inventory.totals.faults;
        problems.changed += inventory.totals.changed;
        self.spare_statistics()?;
        let now_s = match self.probes {
            Some(_) => self.start.at.elapsed().as_secs_f64(),
            None => 0.0,
        };
        let foreign_changed = foreign != self.foreign;
        self.foreign = foreign;
        let changes = self.registry.update(inventory, now_s);
        if changes.any() || foreign_changed {
            self.intervals
                .publish(self.registry.alive(), &self.foreign)?;
        }
        if changes.of_vms() {
            self.number_vms(&changes)?;
            self.log_changes(&changes);
        }
        Ok(due_after(began.elapsed()))
    }

    /// Logs which VMs came and went, once the kernel side knows.
    fn log_changes(&self, changes: &Changes) {
        for (number, vm) in &changes.found {
            log::info!("VM {number} found: pid {}", vm.tgid);
        }
        for (number, vm) in &changes.gone {
            log::info!("VM {number} ended: pid {}", vm.tgid);
        }
    }

    /// Tells the kernel side whose `struct kvm`, `mm_struct` and `mmu_lock`
    /// belong to which number.
    fn number_vms(&mut self, changes: &Changes) -> Result<(), MapError> {
        let lock_offset = self.kernel.layout.offset("KVM_MMU_LOCK");
        let lock_offset = u64::from(lock_offset.unwrap_or_default());
        for (_, vm) in &changes.gone {
            object::ignore_missing(self.vm_numbers.remove(&vm.kvm))?;
            object::ignore_missing(self.mm_numbers.remove(&vm.mm))?;
            object::ignore_missing(self.mmu_locks.remove(&(vm.kvm + lock_offset)))?;
        }
        self.has_gone |= !changes.gone.is_empty();
        // All of them: one that is gone may have had the address space of one that is not.
        for vm in self.registry.alive() {
            let (number, vm) = (u32::from(vm.number), &vm.found.vm);
            let known = VmAt {
                number,
                userspace_pid: vm.userspace_pid,
            };
            self.vm_numbers.insert(vm.kvm, known, 0)?;
            self.mm_numbers.insert(vm.mm, number, 0)?;
            self.mmu_locks.insert(vm.kvm + lock_offset, known, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_takes_at_most_a_small_share_of_the_time_between_two() {
        assert_eq!(due_after(Duration::from_millis(1)), REFRESH);
        // As of a host with so much guest memory that its heads take seconds.
        assert_eq!(due_after(Duration::from_secs(3)), Duration::from_secs(150));
    }
}
