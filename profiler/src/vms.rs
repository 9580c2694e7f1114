//! Finding the host's VMs and keeping track of them through a recording.
//!
//! [`Finder`] runs the enumeration program; [`Registry`] gives every VM a
//! number that stays its own.

mod registry;

use std::{collections::HashSet, io, os::fd::AsFd as _, path::Path};

use aya::{
    Btf, Ebpf,
    maps::{Array, MapData, MapError},
    programs::{Iter, Program, ProgramError, ProgramFd},
};
use profiler_common::census;

use crate::{
    hooks::explain,
    iterator::Reader,
    object::{self, ObjectError},
};

pub(crate) use registry::{Changes, Registry, Tracked};

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
        let identity = |found: &Self| {
            let vm = &found.vm;
            (vm.kvm, vm.mm, vm.tgid, vm.userspace_pid)
        };
        identity(self) == identity(other)
    }

    /// Whether KVM has not changed the memslots from one to the other.
    fn has_same_memslots(&self, other: &Self) -> bool {
        let memslots = |found: &Self| (found.vm.memslots, found.vm.generation);
        memslots(self) == memslots(other)
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
    /// Of those `known`, the ones that may have found no room are among them.
    pub(crate) fn take_foreign(&mut self, pid: Option<u32>, known: &[Found]) -> Vec<Found> {
        let Some(pid) = pid else {
            return Vec::new();
        };
        let unseen = self.unseen(known.iter().map(|found| found.vm));
        let is_unseen = |found: &&Found| unseen.contains(&found.vm.kvm);
        let kept: Vec<Found> = known.iter().filter(is_unseen).cloned().collect();
        let foreign = self.vms.extract_if(.., |found| found.vm.tgid != pid);
        foreign.chain(kept).collect()
    }

    /// The `struct kvm`s of those `known` that this enumeration says nothing
    /// about: not all VMs found room, and their process runs. At most as many
    /// as find room in one.
    fn unseen(&self, known: impl Iterator<Item = census::Vm>) -> HashSet<u64> {
        if self.totals.did_not_fit == 0 {
            return HashSet::new();
        }
        let seen: HashSet<u64> = self.vms.iter().map(|found| found.vm.kvm).collect();
        known
            .filter(|vm| !seen.contains(&vm.kvm))
            .filter(|vm| Path::new(&format!("/proc/{}", vm.tgid)).exists())
            .map(|vm| vm.kvm)
            .take(census::MAX_VMS)
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
