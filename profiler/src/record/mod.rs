//! `rmapscope record`: records the aging callbacks of this host's VMs.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | what the user asked for, checked |
//! | `recorder` | runs a session from its start to its end |
//! | `output`, `held_up` | turn all of it into result records |

mod held_up;
mod options;
mod output;
mod recorder;

use std::{io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::{Result, anyhow, bail};
use report::{
    ResultFile, ResultWriter, WriteError, host, letter,
    schema::{Outcome, ResultKind},
    summary,
};

pub(crate) use options::{Options, parse_duration};

use self::{output::Finished, recorder::Recorder};
use crate::observe::{Ended, Ground, Look, Session, Signals, begin, signal_name};

/// Records, writes the result file and prints its tables.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    begin::run(&options.observe, record(options))
}

/// Signals are caught before the output file is begun, so that none can leave
/// a temporary file behind.
async fn record(options: &Options) -> Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let path = options.output.clone();
    let path = path.unwrap_or_else(|| host::default_output(ResultKind::Profile));
    let writer = ResultWriter::create(&path, host::context(ResultKind::Profile))?;

    let ground = match options.wait {
        true => match Ground::wait(&options.observe, &mut signals).await? {
            Look::Found(ground) => ground,
            Look::Interrupted(number) => return Ok(nothing_to_record(number)),
        },
        false => Box::new(Ground::find(&options.observe)?),
    };
    let session = Session::prepare(&options.observe, options.event_every, &ground)?;
    let mut recorder = Recorder::new(options, session);
    if let Some(number) = recorder.find_vms(&mut signals).await? {
        return Ok(nothing_to_record(number));
    }
    recorder.start(&ground.ladder)?;
    let ended = recorder.run(&mut signals).await?;
    let finished = recorder.finish(ended.clone(), &ground.ladder);
    let written = match finished.write(writer) {
        Err(refused @ WriteError::Io { .. }) => {
            let error = keep_elsewhere(&finished, &refused);
            return Err(match ended {
                Ended::Failed(reason) => anyhow!("{reason}; {error}"),
                _ => error,
            });
        }
        written => written?,
    };
    if let Ended::Failed(reason) = &ended {
        // Whatever failed may keep the tables from being shown too.
        let _ = ResultFile::read(&written).map(|file| show(options, &file));
        let written = written.display();
        bail!("{reason}; what was recorded until then is in {written}");
    }
    tell(options, &ended, &written)?;
    Ok(exit_code(&ended))
}

fn nothing_to_record(number: u8) -> ExitCode {
    report::say!(
        "ended by {} before there was a VM to record",
        signal_name(number)
    );
    exit_code(&Ended::Signal(number))
}

/// A disk that is full at the end must not cost the recording: it is kept in
/// the folder for temporary files. Returns what to tell the user.
fn keep_elsewhere(finished: &Finished, refused: &WriteError) -> anyhow::Error {
    let name = format!("rmapscope-profile-{}.jsonl", std::process::id());
    let path = std::env::temp_dir().join(name);
    let kept = ResultWriter::create(&path, host::context(ResultKind::Profile))
        .and_then(|writer| finished.write(writer));
    match kept {
        Ok(kept) => anyhow!("{refused}; what was recorded is kept in {}", kept.display()),
        Err(error) => anyhow!("{refused}; and what was recorded is lost: {error}"),
    }
}

/// Shows what was recorded.
fn tell(options: &Options, ended: &Ended, written: &Path) -> Result<()> {
    show(options, &ResultFile::read(written)?)?;
    if let Some(reason) = ended.reason() {
        report::say!("the recording is partial: {reason}");
    }
    if let Some(asked) = options.output.as_deref().filter(|asked| *asked != written) {
        report::say!(
            "{} was taken meanwhile; the profile is in {}",
            asked.display(),
            written.display()
        );
    } else if !options.quiet {
        report::say!("profile: {}", written.display());
    }
    Ok(())
}

/// As a shell expects: 128 plus the signal that ended the job.
fn exit_code(ended: &Ended) -> ExitCode {
    match ended {
        Ended::Duration => ExitCode::SUCCESS,
        Ended::VmsGone | Ended::KvmGone | Ended::Failed(_) => ExitCode::FAILURE,
        Ended::Signal(number) => ExitCode::from(128 + *number),
    }
}

fn show(options: &Options, file: &ResultFile) -> Result<()> {
    if options.json {
        let lines = std::fs::read_to_string(&file.path)?;
        report::out!("{}", lines.trim_end())?;
        return Ok(());
    }
    if options.quiet {
        return Ok(());
    }
    for line in summary::heading(file) {
        report::out!("{line}")?;
    }
    for table in summary::tables(file) {
        report::out!("\n{}", letter::on_terminal(&table))?;
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
        Ended::VmsGone | Ended::KvmGone | Ended::Signal(_) | Ended::Failed(_) => Outcome::Partial,
    }
}
