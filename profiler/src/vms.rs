//! Finding the host's VMs and keeping track of them through a recording.
//!
//! [`Finder`] runs the enumeration program; [`Registry`] gives every VM a
//! number that stays its own: a VM that ends keeps its number and is marked
//! gone, and one that later reuses the same kernel address gets a new one.

use std::{fs, io, os::fd::AsFd as _};

use aya::{
    Btf, Ebpf,
    maps::{Array, MapData, MapError},
    programs::{Iter, Program, ProgramError, ProgramFd},
};
use profiler_common::census;
use report::{Observed, schema::TdpTables};

use crate::{
    hooks::explain,
    iterator::Reader,
    object::{self, ObjectError},
};

/// Times an enumeration is repeated because memslots changed under it.
const TRIES: u32 = 4;

/// Why VMs could not be enumerated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    /// The program was refused.
    #[error(
        "the kernel refuses rmapscope's VM iterator: {0}; `rmapscope doctor` says what is missing"
    )]
    Refused(String),
    /// The object lacks the program.
    #[error("the eBPF object has no program {0}; it was not built from these sources")]
    NoProgram(&'static str),
    /// The iterator could not be run.
    #[error("cannot iterate over open files: {0}")]
    Iterate(#[from] io::Error),
    /// The VM ended while it was read.
    #[error("the VM of process {0} ended while its rmaps were read")]
    Gone(u32),
    /// Its results could not be read.
    #[error("cannot read the table of VMs: {0}")]
    Map(#[from] MapError),
    /// The object's maps are not there.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// One VM as found, with its memslots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) vm: census::Vm,
    pub(crate) slots: Vec<census::Slot>,
}

impl Found {
    /// Pages in all memslots of the first address space.
    pub(crate) fn pages(&self) -> u64 {
        let slots = self.slots.iter().filter(|slot| slot.address_space == 0);
        slots.map(|slot| slot.pages).sum()
    }

    /// Whether any memslot has rmap heads.
    pub(crate) fn has_rmaps(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.rmap.iter().any(|array| *array != 0))
    }

    fn is_same_vm(&self, other: &Self) -> bool {
        let identity = |found: &Self| (found.vm.kvm, found.vm.mm, found.vm.tgid);
        identity(self) == identity(other)
    }
}

/// Everything one enumeration found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inventory {
    pub(crate) vms: Vec<Found>,
    pub(crate) totals: census::Enumeration,
}

impl Inventory {
    /// Takes the VMs out that do not belong to `pid`; with `None` all belong.
    pub(crate) fn take_foreign(&mut self, pid: Option<u32>) -> Vec<Found> {
        let Some(pid) = pid else {
            return Vec::new();
        };
        self.vms
            .extract_if(.., |found| found.vm.tgid != pid)
            .collect()
    }
}

/// The enumeration program, loaded.
pub(crate) struct Finder {
    program: ProgramFd,
    vms: Array<MapData, census::Vm>,
    slots: Array<MapData, census::Slot>,
    totals: Array<MapData, census::Enumeration>,
}

/// Loads an iterator program and returns its descriptor.
pub(crate) fn load_iterator(
    ebpf: &mut Ebpf,
    name: &'static str,
    btf: &Btf,
) -> Result<ProgramFd, FindError> {
    let program = ebpf.program_mut(name).ok_or(FindError::NoProgram(name))?;
    load_task_file(program, btf).map_err(|error| FindError::Refused(explain(&error)))
}

fn load_task_file(program: &mut Program, btf: &Btf) -> Result<ProgramFd, ProgramError> {
    let program: &mut Iter = program.try_into()?;
    program.load("task_file", btf)?;
    Ok(program.fd()?.try_clone()?)
}

impl Finder {
    /// Loads the program and takes its maps.
    pub(crate) fn new(ebpf: &mut Ebpf, btf: &Btf) -> Result<Self, FindError> {
        Ok(Self {
            program: load_iterator(ebpf, "rs_vms", btf)?,
            vms: object::take(ebpf, "VMS")?,
            slots: object::take(ebpf, "SLOTS")?,
            totals: object::take(ebpf, "ENUMERATION")?,
        })
    }

    /// Finds the VMs of `pid`, or of all processes.
    pub(crate) fn find(&mut self, pid: Option<u32>) -> Result<Inventory, FindError> {
        let mut inventory = self.find_once(pid)?;
        for _ in 1..TRIES {
            if inventory.totals.changed == 0 {
                break;
            }
            inventory = self.find_once(pid)?;
        }
        Ok(inventory)
    }

    fn find_once(&mut self, pid: Option<u32>) -> Result<Inventory, FindError> {
        self.totals.set(0, census::Enumeration::default(), 0)?;
        Reader::new(self.program.as_fd(), pid)?.finish()?;
        let totals = self.totals.get(&0, 0)?;
        let mut vms = (0..totals.vms)
            .map(|position| {
                let vm = self.vms.get(&position, 0)?;
                Ok(Found {
                    vm,
                    slots: Vec::new(),
                })
            })
            .collect::<Result<Vec<_>, MapError>>()?;
        for position in 0..totals.slots {
            let slot = self.slots.get(&position, 0)?;
            let owner = usize::try_from(slot.vm).ok().and_then(|vm| vms.get_mut(vm));
            if let Some(found) = owner
                && slot.pages > 0
            {
                found.slots.push(slot);
            }
        }
        Ok(Inventory { vms, totals })
    }
}

