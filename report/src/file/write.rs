//! Writing a result file: without a name until it is whole, never over another.

mod unfinished;

use std::{
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use self::unfinished::{Refused, Unfinished};
use crate::schema::{Context, Disturbance, End, Outcome, Record};

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

/// Files of one name, numbered, at most.
const MOST_BESIDE: u32 = 99;

/// Writes one result file.
///
/// Dropped without [`finish`](Self::finish), it removes what it wrote; where the file system
/// has files without names, even being killed leaves nothing.
#[derive(Debug)]
pub struct ResultWriter {
    path: PathBuf,
    // Dropped in this order: the unfinished file goes before its folders.
    out: BufWriter<Unfinished>,
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
        let unfinished = Unfinished::new(folder).map_err(refused)?;
        let mut writer = Self {
            path: path.to_owned(),
            out: BufWriter::new(unfinished),
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

    /// Ends the file and gives it its final name, which it returns: the one asked
    /// for, or if that was taken meanwhile one beside it, so that nothing measured
    /// is lost.
    ///
    /// # Errors
    /// [`WriteError::Exists`] if all names beside it are taken as well,
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
        let mut unfinished = out.into_inner().map_err(|e| failed(e.into_error()))?;
        unfinished.as_file().sync_all().map_err(failed)?;
        for name in names_beside(&path) {
            match unfinished.persist(&name) {
                Ok(()) => {
                    made.keep();
                    return Ok(name);
                }
                Err(Refused::Taken(again)) => unfinished = again,
                Err(Refused::Io(cause)) => return Err(failed(cause)),
            }
        }
        Err(WriteError::Exists(path))
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

/// `a/b.jsonl`, then `a/b-2.jsonl` and so on.
fn names_beside(path: &Path) -> impl Iterator<Item = PathBuf> {
    let name = |number: u32| {
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{number}"));
        if let Some(extension) = path.extension() {
            name.push(".");
            name.push(extension);
        }
        path.with_file_name(name)
    };
    std::iter::once(path.to_owned()).chain((2..=MOST_BESIDE).map(name))
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
