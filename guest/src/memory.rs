//! Memory that the guest and the host share.
//!
//! Invariant (**I-shared**): while a guest may run, its memory changes under the host's hands.
//! So no reference to it is ever made; the host reads and writes whole aligned words through
//! atomics, and a [`Mapping`] outlives the VM that uses it.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::backing::BackingError;

/// Memslots start on a boundary of this many bytes, as a huge page does.
const ALIGNMENT: usize = 2 << 20;

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// mmap or madvise failed.
    #[error("could not {action} {mib} MiB of guest memory: {cause}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// How much of it.
        mib: u64,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// The file behind the memory could not be made.
    #[error(transparent)]
    Backing(#[from] BackingError),
}

/// A mapping of this process that becomes a memslot, aligned to 2 MiB and unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a Mapping owns its address range, and every access to it is an atomic word access
// (I-shared), so any thread may use or drop it.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives atomic accesses only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed private memory in 4 KiB pages.
    pub(crate) fn anonymous(len: u64) -> Result<Self, MemoryError> {
        let mapping = Self::place(len, |address, len, protection, flags| {
            // SAFETY: MAP_FIXED replaces a part of a reservation that only we know.
            unsafe { mmap_anonymous(address, len, protection, flags | MapFlags::MAP_PRIVATE) }
        })?;
        mapping.advise(MmapAdvise::MADV_NOHUGEPAGE, "keep huge pages out of")?;
        Ok(mapping)
    }

    /// A shared mapping of `file`, kept out of khugepaged's way: where it collapses pages of such
    /// files (ext4 on Linux 7.3) it takes them out of the page tables. Those of a guest that stands
    /// still are mapped nowhere then, and reclaim takes them without a callback.
    ///
    /// It must not be advised `MADV_RANDOM` or `MADV_SEQUENTIAL`: reclaim takes pages of such
    /// mappings without asking whether they are young.
    pub(crate) fn shared_file(file: &File, len: u64) -> Result<Self, MemoryError> {
        let mapping = Self::place(len, |address, len, protection, flags| {
            // SAFETY: MAP_FIXED replaces a part of a reservation that only we know.
            unsafe {
                mmap(
                    address,
                    len,
                    protection,
                    flags | MapFlags::MAP_SHARED,
                    file,
                    0,
                )
            }
        })?;
        mapping.advise(MmapAdvise::MADV_NOHUGEPAGE, "keep huge pages out of")?;
        Ok(mapping)
    }

    /// Reserves an aligned range and lets `map` put the real mapping there.
    fn place<F>(len: u64, map: F) -> Result<Self, MemoryError>
    where
        F: FnOnce(
            Option<NonZeroUsize>,
            NonZeroUsize,
            ProtFlags,
            MapFlags,
        ) -> nix::Result<NonNull<libc::c_void>>,
    {
        let failed = |cause: io::Error| map_error("map", len, cause);
        let invalid = || failed(io::Error::from(io::ErrorKind::InvalidInput));
        let length = usize::try_from(len).map_err(|_| invalid())?;
        let size = NonZeroUsize::new(length).ok_or_else(invalid)?;
        let padded = size.checked_add(ALIGNMENT).ok_or_else(invalid)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new reservation at an address of the kernel's choice touches nothing of ours.
        let reserved = unsafe { mmap_anonymous(None, padded, ProtFlags::PROT_NONE, flags) }
            .map_err(|errno| failed(errno.into()))?;
        let first = reserved.as_ptr() as usize;
        let start = first.next_multiple_of(ALIGNMENT);
        let end = start + length;
        unmap(first, start - first);
        unmap(end, first + padded.get() - end);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let mapped = map(
            NonZeroUsize::new(start),
            size,
            protection,
            MapFlags::MAP_FIXED,
        );
        let start = mapped.map_err(|errno| {
            unmap(start, length);
            failed(errno.into())
        })?;
        Ok(Self {
            start: start.cast(),
            len: length,
        })
    }

    /// Bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// The host virtual addresses.
    pub(crate) fn hva(&self) -> Range<u64> {
        let start = self.start.as_ptr() as u64;
        start..start + self.len()
    }

    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        let offset = usize::try_from(offset).ok()?;
        if !offset.is_multiple_of(8) || offset.checked_add(8)? > self.len {
            return None;
        }
        // SAFETY: in bounds and aligned by the check above, alive as long as `self`, and only
        // accessed atomically by the host (I-shared).
        Some(unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) })
    }

    /// The word at `offset` bytes, `None` outside the mapping or off alignment.
    pub(crate) fn load(&self, offset: u64) -> Option<u64> {
        Some(self.word(offset)?.load(Ordering::Acquire))
    }

    /// Sets the word at `offset` bytes, `None` outside the mapping or off alignment.
    pub(crate) fn store(&self, offset: u64, value: u64) -> Option<()> {
        self.word(offset)?.store(value, Ordering::Release);
        Some(())
    }

    /// Makes every page present and writable, so that none is a hole or the shared zero page.
    pub(crate) fn populate(&self) -> Result<(), MemoryError> {
        self.advise(MmapAdvise::MADV_POPULATE_WRITE, "populate")
    }

    /// Drops every page; what is read next is zero, or what the file has.
    pub(crate) fn discard(&self) -> Result<(), MemoryError> {
        // SAFETY: the range is ours, and the host makes no reference into it (I-shared).
        match unsafe { madvise(self.start.cast(), self.len, MmapAdvise::MADV_DONTNEED) } {
            Ok(()) => Ok(()),
            Err(errno) => Err(map_error("drop", self.len(), errno.into())),
        }
    }

    pub(crate) fn advise(
        &self,
        advice: MmapAdvise,
        action: &'static str,
    ) -> Result<(), MemoryError> {
        // SAFETY: the range is ours, and no advice used here discards contents.
        match unsafe { madvise(self.start.cast(), self.len, advice) } {
            Ok(()) => Ok(()),
            // A kernel without huge pages needs no advice about them.
            Err(nix::Error::EINVAL) if advice == MmapAdvise::MADV_NOHUGEPAGE => Ok(()),
            Err(errno) => Err(map_error(action, self.len(), errno.into())),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.start.as_ptr() as usize, self.len);
    }
}

