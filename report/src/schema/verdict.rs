//! Claims of others, and what became of them when they were tested.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Observed;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds as it was said.
    Confirmed,
    /// It holds under conditions that it did not name.
    Qualified,
    /// It does not hold.
    Refuted,
    /// What was measured does not decide it.
    Open,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Confirmed => "confirmed",
            Self::Qualified => "qualified",
            Self::Refuted => "refuted",
            Self::Open => "open",
        })
    }
}

/// One figure a verdict rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictNumber {
    /// What it is, e.g. `age, bitlock, 64 SPTEs`.
    pub name: String,
    /// Its unit, e.g. `ns`; empty for a count or a ratio.
    pub unit: String,
    /// The figure.
    pub value: Observed<f64>,
    /// Lower and upper end of its 95 % interval, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<(f64, f64)>,
}

/// A claim, how it was tested, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictRecord {
    /// Short name of the claim, unique in the file.
    pub claim_id: String,
    /// The claim, in one sentence.
    pub claim: String,
    /// Who made it and where: a message id, a commit, a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_in: Option<String>,
    /// How it was tested: commands, or names of tests.
    pub tested_by: String,
    /// The figures the verdict rests on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<VerdictNumber>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, in one sentence.
    pub because: String,
}
