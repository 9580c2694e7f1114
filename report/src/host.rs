//! The context every result carries: this program, its command line, this host.

mod cores;
mod probe;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

pub use self::cores::CoreWatch;
use self::probe::Probe;
use crate::{
    Observed,
    schema::{Context, ResultKind, SchemaVersion, Tool},
};

/// Environment variable that carries the git revision of the tree a command
/// was started from; it wins over the revision baked in at build time.
pub const REVISION_VARIABLE: &str = "RMAPSCOPE_GIT_REVISION";

/// The context record for a job that starts now on this host.
pub fn context(kind: ResultKind) -> Context {
    Context {
        schema: SchemaVersion::current(),
        kind,
        created_utc: utc_now(),
        tool: tool(),
        command: command_line(),
        host: Probe::new(Path::new("/")).host(),
        missing_counters: BTreeMap::new(),
        mmu_lock: None,
        pass_over_chains: Vec::new(),
        age_without_mmu_lock: Vec::new(),
        merged_from: Vec::new(),
    }
}

/// The memory of this host, in bytes.
pub fn memory_bytes() -> Observed<u64> {
    Probe::new(Path::new("/")).memory_bytes()
}

/// The time now, `YYYY-MM-DDThh:mm:ssZ`.
pub fn utc_now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// A file name for a result made now, in `results/runs`.
pub fn default_output(kind: ResultKind) -> PathBuf {
    default_output_named(&kind.to_string())
}

/// Where a job of this name writes when it was not told where.
pub fn default_output_named(job: &str) -> PathBuf {
    let stamp: String = utc_now()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    Path::new("results/runs").join(format!("{job}-{stamp}.jsonl"))
}

fn tool() -> Tool {
    let built_from = env!("RMAPSCOPE_BUILT_FROM");
    let git_revision = match std::env::var(REVISION_VARIABLE) {
        Ok(revision) if !revision.is_empty() => Observed::Value(revision),
        _ if !built_from.is_empty() => Observed::Value(built_from.to_owned()),
        _ => Observed::missing("not built from a git checkout"),
    };
    Tool {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git_revision,
        rustc: env!("RMAPSCOPE_RUSTC").to_owned(),
        optimised: !cfg!(debug_assertions),
    }
}

/// This process's command line, its program reduced to the file name.
pub fn command_line() -> Vec<String> {
    let mut words: Vec<String> = std::env::args_os()
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    if let Some(program) = words.first_mut()
        && let Some(name) = Path::new(program.as_str()).file_name()
    {
        *program = name.to_string_lossy().into_owned();
    }
    words
}
