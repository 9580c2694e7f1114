//! A file that has no name until it is whole.
//!
//! Nobody has to remove it: the kernel does once it is closed, also when the process is
//! killed. File systems without such files, and hosts without /proc, get one with a name of
//! its own, which a kill leaves behind.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use tempfile::NamedTempFile;

/// What everybody may read, once it is there.
const MODE: u32 = 0o644;

/// A file in the folder of its later name.
#[derive(Debug)]
pub(super) enum Unfinished {
    Unnamed(File),
    Named(NamedTempFile),
}

/// Why a file did not get its name.
pub(super) enum Refused {
    /// The name is taken; the file is still there.
    Taken(Unfinished),
    Io(io::Error),
}

impl Unfinished {
    /// An empty file in `folder`.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        Self::unnamed(folder).or_else(|_| Self::named(folder))
    }

    fn unnamed(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(open(folder, flags, Mode::from_raw_mode(MODE))?);
        // It gets its name through this link.
        link(&file).symlink_metadata()?;
        Ok(Self::Unnamed(file))
    }

    fn named(folder: &Path) -> io::Result<Self> {
        let named = tempfile::Builder::new()
            .prefix(".rmapscope-")
            .suffix(".partial")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(MODE))
            .tempfile_in(folder)?;
        Ok(Self::Named(named))
    }

    pub(super) fn as_file(&self) -> &File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(named) => named.as_file(),
        }
    }

    /// Gives the file a name that nothing has.
    pub(super) fn persist(self, name: &Path) -> Result<(), Refused> {
        let (again, error) = match self {
            Self::Unnamed(file) => {
                match linkat(CWD, link(&file), CWD, name, AtFlags::SYMLINK_FOLLOW) {
                    Ok(()) => return Ok(()),
                    Err(errno) => (Self::Unnamed(file), io::Error::from(errno)),
                }
            }
            Self::Named(named) => match named.persist_noclobber(name) {
                Ok(_) => return Ok(()),
                Err(refused) => (Self::Named(refused.file), refused.error),
            },
        };
        match error.kind() {
            ErrorKind::AlreadyExists => Err(Refused::Taken(again)),
            _ => Err(Refused::Io(error)),
        }
    }
}

/// Where the kernel shows an open file.
fn link(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.as_file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.as_file().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persists(make: fn(&Path) -> io::Result<Unfinished>) {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        let mut file = make(folder.path()).unwrap();
        file.write_all(b"whole").unwrap();
        std::fs::write(name("taken"), "precious").unwrap();
        let Err(Refused::Taken(file)) = file.persist(&name("taken")) else {
            panic!("a name that is taken was given away");
        };
        assert!(file.persist(&name("free")).is_ok());
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(name("taken")), "precious");
        assert_eq!(read(name("free")), "whole");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_gets_a_name_that_is_free_and_no_other() {
        persists(Unfinished::new);
        persists(Unfinished::named);
    }
}
