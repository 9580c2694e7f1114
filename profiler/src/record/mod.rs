//! `rmapscope record`: records the aging callbacks of this host's VMs.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | what the user asked for, checked |
//! | `recorder` | runs a session from its start to its end |
//! | `output` | turns all of it into result records |

mod options;
mod output;
mod recorder;

use std::{io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use report::{
    ResultFile, ResultWriter, host,
    schema::{Outcome, ResultKind},
    summary,
    table::Format,
};

pub(crate) use options::{Options, parse_duration};

use self::recorder::Recorder;
use crate::{
    ladder::Ladder,
    logger,
    object::Kernel,
    observe::{Ended, Session, Signals},
    privileges,
};

/// Records, writes the result file and prints its tables.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    options.check()?;
    privileges::check()?;
    if options.observe.verbose {
        logger::install();
    }
    options.observe.check_process()?;
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
    let rung = options.observe.choose(&ladder)?;
    let session = Session::prepare(&options.observe, options.event_every, &kernel, rung)?;
    let mut recorder = Recorder::new(options, session);
    if let Some(number) = recorder.find_vms(&mut signals).await? {
        report::say!("ended by signal {number} before there was a VM to record");
        return Ok(exit_code(&Ended::Signal(number)));
    }
    recorder.start(ladder.inner)?;
    let ended = recorder.run(&mut signals).await?;
    let finished = recorder.finish(ended, &ladder)?;
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
    !options.quiet && !options.observe.verbose && std::io::stderr().is_terminal()
}

/// How the file's end record calls it.
fn outcome(ended: &Ended) -> Outcome {
    match ended {
        Ended::Duration => Outcome::Complete,
        Ended::VmsGone | Ended::Signal(_) => Outcome::Partial,
    }
}
