//! Struct members from BTF, including the split BTF of a KVM module.

use std::{cell::RefCell, collections::HashMap, fs, io, os::fd::AsRawFd as _, path::Path};

use btf_rs::{Backend, Btf, Type};
use nix::sys::memfd::{MFdFlags, memfd_create};
use profiler_common::{
    census::DESCRIPTOR_ENTRIES,
    members::{MEMBERS, Member, TDP_MEMBERS},
};

use super::KernelError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const KVM_MODULE: &str = "/sys/kernel/btf/kvm";

/// Where the members lie that the eBPF programs read.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Each global with the offset it gets.
    pub(crate) offsets: Vec<(&'static str, u32)>,
    /// Buckets of a set of memslots.
    pub(crate) id_hash_buckets: u32,
    /// Address spaces of a VM.
    pub(crate) address_spaces: u32,
    /// The TDP MMU's pages, or why they cannot be read.
    pub(crate) tdp: Result<TdpLayout, String>,
    /// How chains are laid out.
    pub(crate) chains: Chains,
    /// Meaningful bits of the notifiers' return value.
    pub(crate) return_mask: u64,
    /// KVM is part of vmlinux, so fentry can reach its functions.
    pub(crate) kvm_built_in: bool,
}

/// Where the members lie that the census of the TDP MMU reads.
#[derive(Debug, Clone)]
pub(crate) struct TdpLayout {
    /// Each global with the offset it gets.
    pub(crate) offsets: Vec<(&'static str, u32)>,
    /// Bit of a page's role that says it is being taken down.
    pub(crate) role_invalid: u32,
}

/// The form of `pte_list_desc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chains {
    /// The first descriptor counts the SPTEs behind it (6.4 and later).
    TailCount,
    /// Every descriptor counts its own SPTEs only.
    PerDescriptor,
}

impl Layout {
    /// Reads the running kernel's BTF.
    pub(crate) fn read() -> Result<Self, KernelError> {
        let types = Types::read()?;
        Ok(Self {
            offsets: types.offsets(MEMBERS)?,
            id_hash_buckets: types.array_length("kvm_memslots", "id_hash")?,
            address_spaces: types.array_length("kvm", "memslots")?,
            tdp: types.tdp().map_err(|error| error.to_string()),
            chains: types.chains()?,
            return_mask: types.return_mask("__mmu_notifier_clear_young"),
            kvm_built_in: types.kvm_built_in,
        })
    }

    /// The offset passed in `global`.
    pub(crate) fn offset(&self, global: &str) -> Option<u32> {
        let (_, offset) = self.offsets.iter().find(|(name, _)| *name == global)?;
        Some(*offset)
    }
}

/// vmlinux's types, or a KVM module's on top of them.
struct Types {
    btf: Btf,
    kvm_built_in: bool,
    /// Types looked for so far, by name.
    found: RefCell<HashMap<String, Vec<Type>>>,
}

fn understood(path: &'static str, result: btf_rs::Result<Btf>) -> Result<Btf, KernelError> {
    result.map_err(|error| KernelError::BadBtf {
        path,
        detail: error.to_string(),
    })
}

fn no_btf(source: io::Error) -> KernelError {
    KernelError::NoBtf {
        path: VMLINUX,
        source,
    }
}

/// vmlinux's BTF, read on demand: of its hundred thousand types some twenty are asked for.
///
/// btf-rs does so with BTF that it can map, which sysfs offers from Linux 6.16 on; memory
/// of our own can be mapped everywhere.
fn mapped(mut types: impl io::Read) -> Result<Btf, KernelError> {
    let mut copied = || -> io::Result<fs::File> {
        let mut file = fs::File::from(memfd_create(c"vmlinux-btf", MFdFlags::MFD_CLOEXEC)?);
        io::copy(&mut types, &mut file)?;
        Ok(file)
    };
    let file = copied().map_err(no_btf)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    understood(VMLINUX, Btf::from_file_with_backend(path, Backend::Mmap))
}

impl Types {
    fn new(btf: Btf, kvm_built_in: bool) -> Self {
        Self {
            btf,
            kvm_built_in,
            found: RefCell::default(),
        }
    }

