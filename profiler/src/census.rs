//! The census: exact chain lengths of a VM, read in bounded chunks.
//!
//! A chunk holds its CPU only as long as [`TARGET`] allows: its size follows
//! the time the last one took, and it ends early where chains turn out to be longer
//! ([`CHUNK_LIMIT_NS`](profiler_common::census::CHUNK_LIMIT_NS)). A chunk during which the memslots changed is
//! thrown away and counted, never mixed in.

use std::{
    fs,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf,
    maps::{Array, MapData},
    programs::ProgramFd,
};
use profiler_common::census::{
    DESCRIPTOR_ENTRIES, LENGTH_CELLS, LEVELS, ScanRequest, ScanResult, Slot,
};
use report::{Observed, schema::CensusRecord};

use crate::{
    iterator::{Reader, Step},
    object,
    vms::{FindError, Found, load_iterator},
};

/// Bytes of a `pte_list_desc`, whose form is checked before anything is read.
const DESCRIPTOR_BYTES: u64 = (2 + DESCRIPTOR_ENTRIES as u64) * 8;
/// Time a chunk should take.
const TARGET: Duration = Duration::from_micros(500);
/// Sizes a chunk may have, in heads.
pub(crate) const CHUNK: std::ops::RangeInclusive<u64> = 512..=65_536;
/// Reads without progress after which a VM counts as gone.
pub(crate) const PATIENCE: u32 = 3;

/// Bits of an SPTE that the census looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpteBits {
    /// 0 if this host's SPTEs have no Accessed bit.
    pub(crate) accessed: u64,
    pub(crate) present: u64,
}

impl SpteBits {
    /// The bits on this host: EPT has its own Accessed bit and may lack it;
    /// everything else uses that of x86 page tables.
    pub(crate) fn of_this_host() -> Self {
        let on = |parameter: &str| {
            let path = format!("/sys/module/kvm_intel/parameters/{parameter}");
            fs::read_to_string(path).is_ok_and(|text| text.trim() == "Y")
        };
        let accessed = match (on("ept"), on("eptad")) {
            (true, true) => 1 << 8,
            (true, false) => 0,
            (false, _) => 1 << 5,
        };
        Self {
            accessed,
            present: 1 << 11,
        }
    }
}

/// The head-reading program, loaded.
pub(crate) struct Scanner {
    program: ProgramFd,
    request: Array<MapData, ScanRequest>,
    result: Array<MapData, ScanResult>,
    has_accessed: bool,
}

/// What was found at one level of one VM.
pub(crate) struct LevelCensus {
    /// 1 is 4K, 2 is 2M, 3 is 1G.
    level: u8,
    heads: u64,
    by_length: Vec<u64>,
    sptes: u64,
    descriptors: u64,
    accessed: u64,
    locked: u64,
    bad: u64,
    faults: u64,
    discarded_chunks: u64,
    elapsed: Duration,
    longest_chunk: Duration,
    read_sptes: bool,
    has_accessed: bool,
}

impl LevelCensus {
    fn new(level: u8, read_sptes: bool, has_accessed: bool) -> Self {
        Self {
            level,
            heads: 0,
            by_length: vec![0; LENGTH_CELLS],
            sptes: 0,
            descriptors: 0,
            accessed: 0,
            locked: 0,
            bad: 0,
            faults: 0,
            discarded_chunks: 0,
            elapsed: Duration::ZERO,
            longest_chunk: Duration::ZERO,
            read_sptes,
            has_accessed,
        }
    }

    fn add(&mut self, chunk: &ScanResult) {
        self.heads += chunk.heads;
        self.sptes += chunk.sptes;
        self.descriptors += chunk.descriptors;
        self.accessed += chunk.accessed;
        self.locked += chunk.locked;
        self.bad += chunk.bad;
        self.faults += chunk.faults;
        for (sum, count) in self.by_length.iter_mut().zip(&chunk.by_length) {
            *sum += count;
        }
    }

    /// Whether no chunk had to be thrown away.
    pub(crate) fn is_whole(&self) -> bool {
        self.discarded_chunks == 0
    }

    /// Adds what was read anew to a record of the same level.
    pub(crate) fn add_again(&self, record: &mut CensusRecord) {
        if record.level == self.level {
            record.read_again += self.heads;
            record.locked_again += self.locked;
        }
    }

    /// The record of this level in a result file.
    pub(crate) fn record(&self, run: u32, vm: u32) -> CensusRecord {
        let exact = LENGTH_CELLS - 1;
        let lengths = (0u32..).zip(&self.by_length[..exact]);
        let accessed = match (self.read_sptes, self.has_accessed) {
            (true, true) => Observed::Value(self.accessed),
            (true, false) => Observed::missing("this host's SPTEs have no Accessed bit"),
            (false, _) => Observed::missing("SPTEs were not read"),
        };
        CensusRecord {
            run,
            vm,
            level: self.level,
            heads: self.heads,
            lengths: lengths
                .filter(|(_, n)| **n > 0)
                .map(|(l, n)| (l, *n))
                .collect(),
            longer: self.by_length[exact],
            sptes: self.sptes,
            descriptor_bytes: Some(self.descriptors * DESCRIPTOR_BYTES),
            accessed,
            locked: self.locked,
            read_again: 0,
            locked_again: 0,
            corrupt: self.bad,
            faults: self.faults,
            discarded_chunks: self.discarded_chunks,
            elapsed_ms: self.elapsed.as_secs_f64() * 1e3,
            longest_chunk_ms: Some(self.longest_chunk.as_secs_f64() * 1e3),
        }
    }
}

