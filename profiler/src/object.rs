//! The eBPF object: embedded, given what it has to know about this kernel, and
//! turned into maps and programs that are not loaded yet.
//!
//! Only the programs that a caller then loads reach the kernel. Everything is
//! gone when the `Ebpf` is dropped or the process ends, however it ends:
//! nothing is ever pinned.

use std::os::unix::fs::MetadataExt as _;

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, MapError},
};
use profiler_common::symbols::TextRange;

use crate::kernel::{Chains, KernelError, Layout, Symbols};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../ebpf/rmapscope.bpf.o");

/// What all programs need to know about the running kernel.
pub(crate) struct Kernel {
    pub(crate) layout: Layout,
    pub(crate) symbols: Symbols,
    pub(crate) btf: Btf,
    /// Which loading of KVM's module this was.
    module: Option<u64>,
}

/// What tells one loading of KVM's module from the next: sysfs makes its folder
/// anew each time.
fn module() -> Option<u64> {
    let folder = std::fs::metadata("/sys/module/kvm");
    folder.ok().map(|folder| folder.ino())
}

/// Why the object could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    /// The kernel could not be described.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// aya could not read the kernel's BTF.
    #[error(
        "cannot read the kernel's type information: {0}; a kernel with CONFIG_DEBUG_INFO_BTF is needed"
    )]
    Btf(#[from] aya::BtfError),
    /// The kernel refused the maps.
    #[error(
        "the kernel refuses rmapscope's eBPF maps: {0}; run as root, or with CAP_BPF and CAP_PERFMON, on a kernel that allows BPF"
    )]
    Refused(#[from] EbpfError),
    /// A map could not be filled.
    #[error("an eBPF map cannot be filled: {0}")]
    Map(#[from] MapError),
    /// A map is missing from the object.
    #[error("the eBPF object has no map {0}; it was not built from these sources")]
    NoMap(&'static str),
}

/// How the object is sized and what its programs are told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Callbacks of a task between two reads of its stack.
    pub(crate) stack_every: u32,
    /// One callback in this many becomes a raw event; 0 for none.
    pub(crate) event_every: u32,
    /// Cells per CPU; 1 where no callbacks are counted.
    pub(crate) cells: u32,
    /// Latency histograms per CPU; 1 where no callback is timed.
    pub(crate) histograms: u32,
    /// The inner functions are probed, so a callback that enters none walked nothing.
    pub(crate) inner: bool,
    /// Let callbacks note their time, for faults and waits to ask for.
    pub(crate) interference: bool,
    /// Let the kernel side write log lines.
    pub(crate) verbose: bool,
}

impl Settings {
    /// Sizes for a caller that only looks at VMs and heads.
    pub(crate) const CENSUS: Self = Self {
        stack_every: 1,
        event_every: 0,
        cells: 1,
        histograms: 1,
        inner: false,
        interference: false,
        verbose: false,
    };
}

impl Kernel {
    /// Describes the running kernel.
    pub(crate) fn read() -> Result<Self, ObjectError> {
        Ok(Self {
            layout: Layout::read()?,
            symbols: Symbols::read()?,
            btf: Btf::from_sys_fs()?,
            module: module(),
        })
    }

    /// Whether KVM is the one that was described: a module that was unloaded
    /// took its addresses with it.
    pub(crate) fn has_same_kvm(&self) -> bool {
        self.layout.kvm_built_in || self.module == module()
    }

    /// Why the TDP MMU's tables cannot be read here, if they cannot.
    pub(crate) fn tables_readable(&self) -> Result<(), String> {
        self.layout.tdp.as_ref().map(|_| ()).map_err(Clone::clone)?;
        self.symbols
            .direct_map_at()
            .map(drop)
            .map_err(str::to_owned)
    }

    /// Creates the object's maps and readies its programs for loading.
    pub(crate) fn prepare(&self, settings: &Settings) -> Result<Ebpf, ObjectError> {
        let ranges = self.symbols.text_ranges();
        let mut ebpf = self.create(settings, ranges.len())?;
        fill_ranges(&mut ebpf, &ranges)?;
        Ok(ebpf)
    }

    fn create(&self, settings: &Settings, ranges: usize) -> Result<Ebpf, ObjectError> {
        let layout = &self.layout;
        let spte = crate::census::SpteBits::of_this_host();
        let vm_release = self.symbols.address("kvm_vm_release")?;
        let vcpu_release = self.symbols.address("kvm_vcpu_release")?;
        let has_tail_count = u32::from(layout.chains == Chains::TailCount);
        let inner = u32::from(settings.inner);
        let interference = u32::from(settings.interference);
        let ranges = u32::try_from(ranges).unwrap_or(u32::MAX);
        let log_level: u8 = if settings.verbose {
            aya_log::Level::Debug as u8
        } else {
            0
        };

        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&self.btf))
            .override_global("VM_RELEASE", &vm_release, true)
            .override_global("VCPU_RELEASE", &vcpu_release, true)
            .override_global("ID_HASH_BUCKETS", &layout.id_hash_buckets, true)
            .override_global("ADDRESS_SPACES", &layout.address_spaces, true)
            .override_global("HAS_TAIL_COUNT", &has_tail_count, true)
            .override_global("RETURN_MASK", &layout.return_mask, true)
            .override_global("SPTE_ACCESSED", &spte.accessed, true)
            .override_global("SPTE_PRESENT", &spte.present, true)
            .override_global("TEXT_RANGES", &ranges, true)
            .override_global("STACK_EVERY", &settings.stack_every, true)
            .override_global("EVENT_EVERY", &settings.event_every, true)
            .override_global("INNER_PROBED", &inner, true)
            .override_global("INTERFERENCE", &interference, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .map_max_entries("CELLS", settings.cells)
            .map_max_entries("HISTOGRAMS", settings.histograms);
        if settings.histograms == 1 {
            loader.map_max_entries("STARTS", 1);
            loader.map_max_entries("SPARE_HISTOGRAMS", 1);
        }
        if settings.cells == 1 {
            loader.map_max_entries("INTERVALS", 1);
        }
        if !settings.interference {
            for map in ["AGED", "FAULTS", "WAITS", "SPENT", "SPARE_SPENT"] {
                loader.map_max_entries(map, 1);
            }
        }
        for (global, offset) in &layout.offsets {
            loader.override_global(global, offset, true);
        }
        let direct_map_at = self.symbols.direct_map_at();
        if let (Ok(tdp), Ok(address)) = (&layout.tdp, &direct_map_at) {
            loader
                .override_global("DIRECT_MAP_AT", address, true)
                .override_global("ROLE_INVALID", &tdp.role_invalid, true);
            for (global, offset) in &tdp.offsets {
                loader.override_global(global, offset, true);
            }
        }
        Ok(loader.load(OBJECT)?)
    }
}