    /// All types of that name: a walk over all types the first time.
    fn named(&self, name: &str) -> Vec<Type> {
        let mut found = self.found.borrow_mut();
        let types = found
            .entry(name.to_owned())
            .or_insert_with(|| self.btf.resolve_types_by_name(name).unwrap_or_default());
        types.clone()
    }

    fn read() -> Result<Self, KernelError> {
        let vmlinux = mapped(fs::File::open(VMLINUX).map_err(no_btf)?)?;
        // Distributions whose KVM is a module describe struct kvm in vmlinux too, because code
        // that is built in refers to it. Only KVM itself has a kvm_gfn_range.
        if Path::new(KVM_MODULE).exists() {
            let module = understood(KVM_MODULE, Btf::from_split_file(KVM_MODULE, &vmlinux))?;
            return Ok(Self::new(module, false));
        }
        let built_in = Self::new(vmlinux, true);
        if built_in.member("kvm_gfn_range", "slot").is_none() {
            return Err(KernelError::NoKvm);
        }
        Ok(built_in)
    }

    /// Byte offset and type of `path` in the first struct of that name that has it.
    fn member(&self, of: &str, path: &str) -> Option<(u32, Type)> {
        let (bits, found) = self.member_bits(of, path)?;
        Some((bits / 8, found))
    }

    /// As [`member`](Self::member), in bits.
    fn member_bits(&self, of: &str, path: &str) -> Option<(u32, Type)> {
        self.named(of).into_iter().find_map(|candidate| {
            let (mut bits, mut at) = (0, candidate);
            for part in path.split('.') {
                let (offset, found) = self.direct(&at, part)?;
                bits += offset;
                at = found;
            }
            Some((bits, at))
        })
    }

    /// Bit offset and type of a member, looking into anonymous structs and unions.
    fn direct(&self, of: &Type, name: &str) -> Option<(u32, Type)> {
        let (Type::Struct(body) | Type::Union(body)) = of else {
            return None;
        };
        body.members.iter().find_map(|member| {
            let inner = self.strip(self.btf.resolve_chained_type(member).ok()?)?;
            let own = self.btf.resolve_name(member).unwrap_or_default();
            if own == name {
                return Some((member.bit_offset(), inner));
            }
            if !own.is_empty() {
                return None;
            }
            let (offset, found) = self.direct(&inner, name)?;
            Some((member.bit_offset() + offset, found))
        })
    }

