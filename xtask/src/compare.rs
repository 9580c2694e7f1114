//! `cargo xtask compare`: the main job. Quick bench, profile of this host,
//! one beside the other.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::report::{
    ResultFile,
    compare::{self, Choice, Pair},
    host,
    schema::ResultKind,
};
use anyhow::{Result, bail};

use crate::{Outcome, bench, process, profile};

/// What the comparison is made of.
const WORKLOADS: [&str; 1] = ["walk"];

/// The profile that stands in where this host cannot be profiled.
const REFERENCE_PROFILE: &str = "results/reference/profile.jsonl";

/// Without files, measures both sides first, each quickly (about four minutes).
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
    let [a, b] = match options.files.as_slice() {
        [] => measure()?,
        [one] => bail!(
            "{} alone cannot be compared: name a bench result and a profile, two bench results, two profiles, or nothing",
            one.display()
        ),
        [a, b, ..] => compare::read_two(a, b)?,
    };
    let choice = Choice {
        young: options.young,
        schemes: options.schemes.clone(),
    };
    let pair = Pair::of(&a, &b, &choice)?;
    if options.json {
        ::report::out!("{}", serde_json::to_string_pretty(&pair)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for table in pair.tables() {
        ::report::out!("{}", crate::report::rendered(&table, options.format))?;
    }
    let (of_a, of_b) = match pair {
        Pair::Sides(_) => (a.context.kind.to_string(), b.context.kind.to_string()),
        Pair::Runs(_) | Pair::Profiles(_) => ("baseline".to_owned(), "now".to_owned()),
    };
    for (what, file) in [(of_a, &a), (of_b, &b)] {
        ::report::say!("{:<9} {}", what + ":", file.path.display());
    }
    ::report::say!(
        "--schemes NAME,… prints fewer; cargo xtask report FILE all tables of one file, and \
         cargo xtask report --html a page with figures"
    );
    if options.files.is_empty() {
        ::report::say!(
            "both sides were quick; for narrower intervals: cargo xtask bench walk, then cargo \
             xtask profile --duration 40s, and name both files here"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A bench result and a profile of this host.
fn measure() -> Result<[ResultFile; 2]> {
    ::report::say!("1/2 bench: the synthetic cost of every scheme on this host");
    let bench = ResultFile::read(&bench::quick(&WORKLOADS, None, &output(ResultKind::Bench))?)?;
    ::report::say!("2/2 profile: the real callbacks of this host's kernel");
    let target = output(ResultKind::Profile);
    let profile = match profile::record(&profile::Options::default(), &target) {
        Ok(profile) => profile,
        Err(error) if process::interrupted() => return Err(error),
        Err(error) => stand_in(&error)?,
    };
    Ok([bench, profile])
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