fn map_error(action: &'static str, len: u64, cause: io::Error) -> MemoryError {
    MemoryError::Map {
        action,
        mib: len >> 20,
        cause,
    }
}

/// Unmaps a page-aligned range of a reservation or mapping of ours.
fn unmap(start: usize, len: usize) {
    let Some(address) = NonNull::new(start as *mut libc::c_void) else {
        return;
    };
    if len == 0 {
        return;
    }
    // SAFETY: callers pass ranges that `place` mapped and that nothing refers to any more.
    let result = unsafe { munmap(address, len) };
    debug_assert!(result.is_ok(), "munmap of our own range: {result:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bounded_and_aligned() {
        let mapping = Mapping::anonymous(8192).expect("anonymous memory");
        assert!(mapping.hva().start.is_multiple_of(ALIGNMENT as u64));
        assert_eq!(mapping.store(8184, 7), Some(()));
        assert_eq!(mapping.load(8184), Some(7));
        for outside in [8192, 8185, 4, u64::MAX, u64::MAX - 7] {
            assert_eq!(mapping.load(outside), None, "{outside}");
            assert_eq!(mapping.store(outside, 1), None, "{outside}");
        }
    }

    #[test]
    fn an_empty_or_absurd_mapping_is_an_error() {
        assert!(Mapping::anonymous(0).is_err());
        assert!(Mapping::anonymous(u64::MAX).is_err());
        assert!(Mapping::anonymous(1 << 60).is_err());
    }

    #[test]
    fn huge_pages_are_kept_out_of_both_kinds_of_memory() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            println!("SKIPPED: this kernel has no transparent huge pages");
            return;
        }
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8192).expect("a longer file");
        for mapping in [
            Mapping::anonymous(8192).expect("anonymous memory"),
            Mapping::shared_file(&file, 8192).expect("shared memory"),
        ] {
            let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
            let heading = format!("{:x}-", mapping.hva().start);
            let mut of_mapping = maps.lines().skip_while(|line| !line.starts_with(&heading));
            let flags = of_mapping.find(|line| line.starts_with("VmFlags:"));
            let flags = flags.expect("flags of the mapping");
            assert!(flags.split_whitespace().any(|flag| flag == "nh"), "{flags}");
        }
    }
}
