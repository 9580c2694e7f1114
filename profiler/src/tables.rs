//! The census of the TDP MMU's tables: how many SPTEs a VM has there, and how
//! many of them are Accessed.
//!
//! Read like the heads of rmaps: in chunks that hold their CPU for a bounded
//! time, without a lock of KVM's. Each chunk walks down from a root anew, so
//! between two of them tables may come and go; the whole is not a snapshot.

use std::{
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::ProgramFd,
};
use profiler_common::tables::{ENTRIES, WalkRequest, WalkResult};
use report::{Observed, schema::TdpTables};

use crate::{
    census::{CHUNK, PATIENCE, SpteBits, next_chunk},
    iterator::{Reader, Step},
    object::{self, Kernel},
    vms::{FindError, Found, load_iterator},
};

/// The table-walking program, if this kernel's tables can be read.
pub(crate) struct Walker(Result<Loaded, String>);

struct Loaded {
    program: ProgramFd,
    request: Array<MapData, WalkRequest>,
    result: Array<MapData, WalkResult>,
}

impl Walker {
    /// Loads the program and takes its maps. Where that fails, walks say why.
    pub(crate) fn new(ebpf: &mut Ebpf, kernel: &Kernel) -> Self {
        let loaded = kernel.tables_readable();
        Self(loaded.and_then(|()| Loaded::new(ebpf, kernel).map_err(|error| error.to_string())))
    }

    /// Walks all tables of a VM.
    pub(crate) fn walk(&mut self, found: &Found) -> Result<Observed<TdpTables>, FindError> {
        let loaded = match &mut self.0 {
            Ok(loaded) => loaded,
            Err(reason) => return Ok(Observed::missing(reason.clone())),
        };
        let began = Instant::now();
        let walked = loaded.walk(found)?;
        Ok(match walked {
            Ok(sums) => Observed::Value(sums.tables(began.elapsed())),
            Err(reason) => Observed::missing(reason),
        })
    }
}

/// What the chunks of all roots found together.
#[derive(Default)]
struct Sums {
    roots: u64,
    sptes: [u64; 3],
    accessed: u64,
    faults: u64,
}

impl Sums {
    fn add(&mut self, chunk: &WalkResult) {
        for (sum, sptes) in self.sptes.iter_mut().zip(chunk.sptes) {
            *sum += sptes;
        }
        self.accessed += chunk.accessed.iter().sum::<u64>();
        self.faults += chunk.faults;
    }

    fn tables(&self, elapsed: Duration) -> TdpTables {
        let [sptes_4k, sptes_2m, sptes_1g] = self.sptes;
        TdpTables {
            roots: self.roots,
            sptes_4k,
            sptes_2m,
            sptes_1g,
            accessed: if SpteBits::of_this_host().accessed == 0 {
                Observed::missing("this host's SPTEs have no Accessed bit")
            } else {
                Observed::Value(self.accessed)
            },
            elapsed_ms: elapsed.as_secs_f64() * 1e3,
        }
    }
}

impl Loaded {
    fn new(ebpf: &mut Ebpf, kernel: &Kernel) -> Result<Self, FindError> {
        Ok(Self {
            program: load_iterator(ebpf, "rs_tables", &kernel.btf)?,
            request: object::take(ebpf, "WALK_REQUEST")?,
            result: object::take(ebpf, "WALK_RESULT")?,
        })
    }

    /// The sums over all roots, or why there are none.
    fn walk(&mut self, found: &Found) -> Result<Result<Sums, String>, FindError> {
        let mut reader = Reader::new(self.program.as_fd(), Some(found.vm.tgid))?;
        let mut request = WalkRequest {
            kvm: found.vm.kvm,
            ..WalkRequest::default()
        };
        let listed = self.chunk(&mut reader, found, request)?;
        let mut sums = Sums {
            roots: listed.root_count,
            ..Sums::default()
        };
        let known = listed.roots.iter().take_while(|root| **root != 0);
        let roots: Vec<u64> = known.copied().collect();
        if roots.len() as u64 != listed.root_count {
            return Ok(Err("the VM has more roots than are looked at".to_owned()));
        }
        if roots.is_empty() {
            return Ok(Err("the VM has nothing in the TDP MMU".to_owned()));
        }
        for root in roots {
            (request.root, request.start) = (root, 0);
            let mut size = *CHUNK.start();
            loop {
                request.steps = u32::try_from(size / ENTRIES as u64).unwrap_or(1);
                let chunk = self.chunk(&mut reader, found, request)?;
                if chunk.gfns == 0 {
                    let reason = "a root of the TDP MMU went while its tables were read";
                    return Ok(Err(reason.to_owned()));
                }
                sums.add(&chunk);
                if chunk.next >= chunk.gfns {
                    break;
                }
                request.start = chunk.next;
                size = next_chunk(size, Duration::from_nanos(chunk.time_ns));
            }
        }
        Ok(match sums.faults {
            0 => Ok(sums),
            faults => Err(format!(
                "{faults} reads of the TDP MMU's tables failed; their addresses may be encrypted"
            )),
        })
    }

    /// Runs the program once at the VM.
    fn chunk(
        &mut self,
        reader: &mut Reader,
        found: &Found,
        request: WalkRequest,
    ) -> Result<WalkResult, FindError> {
        self.request.set(0, request, 0)?;
        for _ in 0..=PATIENCE {
            self.result.set(0, WalkResult::EMPTY, 0)?;
            let step = reader.step()?;
            let result = self.result.get(&0, 0)?;
            if result.chunks > 0 {
                return Ok(result);
            }
            if step == Step::Done {
                break;
            }
        }
        Err(FindError::Gone(found.vm.tgid))
    }
}
