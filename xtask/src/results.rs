//! `cargo xtask results`: what result files there are, what is in them,
//! whether they are sound, and several made into one.

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{Receiver, sync_channel},
    thread::Scope,
};

use ::report::{
    ReadError, ResultFile, ResultWriter,
    merge::{Merger, Runs},
    schema::Disturbance,
    table::{Column, Format, Table, count, figure},
};
use anyhow::{Context as _, Result, bail};

use crate::{Outcome, process};

/// Works on result files; see docs/results.md for what is in them.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the result files below a folder
    List {
        /// The folder [default: results]
        folder: Option<PathBuf>,
        /// Print one JSON object per file
        #[arg(long)]
        json: bool,
    },
    /// Print the tables of result files
    Show {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Read result files and say what is wrong with each
    Validate {
        /// The files [default: all below results]
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Add up results that were measured alike, on one host or on many
    Merge {
        /// The files
        #[arg(required = true, num_args = 2.., value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where to write the sum
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Keep the runs of recordings apart, so that `compare` sees how much they differ;
        /// the file then is as long as all of them
        #[arg(long)]
        keep_runs: bool,
    },
}

/// Does what was asked.
pub(crate) fn run(options: &Options) -> Outcome {
    match &options.action {
        Action::List { folder, json } => list(folder.as_deref(), *json),
        Action::Show { files } => {
            for path in files {
                crate::report::print(&ResultFile::read(path)?, crate::report::Style::Text)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Validate { files } => validate(files),
        Action::Merge {
            files,
            output,
            keep_runs,
        } => {
            let runs = if *keep_runs {
                Runs::Kept
            } else {
                Runs::AddedUp
            };
            merge(files, output, runs)
        }
    }
}

fn results() -> PathBuf {
    process::workspace().join("results")
}

/// The result files below a folder, sorted.
///
/// # Errors
/// If the folder or one below it cannot be listed.
pub(crate) fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "jsonl") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn list(folder: Option<&Path>, json: bool) -> Outcome {
    let folder = folder.map_or_else(results, Path::to_owned);
    let mut table = Table::new(
        "",
        vec![
            Column::text("file"),
            Column::text("kind"),
            Column::text("begun (UTC)"),
            Column::number("records"),
            Column::number("took (s)"),
            Column::text("state"),
            Column::text("host"),
        ],
    );
    for path in below(&folder)? {
        let name = path
            .strip_prefix(&folder)
            .unwrap_or(&path)
            .display()
            .to_string();
        let read = ResultFile::read(&path);
        if json {
            ::report::out!("{}", as_json(&name, &read))?;
            continue;
        }
        let mut row = vec![name];
        match read {
            Ok(file) => row.extend([
                file.context.kind.to_string(),
                file.context.created_utc.clone(),
                count(file.end.records),
                figure(file.end.elapsed_s),
                if file.is_complete() {
                    "complete"
                } else {
                    "partial"
                }
                .to_owned(),
                file.context.host.label.clone(),
            ]),
            Err(error) => {
                row.resize(5, "-".to_owned());
                row.extend(["damaged".to_owned(), error.to_string()]);
            }
        }
        table.row(row);
    }
    if !json {
        ::report::out!("{}", table.render(Format::Text))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(name: &str, read: &Result<ResultFile, ::report::ReadError>) -> serde_json::Value {
    match read {
        Ok(file) => serde_json::json!({
            "file": name,
            "kind": file.context.kind,
            "created_utc": file.context.created_utc,
            "records": file.end.records,
            "elapsed_s": file.end.elapsed_s,
            "outcome": file.end.outcome,
            "host": file.context.host.label,
        }),
        Err(error) => serde_json::json!({ "file": name, "error": error.to_string() }),
    }
}

fn validate(files: &[PathBuf]) -> Outcome {
    let files = if files.is_empty() {
        below(&results())?
    } else {
        files.to_vec()
    };
    let mut damaged = 0;
    for path in &files {
        match ResultFile::read(path) {
            Ok(file) => ::report::out!(
                "{}: sound, {} of {} records",
                path.display(),
                file.context.kind,
                count(file.end.records)
            )?,
            Err(error) => {
                damaged += 1;
                ::report::out!("{error}")?;
            }
        }
    }
    if damaged > 0 {
        bail!("{damaged} of {} files cannot be used", files.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn merge(files: &[PathBuf], output: &Path, runs: Runs) -> Outcome {
    let merger = std::thread::scope(|scope| {
        let mut merger: Option<Merger> = None;
        for (read, file) in read_ahead(scope, files).enumerate() {
            match &mut merger {
                None => merger = Some(Merger::new(file?, runs)?),
                Some(merger) => merger.add(file?)?,
            }
            if process::interrupted() {
                bail!("interrupted after {} files; nothing was written", read + 1);
            }
        }
        merger.context("nothing to merge: name result files")
    })?;
    let sum = merger.finish();
    let mut writer = ResultWriter::create(output, sum.context)?;
    for record in &sum.records {
        writer.push(record)?;
    }
    let apart = Disturbance::unwatched("the merged files each have their own");
    let path = writer.finish(sum.outcome, sum.reason, apart)?;
    ::report::say!("{} files are in {}", files.len(), path.display());
    Ok(ExitCode::SUCCESS)
}

/// Files in their order, read by one thread per CPU, each at most one file
/// ahead.
fn read_ahead<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    files: &'env [PathBuf],
) -> impl Iterator<Item = Result<ResultFile, ReadError>> + 'scope {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let readers: Vec<Receiver<_>> = (0..threads)
        .map(|thread| {
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move || {
                for path in files.iter().skip(thread).step_by(threads) {
                    // A merge that has failed reads no further.
                    if sender.send(ResultFile::read_sums(path)).is_err() {
                        return;
                    }
                }
            });
            receiver
        })
        .collect();
    (0..files.len()).map_while(move |index| readers[index % threads].recv().ok())
}
