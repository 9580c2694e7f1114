//! What is known about a host.
//!
//! Reads `/proc` and `/sys` below a root that tests can replace. What cannot
//! be read is missing with the reason, and nothing here ever fails.

use std::{
    arch::x86_64::__cpuid,
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::{
    Observed,
    schema::{Host, KvmConfig},
};

/// Reads facts below a root folder.
pub(super) struct Probe<'a> {
    root: &'a Path,
}

impl<'a> Probe<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Observed<String> {
        match std::fs::read_to_string(self.path(path)) {
            Ok(text) => Observed::Value(text.trim().to_owned()),
            Err(e) => Observed::Missing(format!("{path}: {}", e.kind())),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub(super) fn host(&self) -> Host {
        let cpuinfo = self.read("/proc/cpuinfo");
        let cpu_model = cpuinfo_field(&cpuinfo, "model name");
        let hypervisor = hypervisor(&cpuinfo, signature);
        let kernel_release = self.read("/proc/sys/kernel/osrelease");
        let kernel_release = kernel_release.value().cloned().unwrap_or_default();
        let kvm = self.kvm(&kernel_release);
        let cpus_online = count_cpu_list(&self.read("/sys/devices/system/cpu/online"));
        let unusual = unusual(&kvm, &hypervisor);
        let label = label(&cpu_model, cpus_online, &kernel_release, &kvm);
        Host {
            label,
            kernel_version: self
                .read("/proc/sys/kernel/version")
                .value()
                .cloned()
                .unwrap_or_default(),
            kernel_release,
            cpu_model,
            cpus_online,
            threads_per_core: self
                .read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
                .map(|list| cpu_list_len(&list)),
            sockets: distinct(&cpuinfo, "physical id"),
            numa_nodes: self
                .read("/sys/devices/system/node/online")
                .map(|l| cpu_list_len(&l)),
            llc_bytes: self.llc_bytes(),
            memory_bytes: self.memory_bytes(),
            governor: self.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            smt: self.read("/sys/devices/system/cpu/smt/control"),
            mitigations: self.mitigations(),
            clocksource: self
                .read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            thp: self
                .read("/sys/kernel/mm/transparent_hugepage/enabled")
                .map(|t| selected(&t)),
            swap_bytes: self.meminfo("SwapTotal"),
            mglru: self.read("/sys/kernel/mm/lru_gen/enabled"),
            kdamonds: self.kdamonds(),
            hypervisor,
            pmu: self.pmu(),
            lockdown: self
                .read("/sys/kernel/security/lockdown")
                .map(|t| selected(&t)),
            kvm,
            unusual,
        }
    }

    pub(super) fn memory_bytes(&self) -> Observed<u64> {
        self.meminfo("MemTotal")
    }

    fn meminfo(&self, field: &str) -> Observed<u64> {
        let text = match self.read("/proc/meminfo") {
            Observed::Value(text) => text,
            Observed::Missing(reason) => return Observed::Missing(reason),
        };
        let kib = text
            .lines()
            .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|v| v.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        match kib {
            Some(kib) => Observed::Value(kib * 1024),
            None => Observed::Missing(format!("/proc/meminfo has no {field}")),
        }
    }

    fn llc_bytes(&self) -> Observed<u64> {
        for index in (0..8).rev() {
            let size = self.read(&format!(
                "/sys/devices/system/cpu/cpu0/cache/index{index}/size"
            ));
            if let Some(kib) = size
                .value()
                .and_then(|s| s.strip_suffix('K')?.parse::<u64>().ok())
            {
                return Observed::Value(kib * 1024);
            }
        }
        Observed::missing("/sys lists no caches of CPU 0")
    }

    fn mitigations(&self) -> Observed<BTreeMap<String, String>> {
        let folder = "/sys/devices/system/cpu/vulnerabilities";
        let entries = match std::fs::read_dir(self.path(folder)) {
            Ok(entries) => entries,
            Err(e) => return Observed::Missing(format!("{folder}: {}", e.kind())),
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let states = names.filter_map(|name| {
            let state = self.read(&format!("{folder}/{name}")).value().cloned()?;
            Some((name, state))
        });
        Observed::Value(states.collect())
    }

    fn kdamonds(&self) -> Observed<u32> {
        let Ok(entries) = std::fs::read_dir(self.path("/proc")) else {
            return Observed::missing("/proc cannot be listed");
        };
        let pids = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let names = pids
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
            .filter_map(|pid| self.read(&format!("/proc/{pid}/comm")).value().cloned());
        Observed::Value(
            u32::try_from(names.filter(|n| n.starts_with("kdamond")).count()).unwrap_or(u32::MAX),
        )
    }

    fn pmu(&self) -> Observed<String> {
        let folder = "/sys/bus/event_source/devices";
        for name in ["cpu", "cpu_core", "armv8_pmuv3_0"] {
            if self.exists(&format!("{folder}/{name}")) {
                return Observed::Value(name.to_owned());
            }
        }
        Observed::missing("the kernel has no hardware PMU registered")
    }

    fn kvm(&self, release: &str) -> KvmConfig {
        let loaded: Vec<&str> = ["kvm_intel", "kvm_amd", "kvm_pvm"]
            .into_iter()
            .filter(|module| self.exists(&format!("/sys/module/{module}")))
            .collect();
        let built_in = if !self.exists("/sys/module/kvm") {
            Observed::missing("KVM is not loaded")
        } else {
            Observed::Value(!self.exists("/sys/module/kvm/initstate"))
        };
        let backend = match loaded.as_slice() {
            [] if self.exists("/dev/kvm") => {
                Observed::missing("/dev/kvm exists, its backend is unknown")
            }
            [] => Observed::missing("KVM is not loaded"),
            names => Observed::Value(names.join("+")),
        };
        let mut parameters = BTreeMap::new();
        for module in std::iter::once("kvm").chain(loaded) {
            self.parameters(module, &mut parameters);
        }
        KvmConfig {
            backend,
            built_in,
            parameters,
            lockless_aging: self.config(release, "CONFIG_KVM_MMU_LOCKLESS_AGING"),
        }
    }

    fn parameters(&self, module: &str, into: &mut BTreeMap<String, String>) {
        let folder = format!("/sys/module/{module}/parameters");
        let Ok(entries) = std::fs::read_dir(self.path(&folder)) else {
            return;
        };
        for name in entries.filter_map(|e| e.ok()?.file_name().into_string().ok()) {
            if let Observed::Value(value) = self.read(&format!("{folder}/{name}")) {
                into.insert(format!("{module}.{name}"), value);
            }
        }
    }

    /// Whether a kernel option is set; options that are off and options that
    /// do not exist both read as `false`.
    fn config(&self, release: &str, option: &str) -> Observed<bool> {
        let plain = self.read(&format!("/boot/config-{release}"));
        let text = match (plain, std::fs::File::open(self.path("/proc/config.gz"))) {
            (Observed::Value(text), _) => text,
            (Observed::Missing(_), Ok(file)) => {
                let mut text = String::new();
                if flate2::read::GzDecoder::new(file)
                    .read_to_string(&mut text)
                    .is_err()
                {
                    return Observed::missing("/proc/config.gz cannot be decompressed");
                }
                text
            }
            (Observed::Missing(_), Err(_)) => {
                return Observed::missing("neither /boot/config nor /proc/config.gz can be read");
            }
        };
        Observed::Value(text.lines().any(|l| l.strip_prefix(option) == Some("=y")))
    }
}

fn cpuinfo_field(cpuinfo: &Observed<String>, field: &str) -> Observed<String> {
    let text = match cpuinfo {
        Observed::Value(text) => text,
        Observed::Missing(reason) => return Observed::Missing(reason.clone()),
    };
    let found = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == field).then(|| value.trim().to_owned())
    });
    match found {
        Some(value) => Observed::Value(value),
        None => Observed::Missing(format!("/proc/cpuinfo has no {field}")),
    }
}

