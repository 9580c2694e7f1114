//! `cargo xtask compare`: the main job. Quick bench, profile of this host,
//! one beside the other.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::report::{
    ResultFile,
    compare::{self, YoungShares},
    host,
    schema::ResultKind,
};
use anyhow::{Result, bail};

use crate::{Outcome, bench, process, profile};

/// What the comparison is made of.
const WORKLOADS: [&str; 1] = ["walk"];

/// The profile that stands in where this host cannot be profiled.
const REFERENCE_PROFILE: &str = "results/reference/profile.jsonl";

/// Without files, measures both sides first (about four minutes).
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A bench result and a profile, in any order; or two bench results of one host, or
    /// two profiles of any, the older first; with none, a bench result and a profile are
    /// made
    #[arg(num_args = 0..=2, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Share of SPTEs with the Accessed bit set on the synthetic side, 0 to 1
    /// [default: what the recorded guest's was]
    #[arg(long, value_name = "SHARE")]
    young: Option<f64>,
    /// Print only these schemes
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    schemes: Vec<String>,
    /// Print the comparison as JSON
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How to print the tables
    #[arg(long, value_enum, default_value_t = crate::report::Style::Text)]
    format: crate::report::Style,
}

/// Measures what is missing and prints the comparison.
pub(crate) fn run(options: &Options) -> Outcome {
    if options.format == crate::report::Style::Benchstat {
        bail!(
            "--format benchstat: a comparison has no lines for benchstat; give it those of \
             `cargo xtask report --format benchstat FILE` for each of two bench results"
        );
    }
    if let Some(young) = options.young.filter(|y| !(0.0..=1.0).contains(y)) {
        bail!("--young {young}: a share lies between 0 and 1");
    }
    let (bench, profile) = match options.files.as_slice() {
        [] => measure()?,
        [one] => bail!(
            "{} alone cannot be compared: name a bench result and a profile, two bench results, two profiles, or nothing",
            one.display()
        ),
        [a, b, ..] => {
            if is_same(a, b) {
                bail!("{} and {} are one file; name two", a.display(), b.display());
            }
            let (a, b) = (ResultFile::read(a)?, ResultFile::read(b)?);
            match (a.context.kind, b.context.kind) {
                (ResultKind::Bench, ResultKind::Bench) => return runs(options, &a, &b),
                (ResultKind::Profile, ResultKind::Profile) => return profiles(options, &a, &b),
                _ => {}
            }
            sides(a, b)
        }
    };
    let mut comparison = compare::compare(&bench, &profile, options.young.map(YoungShares::all))?;
    if let Some(unknown) = options
        .schemes
        .iter()
        .find(|s| !comparison.schemes().contains(s))
    {
        let known: Vec<&str> = comparison.schemes().iter().map(|s| s.as_str()).collect();
        bail!(
            "--schemes {unknown}: {} has {}",
            bench.path.display(),
            known.join(", ")
        );
    }
    comparison.keep_schemes(&options.schemes);
    if options.json {
        ::report::out!("{}", serde_json::to_string_pretty(&comparison)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for table in comparison.tables() {
        ::report::out!("{}", crate::report::rendered(&table, options.format))?;
    }
    ::report::say!("bench:   {}", bench.path.display());
    ::report::say!("profile: {}", profile.path.display());
    ::report::say!("--schemes NAME,… prints fewer; cargo xtask report FILE all tables of one file");
    Ok(ExitCode::SUCCESS)
}

/// Two bench runs of one host, the older first.
fn runs(options: &Options, base: &ResultFile, new: &ResultFile) -> Outcome {
    let mut compared = compare::compare_runs(base, new)?;
    if !options.schemes.is_empty() {
        compared
            .changes
            .retain(|c| options.schemes.contains(&c.scheme));
    }
    beside(options, &compared, &compared.tables(), [base, new])
}

/// Two profiles, of two kernels or hosts, the older first.
fn profiles(options: &Options, base: &ResultFile, new: &ResultFile) -> Outcome {
    let compared = compare::compare_profiles(base, new)?;
    beside(options, &compared, &compared.tables(), [base, new])
}

/// Prints what became of a baseline.
fn beside(
    options: &Options,
    compared: &impl serde::Serialize,
    tables: &[::report::table::Table],
    [base, new]: [&ResultFile; 2],
) -> Outcome {
    if options.json {
        ::report::out!("{}", serde_json::to_string_pretty(compared)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for table in tables {
        ::report::out!("{}", crate::report::rendered(table, options.format))?;
    }
    ::report::say!("baseline: {}", base.path.display());
    ::report::say!("now:      {}", new.path.display());
    Ok(ExitCode::SUCCESS)
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn sides(a: ResultFile, b: ResultFile) -> (ResultFile, ResultFile) {
    if a.context.kind == ResultKind::Profile {
        (b, a)
    } else {
        (a, b)
    }
}

fn measure() -> Result<(ResultFile, ResultFile)> {
    ::report::say!("1/2 bench: the synthetic cost of every scheme on this host");
    let bench = ResultFile::read(&bench::quick(&WORKLOADS, None, &output(ResultKind::Bench))?)?;
    ::report::say!("2/2 profile: the real callbacks of this host's kernel");
    let target = output(ResultKind::Profile);
    let profile = match profile::record(&profile::Options::default(), &target) {
        Ok(profile) => profile,
        Err(error) if process::interrupted() => return Err(error),
        Err(error) => stand_in(&error)?,
    };
    Ok((bench, profile))
}

fn output(kind: ResultKind) -> PathBuf {
    process::workspace().join(host::default_output(kind))
}

/// The committed profile, with the reason why it is needed.
fn stand_in(error: &anyhow::Error) -> Result<ResultFile> {
    let path: &Path = &process::workspace().join(REFERENCE_PROFILE);
    let reference = ResultFile::read(path)?;
    ::report::say!("This host was not profiled: {error:#}");
    ::report::say!(
        "The real side below is the reference profile {REFERENCE_PROFILE}, of another host \
         or time: {}. Compare ratios, not times.",
        reference.context.host.label
    );
    Ok(reference)
}
