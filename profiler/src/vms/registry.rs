//! The VMs of a recording.
//!
//! A VM that ends keeps its number, and one that later reuses the same kernel
//! address gets a new one. A recording may see very many VMs: of one that is
//! gone nothing is kept that its record does not need.

use std::fs;

use profiler_common::{aging::NO_VM, census};
use report::{Observed, schema::TdpTables};

use super::{Found, Inventory};

/// A VM of this recording.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) number: u16,
    /// Without memslots once the VM is gone.
    pub(crate) found: Found,
    /// Pages in the memslots as they were last.
    pub(crate) pages: u64,
    pub(crate) has_rmaps: bool,
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
            pages: found.pages(),
            has_rmaps: found.has_rmaps(),
            found,
            comm: proc_file(pid, "comm").map(|text| text.trim().to_owned()),
            cgroup: proc_file(pid, "cgroup").map(|text| cgroup_of(&text)),
            tdp: Observed::missing("the VM came after the census"),
            seen_s: now_s,
            gone_s: None,
        }
    }

    fn change(&mut self, found: Found) {
        self.pages = found.pages();
        self.has_rmaps = found.has_rmaps();
        self.found = found;
    }

    fn end(&mut self, now_s: f64) {
        self.gone_s = Some(now_s);
        self.found.slots = Vec::new();
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

/// What one enumeration changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// VMs that are new, by their numbers.
    pub(crate) found: Vec<(u16, census::Vm)>,
    /// VMs that are gone since.
    pub(crate) gone: Vec<(u16, census::Vm)>,
    /// Whether memslots of others changed.
    memslots: bool,
}

impl Changes {
    /// Whether there is anything that the kernel side has to know.
    pub(crate) fn any(&self) -> bool {
        self.memslots || self.of_vms()
    }

    /// Whether VMs came or went.
    pub(crate) fn of_vms(&self) -> bool {
        !self.found.is_empty() || !self.gone.is_empty()
    }
}

/// The VMs of a recording.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// In the order they were found, as those gone in the order they went.
    alive: Vec<Tracked>,
    gone: Vec<Tracked>,
    /// Numbers given.
    numbers: u16,
    without_number: u64,
}

impl Registry {
    /// Takes over an enumeration: new VMs get numbers, missing ones are marked
    /// gone. One that may only have found no room lives on.
    pub(crate) fn update(&mut self, inventory: Inventory, now_s: f64) -> Changes {
        let mut changes = Changes::default();
        let unseen = inventory.unseen(self.alive.iter().map(|vm| vm.found.vm));
        let is_gone = |vm: &mut Tracked| {
            let mut found = inventory.vms.iter();
            !unseen.contains(&vm.found.vm.kvm) && !found.any(|found| vm.found.is_same_vm(found))
        };
        for mut vm in self.alive.extract_if(.., is_gone) {
            changes.gone.push((vm.number, vm.found.vm));
            vm.end(now_s);
            self.gone.push(vm);
        }
        let is_whole = inventory.totals.did_not_fit == 0;
        let mut without_number = 0;
        for found in inventory.vms {
            let mut alive = self.alive.iter_mut();
            match alive.find(|vm| vm.found.is_same_vm(&found)) {
                Some(known) if known.found == found => {}
                // Memslots that found no room are still there.
                Some(known)
                    if !is_whole
                        && known.found.has_same_memslots(&found)
                        && known.found.slots.len() >= found.slots.len() => {}
                Some(known) => {
                    known.change(found);
                    changes.memslots = true;
                }
                None => match self.number() {
                    Some(number) => {
                        changes.found.push((number, found.vm));
                        self.alive.push(Tracked::new(number, found, now_s));
                    }
                    None => without_number += 1,
                },
            }
        }
        self.without_number = self.without_number.max(without_number);
        changes
    }

    /// A number nobody has had; they are 16 bits wide.
    fn number(&mut self) -> Option<u16> {
        let number = self.numbers;
        if number == NO_VM {
            return None;
        }
        self.numbers += 1;
        Some(number)
    }

    /// VMs that are ignored because all numbers have been given, the most at
    /// one look.
    pub(crate) fn without_number(&self) -> u64 {
        self.without_number
    }

    /// Every VM seen, by its number.
    pub(crate) fn all(&self) -> Vec<&Tracked> {
        let mut all: Vec<&Tracked> = self.gone.iter().chain(&self.alive).collect();
        all.sort_by_key(|vm| vm.number);
        all
    }

    /// The VMs that still exist, to add to what is known of them.
    pub(crate) fn alive_mut(&mut self) -> impl Iterator<Item = &mut Tracked> {
        self.alive.iter_mut()
    }

    /// The VMs that still exist.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Tracked> {
        self.alive.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A VM of this process, which runs.
    fn found(kvm: u64, pages: &[u64]) -> Found {
        let slot = |pages: &u64| census::Slot {
            pages: *pages,
            ..Default::default()
        };
        Found {
            vm: census::Vm {
                kvm,
                tgid: std::process::id(),
                ..Default::default()
            },
            slots: pages.iter().map(slot).collect(),
        }
    }

