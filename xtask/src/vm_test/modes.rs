//! The configurations of KVM that every kernel is booted in.

/// A KVM configuration.
pub(super) struct Mode {
    /// What tables and options call it.
    pub(super) name: &'static str,
    /// Parameters of kvm, comma-separated.
    pub(super) kvm: &'static str,
    /// Parameters of kvm_amd, comma-separated.
    pub(super) amd: &'static str,
}

/// Shadow paging, where chains can be long; two-dimensional paging without rmaps
/// and with them; both MMUs at once under a guest that runs a guest. What takes
/// longest comes first.
pub(super) const MODES: [Mode; 4] = [
    Mode {
        name: "npt0",
        kvm: "tdp_mmu=0",
        amd: "npt=0",
    },
    Mode {
        name: "tdp",
        kvm: "tdp_mmu=1",
        amd: "",
    },
    Mode {
        name: "shadow",
        kvm: "tdp_mmu=0",
        amd: "",
    },
    Mode {
        name: "nested",
        kvm: "tdp_mmu=1",
        amd: "nested=1",
    },
];

impl Mode {
    /// The parameters, for people.
    pub(super) fn parameters(&self) -> String {
        let modules = [("kvm", self.kvm), ("kvm_amd", self.amd)];
        let given = modules.iter().filter(|(_, values)| !values.is_empty());
        let shown = given.map(|(module, values)| format!("{module} {values}"));
        shown.collect::<Vec<_>>().join(", ")
    }
}
