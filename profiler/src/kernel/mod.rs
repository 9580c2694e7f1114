//! What has to be known about the running kernel before anything is loaded:
//! where struct members lie, and where functions lie. Nothing here is derived
//! from the kernel's version.

mod layout;
mod symbols;
mod walk_order;

pub(crate) use layout::{Chains, Layout};
pub(crate) use symbols::Symbols;
pub(crate) use walk_order::WalkOrder;

/// Why the running kernel cannot be described.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    /// The kernel exports no BTF.
    #[error(
        "cannot read the kernel's type information in {path}: {source}; a kernel with CONFIG_DEBUG_INFO_BTF is needed"
    )]
    NoBtf {
        /// The file.
        path: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel's BTF makes no sense to us.
    #[error("the kernel's type information in {path} cannot be understood: {detail}")]
    BadBtf {
        /// The file.
        path: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// KVM is a module and not loaded.
    #[error(
        "KVM is not loaded: neither vmlinux nor a module describes struct kvm; load it with `modprobe kvm_intel` or `modprobe kvm_amd`"
    )]
    NoKvm,
    /// A member we need is not there.
    #[error("this kernel's struct {of} has no member {path}; rmapscope does not know this KVM")]
    NoMember {
        /// The struct.
        of: &'static str,
        /// The member.
        path: &'static str,
    },
    /// The function table could not be read.
    #[error("cannot read /proc/kallsyms: {0}")]
    NoKallsyms(std::io::Error),
    /// Addresses are hidden from this user.
    #[error("/proc/kallsyms hides addresses from this user; run as root, or with CAP_SYSLOG too")]
    HiddenAddresses,
    /// A function we need is not there.
    #[error("this kernel has no function {0}; rmapscope does not know this KVM")]
    NoFunction(&'static str),
}
