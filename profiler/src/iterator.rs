//! Running a BPF iterator over the open files of one process or of all.
//!
//! aya attaches iterators without parameters, so the link that restricts one to
//! a process is made here. Both file descriptors live only as long as the
//! [`Reader`].

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_TRACE_ITER: u32 = 28;

/// `union bpf_attr` for BPF_LINK_CREATE of an iterator.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

/// `union bpf_iter_link_info` for tasks.
#[repr(C)]
struct TaskInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
}

/// `union bpf_attr` for BPF_ITER_CREATE.
#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// Makes a bpf() call that returns a file descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a live, fully initialised attribute block of the size given; the
    // kernel only reads it for these commands.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An iterator that has been started.
pub(crate) struct Reader {
    file: File,
    _link: OwnedFd,
}

/// What one read of an iterator did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It stopped in the middle and will go on from there.
    Again,
    /// It has seen every file.
    Done,
}

impl Reader {
    /// Starts `program` over the files of `pid`, or of every process.
    pub(crate) fn new(program: BorrowedFd<'_>, pid: Option<u32>) -> io::Result<Self> {
        let info = TaskInfo {
            tid: 0,
            pid: pid.unwrap_or(0),
            pid_fd: 0,
        };
        let link = bpf(
            BPF_LINK_CREATE,
            &LinkCreate {
                prog_fd: raw(program),
                target_fd: 0,
                attach_type: BPF_TRACE_ITER,
                flags: 0,
                iter_info: match pid {
                    Some(_) => std::ptr::from_ref(&info) as u64,
                    None => 0,
                },
                iter_info_len: match pid {
                    Some(_) => size_of::<TaskInfo>() as u32,
                    None => 0,
                },
                padding: 0,
            },
        )?;
        let iterator = bpf(
            BPF_ITER_CREATE,
            &IterCreate {
                link_fd: link.as_raw_fd().cast_unsigned(),
                flags: 0,
            },
        )?;
        Ok(Self {
            file: File::from(iterator),
            _link: link,
        })
    }

    /// Runs the program until it stops.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        let mut nothing_expected = [0; 64];
        match self.file.read(&mut nothing_expected) {
            Ok(0) => Ok(Step::Done),
            Ok(_) => Ok(Step::Again),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(Step::Again),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Step::Again),
            Err(error) => Err(error),
        }
    }

    /// Runs the program over everything that is left.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        while self.step()? == Step::Again {}
        Ok(())
    }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}
