//! `rmapscope compare`: what `cargo xtask compare` does of two files, where only the
//! profiler was copied to.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use report::{
    compare::{self, Choice, Pair},
    letter,
};

/// Options of `rmapscope compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Two recordings or two bench results, the older first; or one of each, in any order
    #[arg(num_args = 2, required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Of a bench result, print only these schemes
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    schemes: Vec<String>,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the comparison.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let [a, b] = options.files.as_slice() else {
        bail!("name a bench result and a profile, or two of a kind");
    };
    let [a, b] = compare::read_two(a, b)?;
    let choice = Choice {
        young: None,
        schemes: options.schemes.clone(),
    };
    let pair = Pair::of(&a, &b, &choice)?;
    if options.json {
        report::out!("{}", serde_json::to_string_pretty(&pair)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for table in pair.tables() {
        report::out!("{}", letter::on_terminal(&table))?;
    }
    Ok(ExitCode::SUCCESS)
}