    fn inventory(vms: &[Found], did_not_fit: u64) -> Inventory {
        Inventory {
            vms: vms.to_vec(),
            totals: census::Enumeration {
                did_not_fit,
                ..Default::default()
            },
        }
    }

    fn numbers(of: &[(u16, census::Vm)]) -> Vec<u16> {
        of.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn a_vm_keeps_its_number_and_a_reused_address_gets_a_new_one() {
        let mut registry = Registry::default();
        let (one, two) = (found(1, &[10]), found(2, &[20]));
        let first = registry.update(inventory(&[one.clone(), two.clone()], 0), 0.0);
        assert_eq!(numbers(&first.found), [0, 1]);
        let same = registry.update(inventory(&[two.clone(), one.clone()], 0), 1.0);
        assert!(!same.any(), "{same:?}");
        let less = registry.update(inventory(&[two], 0), 2.0);
        assert_eq!(numbers(&less.gone), [0]);
        let back = registry.update(inventory(&[one, found(2, &[21])], 0), 3.0);
        assert_eq!((numbers(&back.found), back.memslots), (vec![2], true));
        let all = registry.all().into_iter();
        let seen: Vec<_> = all
            .map(|vm| (vm.number, vm.found.vm.kvm, vm.pages, vm.gone_s))
            .collect();
        assert_eq!(
            seen,
            [(0, 1, 10, Some(2.0)), (1, 2, 21, None), (2, 1, 10, None)]
        );
        assert_eq!(registry.alive().count(), 2);
    }

    #[test]
    fn a_vm_that_another_thread_of_its_process_made_is_another() {
        let mut registry = Registry::default();
        let made_by = |thread| {
            let mut vm = found(1, &[10]);
            vm.vm.userspace_pid = thread;
            inventory(&[vm], 0)
        };
        registry.update(made_by(7), 0.0);
        assert!(!registry.update(made_by(7), 1.0).any());
        let changes = registry.update(made_by(8), 2.0);
        let [gone, found] = [&changes.gone, &changes.found].map(|of| numbers(of));
        assert_eq!((gone, found), (vec![0], vec![1]));
    }

    #[test]
    fn of_a_vm_that_is_gone_no_memslots_are_kept_and_it_is_told_once() {
        let mut registry = Registry::default();
        registry.update(inventory(&[found(1, &[10, 20])], 0), 0.0);
        assert_eq!(numbers(&registry.update(inventory(&[], 0), 1.0).gone), [0]);
        assert!(!registry.update(inventory(&[], 0), 2.0).any());
        let all = registry.all();
        assert_eq!((all[0].pages, all[0].found.slots.len()), (30, 0));
    }

    #[test]
    fn what_may_only_have_found_no_room_lives_on() {
        let mut registry = Registry::default();
        let (one, two) = (found(1, &[10, 20]), found(2, &[20]));
        let mut ended = found(3, &[30]);
        // No process has this pid.
        ended.vm.tgid = u32::MAX;
        registry.update(inventory(&[one, two, ended], 0), 0.0);
        // No room for a memslot of the first and for the others.
        let full = registry.update(inventory(&[found(1, &[10])], 2), 1.0);
        assert_eq!((numbers(&full.gone), full.memslots), (vec![2], false));
        let pages: Vec<u64> = registry.alive().map(|vm| vm.pages).collect();
        assert_eq!(pages, [30, 20]);
        let reused = Found {
            vm: census::Vm {
                mm: 5,
                ..found(2, &[]).vm
            },
            ..found(2, &[7])
        };
        let reused = registry.update(inventory(&[found(1, &[10]), reused], 2), 2.0);
        assert_eq!(numbers(&reused.gone), [1], "its struct kvm is another's");
        let whole = registry.update(inventory(&[found(1, &[10])], 0), 3.0);
        assert_eq!((numbers(&whole.gone), whole.memslots), (vec![3], true));
    }

    #[test]
    fn vms_of_others_that_found_no_room_still_have_their_addresses() {
        let mut other = found(1, &[10]);
        other.vm.tgid = std::os::unix::process::parent_id();
        let own = found(2, &[20]);
        let take = |vms: &[Found], did_not_fit| {
            let known = std::slice::from_ref(&other);
            inventory(vms, did_not_fit).take_foreign(Some(std::process::id()), known)
        };
        let both = [other.clone(), own.clone()];
        assert_eq!(take(&both, 0), both[..1]);
        assert_eq!(take(&both, 1), both[..1]);
        assert_eq!(take(&both[1..], 1), both[..1]);
        assert_eq!(take(&both[1..], 0), []);
    }

    #[test]
    fn a_vm_that_finds_no_number_is_counted() {
        let mut registry = Registry {
            numbers: NO_VM - 1,
            ..Registry::default()
        };
        let three = [1, 2, 3].map(|kvm| found(kvm, &[10]));
        let changes = registry.update(inventory(&three, 0), 0.0);
        assert_eq!(numbers(&changes.found), [NO_VM - 1]);
        registry.update(inventory(&three[..2], 0), 1.0);
        assert_eq!(
            (registry.without_number(), registry.alive().count()),
            (2, 1)
        );
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