fn distinct(cpuinfo: &Observed<String>, field: &str) -> Observed<u32> {
    let text = match cpuinfo {
        Observed::Value(text) => text,
        Observed::Missing(reason) => return Observed::Missing(reason.clone()),
    };
    let values: std::collections::BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() == field)
        .map(|(_, value)| value.trim())
        .collect();
    match u32::try_from(values.len()) {
        Ok(n) if n > 0 => Observed::Value(n),
        _ => Observed::Missing(format!("/proc/cpuinfo has no {field}")),
    }
}

/// What a hypervisor calls itself in CPUID; without one the leaf means nothing.
fn signature() -> [u8; 12] {
    /// First of the leaves that are left to hypervisors.
    const VENDOR: u32 = 0x4000_0000;
    let leaf = __cpuid(VENDOR);
    let mut bytes = [0; 12];
    for (place, word) in bytes
        .chunks_exact_mut(4)
        .zip([leaf.ebx, leaf.ecx, leaf.edx])
    {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The name for a host whose instructions are not executed by a CPU.
const EMULATED: &str = "TCG (QEMU's software emulation)";

fn hypervisor(cpuinfo: &Observed<String>, signature: fn() -> [u8; 12]) -> Observed<String> {
    cpuinfo_field(cpuinfo, "flags").map(|flags| {
        if !flags.split_whitespace().any(|f| f == "hypervisor") {
            return "none".to_owned();
        }
        let name = match &signature() {
            b"TCGTCGTCGTCG" => EMULATED,
            b"KVMKVMKVM\0\0\0" => "KVM",
            b"Microsoft Hv" => "Hyper-V",
            b"VMwareVMware" => "VMware",
            b"XenVMMXenVMM" => "Xen",
            _ => "yes (CPUID hypervisor flag)",
        };
        name.to_owned()
    })
}

/// The word in brackets of `always [madvise] never`, or the whole text.
fn selected(text: &str) -> String {
    let inner = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or_else(|| text.to_owned(), |(word, _)| word.to_owned())
}

/// Members of a list such as `0-3,8`.
fn cpu_list_len(list: &str) -> u32 {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (
                first.trim().parse::<u32>().ok()?,
                last.trim().parse::<u32>().ok()?,
            );
            Some(last.checked_sub(first)? + 1)
        })
        .sum()
}