    /// The type behind typedefs and qualifiers.
    fn strip(&self, mut at: Type) -> Option<Type> {
        loop {
            at = match &at {
                Type::Typedef(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::Volatile(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::Const(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::Restrict(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::TypeTag(inner) => self.btf.resolve_chained_type(inner).ok()?,
                _ => return Some(at),
            };
        }
    }

    /// The offset of each member, with its global.
    fn offsets(&self, members: &[Member]) -> Result<Vec<(&'static str, u32)>, KernelError> {
        let members = members.iter();
        members
            .map(|member| Ok((member.global, self.offset(member)?)))
            .collect()
    }

    fn offset(&self, member: &Member) -> Result<u32, KernelError> {
        let Member { of, path, .. } = *member;
        let found = self.member(of, path);
        found
            .map(|(offset, _)| offset)
            .ok_or(KernelError::NoMember { of, path })
    }

    /// The TDP MMU's pages. Their level must be where it always was: in the lowest bits of the
    /// role.
    fn tdp(&self) -> Result<TdpLayout, KernelError> {
        const OF: &str = "kvm_mmu_page";
        let bit = |path| self.member_bits(OF, path).map(|(bits, _)| bits);
        let role = bit("role");
        let within = |path| {
            bit(path)
                .zip(role)
                .and_then(|(at, role)| at.checked_sub(role))
        };
        match (within("role.level"), within("role.invalid")) {
            (Some(0), Some(invalid)) if invalid < 32 => Ok(TdpLayout {
                offsets: self.offsets(TDP_MEMBERS)?,
                role_invalid: 1 << invalid,
            }),
            _ => Err(KernelError::NoMember {
                of: OF,
                path: "role with level and invalid in their known places",
            }),
        }
    }

    fn array_length(&self, of: &'static str, path: &'static str) -> Result<u32, KernelError> {
        match self.member(of, path) {
            Some((_, Type::Array(array))) => Ok(u32::try_from(array.len()).unwrap_or(u32::MAX)),
            _ => Err(KernelError::NoMember { of, path }),
        }
    }

    /// The form of the descriptors; anything but the two known ones is refused,
    /// because lengths read from it would be wrong.
    fn chains(&self) -> Result<Chains, KernelError> {
        const OF: &str = "pte_list_desc";
        let offset = |path| self.member(OF, path).map(|(offset, _)| offset);
        let entries = match self.member(OF, "sptes") {
            Some((16, Type::Array(array))) => array.len(),
            _ => 0,
        };
        let known = offset("more") == Some(0)
            && offset("spte_count") == Some(8)
            && entries == DESCRIPTOR_ENTRIES;
        match offset("tail_count") {
            Some(12) if known => Ok(Chains::TailCount),
            None if known => Ok(Chains::PerDescriptor),
            _ => Err(KernelError::NoMember {
                of: OF,
                path: "more, spte_count, tail_count, sptes[14] in their known places",
            }),
        }
    }

    /// Bits of a function's return value: 8 for `bool`, 32 for `int`.
    fn return_mask(&self, function: &str) -> u64 {
        const INT: u64 = 0xffff_ffff;
        let returned = self.named(function).into_iter().find_map(|found| {
            let Type::Func(function) = found else {
                return None;
            };
            let Type::FuncProto(prototype) = self.btf.resolve_chained_type(&function).ok()? else {
                return None;
            };
            self.strip(
                self.btf
                    .resolve_type_by_id(prototype.return_type_id())
                    .ok()?,
            )
        });
        match returned {
            Some(Type::Int(int)) if int.size() == 1 => 0xff,
            _ => INT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF that describes one struct of integers: name, and the members with
    /// their byte offsets.
    fn btf(of: &str, members: &[(&str, u32)]) -> Types {
        const INT: u32 = 1 << 24;
        const STRUCT: u32 = 4 << 24;
        let mut strings = vec![0];
        let mut name = |text: &str| {
            let at = u32::try_from(strings.len()).unwrap();
            strings.extend(text.bytes().chain([0]));
            at
        };
        // An int of 8 bytes, then the struct whose members have it as their type.
        let mut types: Vec<u32> = vec![name("u64"), INT, 8, 64];
        let count = u32::try_from(members.len()).unwrap();
        types.extend([name(of), STRUCT | count, 4096]);
        for (member, offset) in members {
            types.extend([name(member), 1, offset * 8]);
        }
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (types_len, strings_len) = (types.len(), strings.len());
        let header = [0x0001_eb9f_u32, 24, 0, u32::try_from(types_len).unwrap()];
        let rest = [types_len, strings_len].map(|len| u32::try_from(len).unwrap());
        let words = header.iter().chain(&rest);
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(types);
        bytes.extend(strings);
        Types::new(mapped(bytes.as_slice()).expect("BTF"), true)
    }

    const WANTED: [Member; 2] = [
        Member {
            global: "KVM_MM",
            of: "kvm",
            path: "mm",
        },
        Member {
            global: "KVM_MMU_LOCK",
            of: "kvm",
            path: "mmu_lock",
        },
    ];

    #[test]
    fn members_are_found_wherever_they_lie() {
        let types = btf("kvm", &[("mmu_lock", 640), ("other", 0), ("mm", 8)]);
        let offsets = types.offsets(&WANTED).expect("both");
        assert_eq!(offsets, [("KVM_MM", 8), ("KVM_MMU_LOCK", 640)]);
    }

    #[test]
    fn a_member_that_is_missing_or_renamed_is_named() {
        for members in [&[("mm", 8)][..], &[("mm", 8), ("mmu_lock_new", 640)]] {
            let error = btf("kvm", members).offsets(&WANTED).expect_err("one lacks");
            let said = error.to_string();
            assert!(
                said.contains("struct kvm has no member mmu_lock;"),
                "{said}"
            );
        }
        let error = btf("not_kvm", &[("mm", 8)]).offsets(&WANTED);
        assert!(error.is_err(), "no such struct");
    }

    #[test]
    fn descriptors_of_an_unknown_form_are_refused() {
        let renamed = btf("pte_list_desc", &[("more", 0), ("count", 8)]);
        let said = renamed.chains().expect_err("unknown").to_string();
        assert!(said.contains("struct pte_list_desc"), "{said}");
    }
}
