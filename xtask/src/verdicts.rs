//! `cargo xtask verdicts`: every claim about aging without mmu_lock, tested.
//!
//! The claims and the rules that decide them are in `report`; here the evidence is
//! brought together: models and a stress run, a benchmark of the workloads that the
//! rules name, and a recorded profile.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use ::report::{
    ResultFile, ResultWriter, host,
    schema::{Disturbance, Outcome as JobOutcome, Record, ResultKind},
    summary,
    verdicts::{self, Checks, Evidence, Profile},
};
use anyhow::{Context as _, Result, bail};

use crate::{Outcome, bench, process, test};

/// The workloads that claims are judged by.
const WORKLOADS: [&str; 7] = [
    "walk",
    "writer",
    "interference",
    "agers",
    "accuracy",
    "reuse",
    "lookaround",
];
/// Rounds: enough for narrow intervals of ratios.
const ROUNDS: u32 = 12;
/// The scheme whose plain-store unlock is put under stress, and how long.
const STRESSED: &str = "bitlock-seed";
const STRESS_OPS: &str = "2e7";
/// The profiles that are taken where none is named.
const REFERENCE_PROFILES: [&str; 2] = [
    "results/reference/profile.jsonl",
    "results/reference/nested.jsonl",
];

/// Tests every claim of the 2024 thread and of the merge that followed, and prints
/// one row per claim: what was said, how it is tested, the figures, the verdict.
///
/// Without files it runs the models, a stress run and the workloads that decide the
/// claims (about five minutes), and takes the reference profiles.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Judge by this benchmark instead of a new one
    #[arg(long, value_name = "FILE")]
    bench: Option<PathBuf>,
    /// Judge by these profiles [default: those in results/reference]
    #[arg(long, value_delimiter = ',', value_name = "FILE,…")]
    profile: Vec<PathBuf>,
    /// Do not run models and stress; the claims that need them stay open
    #[arg(long)]
    no_models: bool,
    /// Result file [default: results/runs/verdict-TIME.jsonl]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result's JSON lines instead of the table
    #[arg(long)]
    json: bool,
}

/// Brings the evidence together, judges, writes and prints.
pub(crate) fn run(options: &Options) -> Outcome {
    let output = options.output.clone();
    let output = output.unwrap_or_else(|| host::default_output(ResultKind::Verdict));
    let writer = ResultWriter::create(&output, process::own_context(ResultKind::Verdict))?;
    let profiles = profiles(&options.profile)?;
    let mut checks = Checks::default();
    if !options.no_models {
        models(&mut checks)?;
        stress(&mut checks)?;
    }
    let bench = match &options.bench {
        Some(path) => ResultFile::read(path)?,
        None => measure()?,
    };
    require(&bench, ResultKind::Bench)?;
    let recorded: Vec<Profile<'_>> = profiles.iter().map(recorded).collect();
    let evidence = Evidence::new(&bench.records, &recorded, &checks);
    let written = write(writer, &evidence)?;
    let file = ResultFile::read(&written)?;
    if options.json {
        print!("{}", std::fs::read_to_string(&file.path)?);
    } else {
        print(&file)?;
    }
    ::report::say!("bench:    {}", bench.path.display());
    for profile in &profiles {
        ::report::say!("profile:  {}", profile.path.display());
    }
    ::report::say!("verdicts: {}", file.path.display());
    Ok(ExitCode::SUCCESS)
}

/// One paragraph per claim: a table of such long cells is no table.
fn print(file: &ResultFile) -> Result<()> {
    for record in &file.records {
        let Record::Verdict(v) = record else { continue };
        ::report::out!("{}: {}", v.claim_id, v.verdict)?;
        ::report::out!("  claim:   {}", v.claim)?;
        ::report::out!("  because: {}", v.because)?;
        ::report::out!("  tested:  {}", v.tested_by)?;
        for number in &v.numbers {
            ::report::out!("  figure:  {}", summary::verdict_figure(number))?;
        }
    }
    Ok(())
}

fn profiles(asked: &[PathBuf]) -> Result<Vec<ResultFile>> {
    let reference = REFERENCE_PROFILES.map(|path| process::workspace().join(path));
    let paths = if asked.is_empty() { &reference } else { asked };
    let read = |path: &PathBuf| -> Result<ResultFile> {
        let file = ResultFile::read(path)?;
        require(&file, ResultKind::Profile)?;
        Ok(file)
    };
    paths.iter().map(read).collect()
}

fn recorded(file: &ResultFile) -> Profile<'_> {
    Profile {
        kvm: &file.context.host.kvm,
        records: &file.records,
    }
}

fn require(file: &ResultFile, kind: ResultKind) -> Result<()> {
    if file.context.kind == kind {
        return Ok(());
    }
    bail!(
        "{} holds a {}, and a {kind} is needed here",
        file.path.display(),
        file.context.kind
    );
}

fn measure() -> Result<ResultFile> {
    let output = host::default_output(ResultKind::Bench);
    bench::quick(&WORKLOADS, Some(ROUNDS), &output)?;
    Ok(ResultFile::read(&output)?)
}

/// Runs the model checks and notes how each ended. One that fails is evidence, not
/// an error.
fn models(checks: &mut Checks) -> Result<()> {
    let mut command = test::loom()?;
    ::report::say!("models: {}", process::shown(&command));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    let mut count = 0;
    for line in BufReader::new(stdout).lines() {
        if let Some((name, passed)) = outcome(&line?) {
            checks.add(name, passed);
            count += 1;
        }
    }
    process::wait(&mut child)?;
    if count == 0 {
        bail!("no model ran; see above, and try: cargo xtask test --only loom");
    }
    ::report::say!("models: {count} ran");
    Ok(())
}

/// The test's name and whether it passed, from a line of a test program.
fn outcome(line: &str) -> Option<(String, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let passed = match outcome {
        "ok" => true,
        "FAILED" => false,
        _ => return None,
    };
    // Tests inside modules are known by their own names.
    let name = name.rsplit("::").next().unwrap_or(name);
    Some((name.to_owned(), passed))
}

fn stress(checks: &mut Checks) -> Result<()> {
    let mut command = Command::new(process::build("rmapscope-bench")?);
    command
        .args(["stress", "--scheme", STRESSED, "--ops", STRESS_OPS])
        .stdout(Stdio::null());
    let status = process::status(&mut command)?;
    match status.code() {
        Some(0) => checks.add(format!("stress {STRESSED}"), true),
        Some(1) => checks.add(format!("stress {STRESSED}"), false),
        _ => bail!("{status} from: {}", process::shown(&command)),
    }
    Ok(())
}

fn write(mut writer: ResultWriter, evidence: &Evidence<'_>) -> Result<PathBuf> {
    for verdict in verdicts::judge_all(evidence) {
        writer.push(&Record::Verdict(Box::new(verdict)))?;
    }
    let disturbance = Disturbance::unwatched("the runs judged by watched their own");
    Ok(writer.finish(JobOutcome::Complete, None, disturbance)?)
}

#[cfg(test)]
mod tests {
    use super::outcome;

    #[test]
    fn a_models_outcome_is_read_from_its_line() {
        let named = |name: &str, passed| Some((name.to_owned(), passed));
        assert_eq!(
            outcome("test pairs::i_life_x ... ok"),
            named("i_life_x", true)
        );
        assert_eq!(
            outcome("test i_life_y ... FAILED"),
            named("i_life_y", false)
        );
        assert_eq!(outcome("test i_life_z ... ignored"), None);
        assert_eq!(outcome("test result: ok. 19 passed"), None);
    }
}
