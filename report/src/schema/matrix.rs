//! The kernel matrix: live tests on stock kernels, and what they counted.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One boot of a kernel in one configuration of KVM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BootRecord {
    /// The kernel, as the matrix calls it.
    pub kernel: String,
    /// Its `uname -r`.
    pub release: String,
    /// The configuration, as the matrix calls it.
    pub mode: String,
    /// The parameters KVM's modules were loaded with.
    pub parameters: String,
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests this kernel or configuration cannot run, and why.
    pub skipped: BTreeMap<String, String>,
    /// Wall-clock time of the boot, seconds. The machine is emulated.
    pub elapsed_s: f64,
    /// What was wrong, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One quantity that several witnesses counted independently of each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WitnessRecord {
    /// The kernel, as the matrix calls it.
    pub kernel: String,
    /// The configuration, as the matrix calls it.
    pub mode: String,
    /// The test that compared the counts.
    pub test: String,
    /// What was counted.
    pub of: String,
    /// Witness to count.
    pub by: BTreeMap<String, u64>,
}
