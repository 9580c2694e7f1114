//! Reading a result file that may be damaged, foreign or hostile.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
};

use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{numbers, place::field_at};
use crate::schema::{Context, End, Outcome, Record, SchemaVersion};
use crate::terminal::harmless;

/// Longest line that is read, bytes.
const MAX_LINE: u64 = 8 << 20;
/// Largest file that is read, bytes.
const MAX_FILE: u64 = 512 << 20;

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
    /// The file is larger than any result.
    #[error(
        "{path}: the file is larger than {} MiB, which no result is; name a result file",
        MAX_FILE >> 20
    )]
    Large {
        /// The file.
        path: PathBuf,
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
    /// Raw events that were counted instead of read; see [`read_sums`](Self::read_sums).
    pub events_left: u64,
    /// Its last record.
    pub end: End,
}

/// What is done with raw events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Events {
    Read,
    Count,
}

/// How the line of a raw event begins, as it is written.
const EVENT: &str = r#"{"record":"event","#;

impl ResultFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// A [`ReadError`] naming the file, the line and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        Self::open(path, Events::Read)
    }

    /// Reads and checks a file but for its raw events, which are most of a
    /// recording and in no sum; they are counted.
    ///
    /// # Errors
    /// As [`read`](Self::read), but an event's fields may be wrong.
    pub fn read_sums(path: &Path) -> Result<Self, ReadError> {
        Self::open(path, Events::Count)
    }

    fn open(path: &Path, events: Events) -> Result<Self, ReadError> {
        let io = |cause| ReadError::Io {
            path: path.to_owned(),
            cause,
        };
        let file = File::open(path).map_err(io)?;
        // Said at once, not after half of it was read.
        if file.metadata().map_err(io)?.len() > MAX_FILE {
            return Err(ReadError::Large {
                path: path.to_owned(),
            });
        }
        Self::read_lines(BufReader::new(file), path, events)
    }

    /// Reads and checks records from `reader`; `path` is for messages.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_from(reader: impl BufRead, path: &Path) -> Result<Self, ReadError> {
        Self::read_lines(reader, path, Events::Read)
    }

    /// As [`read_sums`](Self::read_sums), from `reader`; `path` is for messages.
    ///
    /// # Errors
    /// As [`read_sums`](Self::read_sums).
    pub fn read_sums_from(reader: impl BufRead, path: &Path) -> Result<Self, ReadError> {
        Self::read_lines(reader, path, Events::Count)
    }

    fn read_lines(reader: impl BufRead, path: &Path, events: Events) -> Result<Self, ReadError> {
        let mut reader = reader.take(MAX_FILE);
        let first = next_line(&mut reader, path, 1)?.unwrap_or_default();
        let context = parse_context(&first, path)?;
        let mut records = Vec::new();
        let mut events_left = 0;
        let mut number = 1;
        let end = loop {
            number += 1;
            let path_owned = || path.to_owned();
            let line = match next_line(&mut reader, path, number) {
                Err(ReadError::Truncated { .. }) | Ok(None) if reader.limit() == 0 => {
                    return Err(ReadError::Large { path: path_owned() });
                }
                Ok(None) => return Err(ReadError::Truncated { path: path_owned() }),
                line => line?.unwrap_or_default(),
            };
            if events == Events::Count && line.starts_with(EVENT) && is_json(&line) {
                events_left += 1;
                continue;
            }
            let record = match parse_record(&line, path, number) {
                Err(_) if is_of_later_version(&line, &context) => continue,
                record => record?,
            };
            match record {
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
            events_left,
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

fn is_json(line: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(line).is_ok()
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

/// How the error for a record of no known kind begins.
const UNKNOWN_RECORD: &str = "unknown kind of record ";

/// The record's name, read first: a record is then read as its own type, which
/// is faster than trying, and an error can name the field.
fn name(line: &str) -> Result<Cow<'_, str>, String> {
    #[derive(Deserialize)]
    struct Tag<'a> {
        #[serde(borrow)]
        record: Cow<'a, str>,
    }
    // As it is written: no look at the rest of the line.
    let written = line.strip_prefix(r#"{"record":""#);
    if let Some((name, _)) = written.and_then(|rest| rest.split_once('"'))
        && !name.contains('\\')
    {
        return Ok(Cow::Borrowed(name));
    }
    let tag: Tag<'_> = serde_json::from_str(line).map_err(|e| e.to_string())?;
    Ok(tag.record)
}

fn parse_record(line: &str, path: &Path, number: u64) -> Result<Record, ReadError> {
    parsed(line).map_err(|detail| bad_line(path, number, &detail))
}

fn parsed(line: &str) -> Result<Record, String> {
    let name = name(line)?;
    let record = match name.as_ref() {
        "context" => Record::Context(Box::new(body(line)?)),
        "bench" => Record::Bench(Box::new(body(line)?)),
        "run" => Record::Run(Box::new(body(line)?)),
        "mechanism" => Record::Mechanism(body(line)?),
        "vm" => Record::Vm(body(line)?),
        "callbacks" => Record::Callbacks(Box::new(body(line)?)),
        "cost" => Record::Cost(body(line)?),
        "interference" => Record::Interference(Box::new(body(line)?)),
        "census" => Record::Census(body(line)?),
        "loss" => Record::Loss(body(line)?),
        "overhead" => Record::Overhead(body(line)?),
        "event" => Record::Event(body(line)?),
        "stack" => Record::Stack(body(line)?),
        "replay" => Record::Replay(Box::new(body(line)?)),
        "verdict" => Record::Verdict(Box::new(body(line)?)),
        "boot" => Record::Boot(body(line)?),
        "witness" => Record::Witness(body(line)?),
        "end" => Record::End(body(line)?),
        unknown => return Err(format!("{UNKNOWN_RECORD}{unknown:?}")),
    };
    if let Some(impossible) = numbers::first_impossible(line) {
        return Err(format!("field {}: {}", impossible.field, impossible.detail));
    }
    if let Record::Bench(cell) = &record {
        cell.check()?;
    }
    Ok(record)
}

/// Whether a line holds a kind of record that a later minor version has added.
fn is_of_later_version(line: &str, context: &Context) -> bool {
    context.schema.minor > SchemaVersion::MINOR
        && parsed(line).is_err_and(|detail| detail.starts_with(UNKNOWN_RECORD))
}

fn body<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| match field_at(line, error.column()) {
        Some(field) => format!("field {field}: {error}"),
        None => error.to_string(),
    })
}
