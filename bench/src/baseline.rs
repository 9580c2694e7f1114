//! Comparing a run with an older one, and failing if it is slower.
//!
//! The baseline is read and checked before anything is measured, so that a run
//! of ten minutes does not end in a refusal.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use report::ResultFile;
use report::compare::{check_host, compare_runs};
use report::schema::Context;
use report::table::Format;

/// What the run is compared with.
#[derive(Debug, Args)]
pub struct BaselineArgs {
    /// Compare with this older result of the same host when done.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// End with status 1 if a cost is higher than the baseline's by more than this
    /// many percent, and not by chance.
    #[arg(long, value_name = "PCT", requires = "baseline", value_parser = percent)]
    fail_if_slower: Option<f64>,
}

/// A percentage that makes sense as a threshold.
fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1000.0).contains(&value) => Ok(value),
        _ => Err("a number of percent from 0 to 1000 is needed".to_owned()),
    }
}

/// An older run, and how much slower is too slow.
#[derive(Debug)]
pub struct Baseline {
    file: ResultFile,
    fail_if_slower: Option<f64>,
}

impl BaselineArgs {
    /// Reads the baseline, if one was named.
    ///
    /// # Errors
    /// It cannot be read, or was measured elsewhere or with another mmu_lock.
    pub fn open(&self, here: &Context) -> Result<Option<Baseline>> {
        let Some(path) = &self.baseline else {
            return Ok(None);
        };
        let file = ResultFile::read(path)?;
        check_host(&file, here)?;
        Ok(Some(Baseline {
            file,
            fail_if_slower: self.fail_if_slower,
        }))
    }
}

impl Baseline {
    /// The tables of the comparison, and the sentence to fail with if the run is
    /// too slow.
    ///
    /// # Errors
    /// The runs have no cell in common.
    pub fn compare(&self, new: &ResultFile) -> Result<(String, Option<String>)> {
        let compared = compare_runs(&self.file, new)?;
        let tables = compared.tables();
        let text: Vec<_> = tables.iter().map(|t| t.render(Format::Text)).collect();
        let verdict = self.fail_if_slower.and_then(|pct| compared.verdict(pct));
        Ok((text.join("\n"), verdict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_sensible_percentage() {
        assert_eq!(percent("5"), Ok(5.0));
        assert_eq!(percent("2.5"), Ok(2.5));
        for bad in ["-1", "nan", "inf", "five", "1001"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
