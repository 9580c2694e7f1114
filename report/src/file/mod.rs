//! Reading and writing result files.
//!
//! A writer writes to a temporary file in the target's folder and renames it
//! when it is finished, never over an existing file. A reader treats a file
//! as hostile: it bounds line and file lengths, refuses unknown major versions
//! and numbers that cannot be, notices a file that was cut short, and every
//! error names file, line and field.

mod numbers;
mod place;
mod read;
mod write;

pub use read::{ReadError, ResultFile};
pub use write::{ResultWriter, WriteError};

use std::path::{Path, PathBuf};

/// Where a file is, however it is named. One that is gone by now is where its name says.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
