//! Reading and writing result files.
//!
//! A writer writes to a temporary file in the target's folder and renames it
//! when it is finished, never over an existing file. A reader treats a file
//! as hostile: it bounds line lengths, refuses unknown major versions and
//! notices a file that was cut short, and every error names file, line and
//! what to do.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use tempfile::NamedTempFile;

use crate::schema::{Context, Disturbance, End, Outcome, Record, SchemaVersion};
use crate::terminal::harmless;

/// Longest line that is read, bytes.
const MAX_LINE: u64 = 8 << 20;

/// Why a result file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The target exists; results are never overwritten.
    #[error(
        "{0} exists already and results are never overwritten; name another file with --output"
    )]
    Exists(PathBuf),
    /// The target names no file.
    #[error("{0} names a folder and not a file; name a file with --output")]
    NoFile(PathBuf),
    /// The folder cannot be written.
    #[error("cannot write in the folder {folder}: {cause}; name a file elsewhere with --output")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Writing failed half way; no file is left under the final name.
    #[error("cannot write {path}: {cause}; nothing was left under that name")]
    Io {
        /// The target.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A record could not be expressed as JSON.
    #[error("a record for {path} cannot be written as JSON: {cause}")]
    Json {
        /// The target.
        path: PathBuf,
        /// What the serialiser said.
        cause: serde_json::Error,
    },
}

/// Writes one result file.
///
/// Dropped without [`finish`](Self::finish), it removes what it wrote.
#[derive(Debug)]
pub struct ResultWriter {
    path: PathBuf,
    // Dropped in this order: the temporary file goes before its folders.
    out: BufWriter<NamedTempFile>,
    made: MadeFolders,
    records: u64,
    started: Instant,
}

impl ResultWriter {
    /// Checks that `path` can be written and begins the file with `context`.
    /// Creates missing folders.
    ///
    /// # Errors
    /// [`WriteError::Exists`] and [`WriteError::Folder`] before any work is
    /// lost, [`WriteError::Io`] if the disk refuses.
    pub fn create(path: &Path, context: Context) -> Result<Self, WriteError> {
        let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if path.file_name().is_none() || ends_in_slash {
            return Err(WriteError::NoFile(path.to_owned()));
        }
        if path.symlink_metadata().is_ok() {
            return Err(WriteError::Exists(path.to_owned()));
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let refused = |cause| WriteError::Folder {
            folder: folder.to_owned(),
            cause,
        };
        let made = MadeFolders::make(folder).map_err(refused)?;
        let temporary = tempfile::Builder::new()
            .prefix(".rmapscope-")
            .suffix(".partial")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(refused)?;
        let mut writer = Self {
            path: path.to_owned(),
            out: BufWriter::new(temporary),
            made,
            records: 0,
            started: Instant::now(),
        };
        writer.push(&Record::Context(Box::new(context)))?;
        Ok(writer)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`WriteError::Io`] if the disk refuses, [`WriteError::Json`] if a
    /// record has a value JSON cannot hold.
    pub fn push(&mut self, record: &Record) -> Result<(), WriteError> {
        let line = serde_json::to_string(record).map_err(|cause| WriteError::Json {
            path: self.path.clone(),
            cause,
        })?;
        let written = self
            .out
            .write_all(line.as_bytes())
            .and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|cause| self.io(cause))?;
        self.records += 1;
        Ok(())
    }

    /// Ends the file and gives it its final name.
    ///
    /// # Errors
    /// [`WriteError::Exists`] if the name was taken meanwhile,
    /// [`WriteError::Io`] if the disk refuses.
    pub fn finish(
        mut self,
        outcome: Outcome,
        reason: Option<String>,
        disturbance: Disturbance,
    ) -> Result<PathBuf, WriteError> {
        let end = End {
            records: self.records + 1,
            outcome,
            reason,
            elapsed_s: self.started.elapsed().as_secs_f64(),
            disturbance,
        };
        self.push(&Record::End(end))?;
        let Self {
            path,
            out,
            mut made,
            ..
        } = self;
        let failed = |cause| WriteError::Io {
            path: path.clone(),
            cause,
        };
        let temporary = out.into_inner().map_err(|e| failed(e.into_error()))?;
        temporary.as_file().sync_all().map_err(failed)?;
        match temporary.persist_noclobber(&path) {
            Ok(_) => {
                made.keep();
                Ok(path)
            }
            Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(WriteError::Exists(path))
            }
            Err(e) => Err(failed(e.error)),
        }
    }

    /// Where the file will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn io(&self, cause: std::io::Error) -> WriteError {
        WriteError::Io {
            path: self.path.clone(),
            cause,
        }
    }
}