/// A VM of this recording.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) number: u16,
    pub(crate) found: Found,
    pub(crate) comm: Result<String, String>,
    pub(crate) cgroup: Result<String, String>,
    /// What the census found in the TDP MMU.
    pub(crate) tdp: Observed<TdpTables>,
    pub(crate) seen_s: f64,
    pub(crate) gone_s: Option<f64>,
}

impl Tracked {
    fn new(number: u16, found: Found, now_s: f64) -> Self {
        let pid = found.vm.tgid;
        Self {
            number,
            found,
            comm: proc_file(pid, "comm").map(|text| text.trim().to_owned()),
            cgroup: proc_file(pid, "cgroup").map(|text| cgroup_of(&text)),
            tdp: Observed::missing("the VM came after the census"),
            seen_s: now_s,
            gone_s: None,
        }
    }
}

fn proc_file(pid: u32, name: &str) -> Result<String, String> {
    let path = format!("/proc/{pid}/{name}");
    fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

/// The cgroup that names a process best: v2's, else the memory controller's,
/// else the first.
fn cgroup_of(text: &str) -> String {
    let lines = || text.lines().filter_map(|line| line.split_once(':'));
    let path = |controllers: &str| {
        lines().find_map(|(_, rest)| {
            let (named, path) = rest.split_once(':')?;
            let fits = named.split(',').any(|name| name == controllers);
            (fits && path != "/").then(|| path.to_owned())
        })
    };
    path("memory")
        .or_else(|| path(""))
        .unwrap_or_else(|| "/".to_owned())
}

/// The VMs of a recording, in the order they were found.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    vms: Vec<Tracked>,
}

impl Registry {
    /// Takes over an enumeration: new VMs get numbers, missing ones are marked
    /// gone. Returns whether anything changed that the kernel side has to know.
    pub(crate) fn update(&mut self, inventory: Inventory, now_s: f64) -> bool {
        let mut changed = false;
        for tracked in self.vms.iter_mut().filter(|vm| vm.gone_s.is_none()) {
            let still = inventory
                .vms
                .iter()
                .any(|found| tracked.found.is_same_vm(found));
            if !still {
                tracked.gone_s = Some(now_s);
                changed = true;
            }
        }
        for found in inventory.vms {
            let known = self
                .vms
                .iter_mut()
                .find(|vm| vm.gone_s.is_none() && vm.found.is_same_vm(&found));
            match known {
                Some(known) if known.found == found => {}
                Some(known) => {
                    known.found = found;
                    changed = true;
                }
                None => {
                    changed |= self.add(found, now_s);
                }
            }
        }
        changed
    }

    /// Numbers are 16 bits wide; a recording that has used them all ignores further VMs.
    fn add(&mut self, found: Found, now_s: f64) -> bool {
        let Ok(number) = u16::try_from(self.vms.len()) else {
            return false;
        };
        if number == profiler_common::aging::NO_VM {
            return false;
        }
        self.vms.push(Tracked::new(number, found, now_s));
        true
    }

    /// Every VM seen.
    pub(crate) fn all(&self) -> &[Tracked] {
        &self.vms
    }

    /// The VMs that still exist, to add to what is known of them.
    pub(crate) fn alive_mut(&mut self) -> impl Iterator<Item = &mut Tracked> {
        self.vms.iter_mut().filter(|vm| vm.gone_s.is_none())
    }

    /// The VMs that still exist.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Tracked> {
        self.vms.iter().filter(|vm| vm.gone_s.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kvm: u64, pages: u64) -> Found {
        Found {
            vm: census::Vm {
                kvm,
                ..Default::default()
            },
            slots: vec![census::Slot {
                pages,
                ..Default::default()
            }],
        }
    }

    fn inventory(vms: &[Found]) -> Inventory {
        Inventory {
            vms: vms.to_vec(),
            totals: census::Enumeration::default(),
        }
    }

    #[test]
    fn a_vm_keeps_its_number_and_a_reused_address_gets_a_new_one() {
        let mut registry = Registry::default();
        assert!(registry.update(inventory(&[found(1, 10), found(2, 20)]), 0.0));
        assert!(!registry.update(inventory(&[found(2, 20), found(1, 10)]), 1.0));
        assert!(registry.update(inventory(&[found(2, 20)]), 2.0));
        assert!(registry.update(inventory(&[found(1, 10), found(2, 21)]), 3.0));
        let seen: Vec<_> = registry
            .all()
            .iter()
            .map(|vm| (vm.number, vm.found.vm.kvm, vm.found.pages(), vm.gone_s))
            .collect();
        assert_eq!(
            seen,
            [(0, 1, 10, Some(2.0)), (1, 2, 21, None), (2, 1, 10, None)]
        );
        assert_eq!(registry.alive().count(), 2);
    }

    #[test]
    fn a_process_is_named_by_its_most_telling_cgroup() {
        assert_eq!(cgroup_of("0::/machine.slice/vm\n"), "/machine.slice/vm");
        assert_eq!(
            cgroup_of("5:memory:/vms/a\n1:cpu,cpuacct:/b\n0::/\n"),
            "/vms/a"
        );
        assert_eq!(cgroup_of("0::/\n"), "/");
        assert_eq!(cgroup_of(""), "/");
    }
}