impl Scanner {
    /// Loads the program and takes its maps.
    pub(crate) fn new(ebpf: &mut Ebpf, btf: &Btf) -> Result<Self, FindError> {
        Ok(Self {
            program: load_iterator(ebpf, "rs_heads", btf)?,
            request: object::take(ebpf, "SCAN_REQUEST")?,
            result: object::take(ebpf, "SCAN_RESULT")?,
            has_accessed: SpteBits::of_this_host().accessed != 0,
        })
    }

    /// Reads every level of a VM that has heads.
    pub(crate) fn scan(
        &mut self,
        found: &Found,
        read_sptes: bool,
    ) -> Result<Vec<LevelCensus>, FindError> {
        let mut levels = Vec::new();
        for level in 0..LEVELS {
            let slots: Vec<&Slot> = found
                .slots
                .iter()
                .filter(|slot| slot.rmap[level] != 0)
                .collect();
            if slots.is_empty() {
                continue;
            }
            let began = Instant::now();
            let number = u8::try_from(level + 1).unwrap_or(u8::MAX);
            let mut census = LevelCensus::new(number, read_sptes, self.has_accessed);
            for slot in slots {
                self.scan_slot(found, slot, level, &mut census)?;
            }
            census.elapsed = began.elapsed();
            levels.push(census);
        }
        Ok(levels)
    }

    fn scan_slot(
        &mut self,
        found: &Found,
        slot: &Slot,
        level: usize,
        census: &mut LevelCensus,
    ) -> Result<(), FindError> {
        let space = usize::try_from(slot.address_space).unwrap_or(usize::MAX);
        let Some(generation) = found.vm.generation.get(space) else {
            return Ok(());
        };
        let heads = heads_of(slot, level);
        let mut reader = Reader::new(self.program.as_fd(), Some(found.vm.tgid))?;
        let (mut start, mut chunk, mut idle) = (0, *CHUNK.start() * 4, 0);
        while start < heads {
            let now = chunk.min(heads - start);
            let request = ScanRequest {
                kvm: found.vm.kvm,
                generation: *generation,
                start,
                heads: now,
                slot_id: slot.id,
                address_space: slot.address_space,
                level: u32::try_from(level).unwrap_or(u32::MAX),
                read_sptes: u32::from(census.read_sptes),
            };
            self.request.set(0, request, 0)?;
            self.result.set(0, ScanResult::EMPTY, 0)?;
            let step = reader.step()?;
            let result = self.result.get(&0, 0)?;
            if result.chunks == 0 {
                idle += 1;
                if step == Step::Done || idle > PATIENCE {
                    return Err(FindError::Gone(found.vm.tgid));
                }
                continue;
            }
            idle = 0;
            // One that met other memslots passed over no heads; it is not tried again.
            let passed = if result.passed == 0 {
                now
            } else {
                result.passed
            };
            start += passed;
            if result.changed > 0 {
                census.discarded_chunks += 1;
            } else {
                census.add(&result);
            }
            let took = Duration::from_nanos(result.longest_ns);
            census.longest_chunk = census.longest_chunk.max(took);
            chunk = next_chunk(passed, took);
        }
        Ok(())
    }
}

/// Heads that a memslot has at a level, counted from 0.
fn heads_of(slot: &Slot, level: usize) -> u64 {
    let shift = 9 * level;
    ((slot.base_gfn + slot.pages - 1) >> shift) - (slot.base_gfn >> shift) + 1
}

/// The size of the chunk after one of `heads` that took `spent`.
pub(crate) fn next_chunk(heads: u64, spent: Duration) -> u64 {
    let next = if spent > TARGET {
        heads / 2
    } else if spent * 2 < TARGET {
        heads * 2
    } else {
        heads
    };
    next.clamp(*CHUNK.start(), *CHUNK.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_at_higher_levels_cover_partial_ranges() {
        let slot = |base_gfn, pages| Slot {
            base_gfn,
            pages,
            ..Slot::default()
        };
        assert_eq!(heads_of(&slot(0, 512), 0), 512);
        assert_eq!(heads_of(&slot(0, 512), 1), 1);
        assert_eq!(heads_of(&slot(511, 2), 1), 2);
        assert_eq!(heads_of(&slot(0x10_0000, 1), 2), 1);
    }

    #[test]
    fn chunks_follow_the_time_they_take_within_bounds() {
        assert_eq!(next_chunk(4096, TARGET * 3), 2048);
        assert_eq!(next_chunk(4096, TARGET / 4), 8192);
        assert_eq!(next_chunk(4096, TARGET), 4096);
        assert_eq!(next_chunk(512, TARGET * 9), 512);
        assert_eq!(next_chunk(65_536, Duration::ZERO), 65_536);
    }
}
