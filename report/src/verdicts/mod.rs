//! The claims that were made about aging without mmu_lock, and what became of
//! each.
//!
//! A claim is one file under `claims/` and one line in [`CLAIMS`]: what was said,
//! in our words and with its source, and a function from evidence to a verdict.
//! The rule is in the code, so the same records always give the same verdict;
//! nobody's opinion enters. Where the evidence lacks a record, the verdict is open
//! and says which record is missing.

mod claims;
mod evidence;

pub use evidence::{Checks, Evidence, Profile};

use crate::schema::{Verdict, VerdictNumber, VerdictRecord};

/// The thread of July 2024 that most of the claims are from.
pub(crate) const THREAD: &str = "Zo137P7BFSxAutL2@google.com";

/// One claim and how it is decided.
pub struct Claim {
    /// Short name, unique.
    pub id: &'static str,
    /// What was said, in our words.
    pub claim: &'static str,
    /// Where it was said: a message id or a commit.
    pub claimed_in: &'static str,
    /// Which workloads, tests or recordings decide it.
    pub tested_by: &'static str,
    /// The rule.
    pub judge: fn(&Evidence<'_>) -> Judged,
}

/// What a rule came to.
pub struct Judged {
    /// The figures it rests on.
    pub numbers: Vec<VerdictNumber>,
    /// What became of the claim.
    pub verdict: Verdict,
    /// Why, in one sentence.
    pub because: String,
}

impl Judged {
    /// A verdict that rests on these figures.
    fn new(verdict: Verdict, because: impl Into<String>, numbers: Vec<VerdictNumber>) -> Self {
        Self {
            numbers,
            verdict,
            because: because.into(),
        }
    }

    /// Nothing was decided, because something is missing.
    fn open(because: impl Into<String>, numbers: Vec<VerdictNumber>) -> Self {
        Self::new(Verdict::Open, because, numbers)
    }
}

/// All claims, in the order they are printed.
pub static CLAIMS: &[&Claim] = &[
    &claims::empty::CLAIM,
    &claims::one_spte::CLAIM,
    &claims::garbage::CLAIM,
    &claims::recheck::CLAIM,
    &claims::plain_store::CLAIM,
    &claims::under_lock::CLAIM,
    &claims::skip::CLAIM,
    &claims::fallback::CLAIM,
    &claims::writers::CLAIM,
    &claims::collisions::CLAIM,
    &claims::lookaround::CLAIM,
    &claims::synchronize::CLAIM,
];

/// Judges every claim.
pub fn judge_all(evidence: &Evidence<'_>) -> Vec<VerdictRecord> {
    let record = |claim: &&Claim| {
        let judged = (claim.judge)(evidence);
        VerdictRecord {
            claim_id: claim.id.to_owned(),
            claim: claim.claim.to_owned(),
            claimed_in: Some(claim.claimed_in.to_owned()),
            tested_by: claim.tested_by.to_owned(),
            numbers: judged.numbers,
            verdict: judged.verdict,
            because: judged.because,
        }
    };
    CLAIMS.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_evidence_every_claim_is_open_and_says_what_is_missing() {
        let checks = Checks::default();
        let evidence = Evidence::new(&[], &[], &checks);
        let records = judge_all(&evidence);
        assert_eq!(records.len(), CLAIMS.len());
        for record in records {
            assert_eq!(record.verdict, Verdict::Open, "{}", record.claim_id);
            assert!(!record.because.is_empty(), "{}", record.claim_id);
        }
    }

    #[test]
    fn claims_have_names_of_their_own() {
        let mut ids: Vec<_> = CLAIMS.iter().map(|claim| claim.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), CLAIMS.len());
    }
}