/// Folders made for a file that may never come; removed again if it does not.
#[derive(Debug)]
struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    fn make(folder: &Path) -> std::io::Result<Self> {
        let missing = |f: &&Path| !f.as_os_str().is_empty() && !f.exists();
        let missing: Vec<PathBuf> = folder
            .ancestors()
            .take_while(missing)
            .map(Path::to_owned)
            .collect();
        let made = Self(missing);
        std::fs::create_dir_all(folder)?;
        Ok(made)
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Refused when somebody else has put something there meanwhile.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Why a result file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error("cannot read {path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The first line is no rmapscope context.
    #[error("{path} is not an rmapscope result file: {detail}")]
    NotAResult {
        /// The file.
        path: PathBuf,
        /// What its first line is instead.
        detail: String,
    },
    /// Written with a schema this program does not know.
    #[error(
        "{path} has schema version {found}, this program reads {} only; use the rmapscope that wrote it",
        SchemaVersion::MAJOR
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its major version.
        found: u32,
    },
    /// A line is not a record.
    #[error("{path}:{line}: {detail}; the file was damaged or edited, make it anew")]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What is wrong.
        detail: String,
    },
    /// The file has no end record.
    #[error("{path} was cut short: its last line is not an end record; copy or make it again")]
    Truncated {
        /// The file.
        path: PathBuf,
    },
}

/// A result file, read and checked.
#[derive(Clone, Debug)]
pub struct ResultFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its first record.
    pub context: Context,
    /// All records between the first and the last.
    pub records: Vec<Record>,
    /// Its last record.
    pub end: End,
}

impl ResultFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// A [`ReadError`] naming the file, the line and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path).map_err(|cause| ReadError::Io {
            path: path.to_owned(),
            cause,
        })?;
        Self::read_from(BufReader::new(file), path)
    }

    /// Reads and checks records from `reader`; `path` is for messages.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_from(mut reader: impl BufRead, path: &Path) -> Result<Self, ReadError> {
        let first = next_line(&mut reader, path, 1)?.unwrap_or_default();
        let context = parse_context(&first, path)?;
        let mut records = Vec::new();
        let mut number = 1;
        let end = loop {
            number += 1;
            let Some(line) = next_line(&mut reader, path, number)? else {
                return Err(ReadError::Truncated {
                    path: path.to_owned(),
                });
            };
            match parse_record(&line, path, number)? {
                Record::End(end) => break end,
                Record::Context(_) => {
                    return Err(bad_line(path, number, "a second context record"));
                }
                record => records.push(record),
            }
        };
        if end.records != number {
            let detail = format!(
                "the end record counts {} records, there are {number}",
                end.records
            );
            return Err(bad_line(path, number, &detail));
        }
        if next_line(&mut reader, path, number + 1)?.is_some() {
            return Err(bad_line(
                path,
                number + 1,
                "there are lines after the end record",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            context,
            records,
            end,
        })
    }

    /// Whether the job was finished.
    pub fn is_complete(&self) -> bool {
        self.end.outcome == Outcome::Complete
    }
}

fn bad_line(path: &Path, line: u64, detail: &str) -> ReadError {
    ReadError::Line {
        path: path.to_owned(),
        line,
        detail: harmless(detail).into_owned(),
    }
}

fn next_line(
    reader: &mut impl BufRead,
    path: &Path,
    number: u64,
) -> Result<Option<String>, ReadError> {
    let mut bytes = Vec::new();
    reader
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut bytes)
        .map_err(|cause| ReadError::Io {
            path: path.to_owned(),
            cause,
        })?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        if bytes.len() as u64 >= MAX_LINE - 1 {
            return Err(bad_line(path, number, "a line longer than 8 MiB"));
        }
        return if number == 1 {
            Err(not_a_result(path, "it has no complete first line"))
        } else {
            Err(ReadError::Truncated {
                path: path.to_owned(),
            })
        };
    }
    match String::from_utf8(bytes) {
        Ok(line) => Ok(Some(line)),
        Err(_) if number == 1 => Err(not_a_result(path, "its first line is not UTF-8")),
        Err(_) => Err(bad_line(path, number, "not UTF-8")),
    }
}

fn not_a_result(path: &Path, detail: &str) -> ReadError {
    ReadError::NotAResult {
        path: path.to_owned(),
        detail: detail.to_owned(),
    }
}

fn parse_context(line: &str, path: &Path) -> Result<Context, ReadError> {
    if line.is_empty() {
        return Err(not_a_result(path, "it is empty"));
    }
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|_| not_a_result(path, "its first line is not JSON"))?;
    let schema = &value["schema"];
    if value["record"] != "context" || schema["name"] != SchemaVersion::NAME {
        return Err(not_a_result(
            path,
            "its first line is not an rmapscope context record",
        ));
    }
    let found = schema["major"].as_u64().unwrap_or(0);
    if found != u64::from(SchemaVersion::MAJOR) {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        return Err(ReadError::Version {
            path: path.to_owned(),
            found,
        });
    }
    match parse_record(line, path, 1)? {
        Record::Context(context) => Ok(*context),
        _ => Err(not_a_result(path, "its first line is not a context record")),
    }
}

fn parse_record(line: &str, path: &Path, number: u64) -> Result<Record, ReadError> {
    serde_json::from_str(line).map_err(|e| bad_line(path, number, &e.to_string()))
}
