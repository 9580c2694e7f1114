//! `rmapscope compare`: one profile beside another, or a bench result beside a
//! profile, where the profiler was copied to.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use report::{ResultFile, compare, letter, schema::ResultKind, table::Table};

/// Options of `rmapscope compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Two recordings, the older first; or a recording and a bench result, in any order
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
        bail!("name a bench result and a profile, or two profiles");
    };
    let (mut bench, mut profile) = (ResultFile::read(a)?, ResultFile::read(b)?);
    if [bench.context.kind, profile.context.kind] == [ResultKind::Profile; 2] {
        if !options.schemes.is_empty() {
            bail!(
                "--schemes chooses among the schemes of a bench result, and both files are \
                 recordings; leave it out"
            );
        }
        let compared = compare::compare_profiles(&bench, &profile)?;
        return print(options.json, &compared, &compared.tables());
    }
    if bench.context.kind == ResultKind::Profile {
        std::mem::swap(&mut bench, &mut profile);
    }
    let mut comparison = compare::compare(&bench, &profile, None)?;
    comparison.keep_schemes(&options.schemes);
    print(options.json, &comparison, &comparison.tables())
}

fn print(json: bool, compared: &impl serde::Serialize, tables: &[Table]) -> Result<ExitCode> {
    if json {
        report::out!("{}", serde_json::to_string_pretty(compared)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for table in tables {
        report::out!("{}", letter::on_terminal(table))?;
    }
    Ok(ExitCode::SUCCESS)
}
