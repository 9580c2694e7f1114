//! `rmapscope record`: records the aging callbacks of this host's VMs.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | what the user asked for, checked |
//! | `attach` | loads and attaches the programs of one rung |
//! | `session` | keeps the tables fresh while the recording runs |
//! | `counts` | reads what the kernel side summed |
//! | `ended` | signals and other ends |
//! | `own_cost`, `disturbance` | what observing cost, and what disturbed it |
//! | `output` | turns all of it into result records |

mod attach;
mod counts;
mod disturbance;
mod ended;
mod options;
mod output;
mod own_cost;
mod session;

use std::{io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use report::{
    ResultFile, ResultWriter, host,
    schema::{Outcome, ResultKind},
    summary,
    table::Format,
};

pub(crate) use options::Options;

use self::{
    ended::{Ended, Signals},
    session::Session,
};
use crate::{
    census_command::check_process,
    ladder::{Ladder, Rung},
    logger,
    object::Kernel,
    privileges,
};

/// Records, writes the result file and prints its tables.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    options.check()?;
    privileges::check()?;
    if options.verbose {
        logger::install();
    }
    if let Some(pid) = options.pid {
        check_process(pid)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(record(options))
}

/// Signals are caught before the output file is begun, so that none can leave
/// a temporary file behind.
async fn record(options: &Options) -> Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let path = options.output.clone();
    let path = path.unwrap_or_else(|| host::default_output(ResultKind::Profile));
    let writer = ResultWriter::create(&path, host::context(ResultKind::Profile))?;

    let kernel = Kernel::read()?;
    let ladder = Ladder::probe(&kernel)?;
    let rung = choose(&ladder, options.mechanism)?;
    let mut session = Session::prepare(options, &kernel, rung)?;
    if let Some(number) = session.find_vms(&mut signals).await? {
        report::say!("ended by signal {number} before there was a VM to record");
        return Ok(exit_code(&Ended::Signal(number)));
    }
    session.start(ladder.inner)?;
    if !options.quiet {
        report::say!("{}", session.announcement());
    }
    let (ended, lasted) = session.run(&mut signals).await?;
    let finished = session.finish(ended, lasted, &ladder)?;
    let written = finished.write(writer)?;
    tell(options, ended, &written)?;
    Ok(exit_code(&ended))
}

/// Shows what was recorded.
fn tell(options: &Options, ended: Ended, written: &Path) -> Result<()> {
    show(options, &ResultFile::read(written)?)?;
    if let Some(reason) = ended.reason() {
        report::say!("the recording is partial: {reason}");
    }
    if !options.quiet {
        report::say!("profile: {}", written.display());
    }
    Ok(())
}

fn choose(ladder: &Ladder, asked: Option<Rung>) -> Result<Rung> {
    let Some(best) = ladder.rung else {
        bail!("no profile can be recorded on this host; `rmapscope doctor` says what is missing");
    };
    let rung = asked.unwrap_or(best);
    if !ladder.offers(rung) {
        let name = clap::ValueEnum::to_possible_value(&rung);
        let name = name.map_or_else(String::new, |value| value.get_name().to_owned());
        bail!("this host does not offer --mechanism {name}; `rmapscope doctor` says why");
    }
    Ok(rung)
}

/// As a shell expects: 128 plus the signal that ended the job.
fn exit_code(ended: &Ended) -> ExitCode {
    match ended {
        Ended::Duration => ExitCode::SUCCESS,
        Ended::VmsGone => ExitCode::FAILURE,
        Ended::Signal(number) => ExitCode::from(128 + *number),
    }
}

fn show(options: &Options, file: &ResultFile) -> Result<()> {
    if options.json {
        print!("{}", std::fs::read_to_string(&file.path)?);
        return Ok(());
    }
    if options.quiet {
        return Ok(());
    }
    for line in summary::heading(&file.context) {
        report::out!("{line}")?;
    }
    for table in summary::tables(file) {
        report::out!("\n{}", table.render(Format::Text))?;
    }
    Ok(())
}

/// Whether progress may be drawn on standard error.
fn draws_progress(options: &Options) -> bool {
    !options.quiet && !options.verbose && std::io::stderr().is_terminal()
}

/// How the file's end record calls it.
fn outcome(ended: &Ended) -> Outcome {
    match ended {
        Ended::Duration => Outcome::Complete,
        Ended::VmsGone | Ended::Signal(_) => Outcome::Partial,
    }
}