fn fill_ranges(ebpf: &mut Ebpf, ranges: &[TextRange]) -> Result<(), ObjectError> {
    let map = ebpf.map_mut("RANGES").ok_or(ObjectError::NoMap("RANGES"))?;
    let mut table: Array<_, TextRange> = Array::try_from(map)?;
    for (position, range) in (0..).zip(ranges) {
        table.set(position, range, 0)?;
    }
    Ok(())
}

/// Takes a map out of the object under its typed form.
pub(crate) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, ObjectError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(ObjectError::NoMap(name))?;
    Ok(T::try_from(map)?)
}

/// Removing what is not there is no failure; aya reports it as the kernel does.
///
/// # Errors
/// Any other that removing gave.
pub(crate) fn ignore_missing(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use guest::live;

    use super::*;
    use crate::vms::load_iterator;

    /// What has to be loadable whatever the kernel's chains look like.
    fn verify(chains: Chains) {
        let mut kernel = Kernel::read().expect("a known kernel");
        kernel.layout.chains = chains;
        let mut ebpf = kernel.prepare(&Settings::CENSUS).expect("maps");
        for name in ["rs_vms", "rs_heads", "rs_tables"] {
            load_iterator(&mut ebpf, name, &kernel.btf).expect(name);
        }
        for name in ["rs_age_hva", "rs_test_age_hva"] {
            let program = ebpf.program_mut(name).expect(name);
            let program: &mut aya::programs::RawTracePoint = program.try_into().expect(name);
            program.load().expect(name);
        }
        // Their bodies are what the fentry of the same functions runs.
        for name in ["rs_inner_kprobe", "rs_tdp_kprobe", "rs_rmap_kprobe"] {
            let program = ebpf.program_mut(name).expect("in the object");
            let program: &mut aya::programs::KProbe = program.try_into().expect("a kprobe");
            program.load().expect(name);
        }
    }

    #[test]
    fn the_verifier_accepts_the_programs_for_both_forms_of_chains() {
        let name = "the_verifier_accepts_the_programs_for_both_forms_of_chains";
        let able = live::root().map_err(str::to_owned);
        let able = able.and_then(|()| live::kvm().map_err(|error| error.to_string()));
        let Some(()) = live::require(name, able) else {
            return;
        };
        verify(Chains::TailCount);
        verify(Chains::PerDescriptor);
    }
}
