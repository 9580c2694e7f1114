//! The record types of a result file.
//!
//! A result file is JSON lines, one [`Record`] per line: first a
//! [`Context`], then records in any order, last an [`End`] that says how many
//! there were and whether the job was finished. Units are part of every field
//! name (`_ns`, `_pages`, `_hz`, `_bytes`, `_s`); a field without one is a
//! count or a name. A quantity that could not be observed is an
//! [`Observed::Missing`](crate::Observed) with a reason, never 0; a field that
//! does not apply is absent.

mod bench;
mod callback;
mod context;
mod cost;
mod describe;
mod matrix;
mod profile;
mod replay;
mod verdict;

pub use bench::{BenchRecord, Cache, LatencySummary, Op, Params, Summary};
pub use callback::{
    CallbackKind, CallbackRecord, CallerClass, ChainLen, EventRecord, Samples, StackRecord,
};
pub use context::{
    Context, Disturbance, End, Host, KvmConfig, Outcome, ResultKind, SchemaVersion, Source, Tool,
};
pub use cost::{CostRecord, HeldUp, InterferenceRecord, MeanTime};
pub use profile::{
    CensusRecord, GuestRun, LossRecord, MechanismRecord, OverheadRecord, RunRecord, Sampling,
    TdpTables, VmRecord,
};

pub use describe::{field_tables, json_schema};
pub use matrix::{BootRecord, WitnessRecord};
pub use replay::{Estimate, ReplayInput, ReplayRecord};
pub use verdict::{Verdict, VerdictNumber, VerdictRecord};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One line of a result file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// What made the file and on which host; always the first line.
    Context(Box<Context>),
    /// One synthetic measurement.
    Bench(Box<BenchRecord>),
    /// One recording interval of a profile.
    Run(Box<RunRecord>),
    /// Which mechanism observed a signal.
    Mechanism(MechanismRecord),
    /// A virtual machine that was seen.
    Vm(VmRecord),
    /// Aging callbacks of one kind, caller class and chain length.
    Callbacks(Box<CallbackRecord>),
    /// What callbacks of a kind and chain length cost, made from the others.
    Cost(CostRecord),
    /// How long faults and lock waits took while aging ran and while not.
    Interference(Box<InterferenceRecord>),
    /// Chain lengths of one VM and level.
    Census(CensusRecord),
    /// Something that was not counted, and how often.
    Loss(LossRecord),
    /// What observing cost.
    Overhead(OverheadRecord),
    /// One callback, sampled.
    Event(EventRecord),
    /// A kernel stack and how often it was seen.
    Stack(StackRecord),
    /// What a recorded host's aging would cost under a scheme.
    Replay(Box<ReplayRecord>),
    /// A claim of others, and what became of it when it was tested.
    Verdict(Box<VerdictRecord>),
    /// One boot of the kernel matrix.
    Boot(BootRecord),
    /// A quantity that several witnesses counted in a boot of the kernel matrix.
    Witness(WitnessRecord),
    /// The last line.
    End(End),
}

impl Record {
    /// The run the record belongs to; some belong to none.
    pub fn run(&self) -> Option<u32> {
        let run = match self {
            Self::Run(r) => r.run,
            Self::Mechanism(r) => r.run,
            Self::Vm(r) => r.run,
            Self::Callbacks(r) => r.run,
            Self::Cost(r) => r.run,
            Self::Interference(r) => r.run,
            Self::Census(r) => r.run,
            Self::Loss(r) => r.run,
            Self::Overhead(r) => r.run,
            Self::Event(r) => r.run,
            Self::Stack(r) => r.run,
            _ => return None,
        };
        Some(run)
    }

    /// Files the record under another run; records that belong to none stay as
    /// they are.
    pub fn set_run(&mut self, number: u32) {
        let run = match self {
            Self::Run(r) => &mut r.run,
            Self::Mechanism(r) => &mut r.run,
            Self::Vm(r) => &mut r.run,
            Self::Callbacks(r) => &mut r.run,
            Self::Cost(r) => &mut r.run,
            Self::Interference(r) => &mut r.run,
            Self::Census(r) => &mut r.run,
            Self::Loss(r) => &mut r.run,
            Self::Overhead(r) => &mut r.run,
            Self::Event(r) => &mut r.run,
            Self::Stack(r) => &mut r.run,
            Self::Context(_)
            | Self::Bench(_)
            | Self::Replay(_)
            | Self::Verdict(_)
            | Self::Boot(_)
            | Self::Witness(_)
            | Self::End(_) => return,
        };
        *run = number;
    }
}