fn count_cpu_list(list: &Observed<String>) -> u32 {
    list.value().map_or(0, |l| cpu_list_len(l))
}

fn unusual(kvm: &KvmConfig, hypervisor: &Observed<String>) -> Vec<String> {
    let mut notes = Vec::new();
    if kvm.backend.value().is_some_and(|b| b == "kvm_pvm") {
        notes.push(
            "KVM runs without VMX or SVM (kvm_pvm, not an upstream backend): \
             guests run under shadow paging, every guest page has rmaps"
                .to_owned(),
        );
    }
    match hypervisor.value().map(String::as_str) {
        None | Some("none") => {}
        Some(EMULATED) => notes.push(
            "this host is emulated in software (TCG): counts mean something, times do not"
                .to_owned(),
        ),
        Some(_) => notes.push(
            "this host is itself a virtual machine: absolute times wander, compare ratios"
                .to_owned(),
        ),
    }
    notes
}

fn label(model: &Observed<String>, cpus: u32, release: &str, kvm: &KvmConfig) -> String {
    let model = model.value().map_or("unknown CPU", String::as_str);
    let backend = kvm.backend.value().map_or("no KVM", String::as_str);
    let tdp = match kvm.parameters.get("kvm.tdp_mmu").map(String::as_str) {
        Some("Y") => ", tdp_mmu=Y",
        Some("N") => ", tdp_mmu=N",
        _ => "",
    };
    let plural = if cpus == 1 { "" } else { "s" };
    format!("{model}, {cpus} CPU{plural}, Linux {release}, {backend}{tdp}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_missing_with_a_reason() {
        let empty = tempfile::tempdir().unwrap();
        let host = Probe::new(empty.path()).host();
        assert!(host.governor.reason().is_some());
        assert!(host.pmu.reason().is_some());
        assert!(host.kvm.backend.reason().unwrap().contains("not loaded"));
        assert!(host.mitigations.reason().is_some());
    }

    #[test]
    fn an_emulated_host_is_told_from_a_virtual_one() {
        let cpuinfo = |flags: &str| Observed::Value(format!("flags : {flags}\n"));
        let named = |flags: &str, signature| {
            let hypervisor = hypervisor(&cpuinfo(flags), signature);
            let kvm = Probe::new(Path::new("/nowhere")).kvm("6.1");
            (hypervisor.value().cloned(), unusual(&kvm, &hypervisor))
        };
        let (name, notes) = named("fpu hypervisor", || *b"TCGTCGTCGTCG");
        assert_eq!(name.as_deref(), Some(EMULATED));
        assert!(notes.len() == 1 && notes[0].contains("times do not"));
        let (name, notes) = named("fpu hypervisor", || *b"KVMKVMKVM\0\0\0");
        assert_eq!(name.as_deref(), Some("KVM"));
        assert!(notes.len() == 1 && notes[0].contains("compare ratios"));
        // What bare metal says there is not a name.
        let (name, notes) = named("fpu", || *b"TCGTCGTCGTCG");
        assert_eq!((name.as_deref(), notes.len()), (Some("none"), 0));
    }

    #[test]
    fn a_software_kvm_host_says_that_it_is_one() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        make("sys/module/kvm/parameters/tdp_mmu", "N\n");
        make("sys/module/kvm_pvm/parameters/force", "N\n");
        make("sys/devices/system/cpu/online", "0-1,4\n");
        make(
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
        );
        make(
            "proc/cpuinfo",
            "model name : X\nflags : fpu hypervisor\nphysical id : 0\n",
        );
        make("proc/1/comm", "kdamond.0\n");
        make("boot/config-6.18", "CONFIG_KVM_MMU_LOCKLESS_AGING=y\n");
        make("proc/sys/kernel/osrelease", "6.18\n");
        let host = Probe::new(root.path()).host();
        assert_eq!(host.label, "X, 3 CPUs, Linux 6.18, kvm_pvm, tdp_mmu=N");
        assert_eq!(host.unusual.len(), 2);
        assert_eq!(host.thp, Observed::Value("madvise".to_owned()));
        assert_eq!(host.kdamonds, Observed::Value(1));
        assert_eq!(host.kvm.built_in, Observed::Value(true));
        assert_eq!(host.kvm.lockless_aging, Observed::Value(true));
    }
}
