//! Several result files made into one.
//!
//! Counts are added and histograms merged, so the merged file says what one
//! long measurement would have said. Files that were not measured alike are
//! refused with the reason: a sum of unlike things says nothing. Files are
//! taken one at a time, so a thousand of them need the memory of one and of
//! the sums.

mod bench;
mod profile;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
};

use crate::{
    ResultFile,
    file::real_path,
    host,
    schema::{Context, Outcome, Record, ResultKind, Source},
};

/// Why files cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Two files were not measured alike.
    #[error(
        "{first} and {other} cannot be merged: {what} is {a} in the first and {b} in the second; \
         merge results that were measured alike, compare the others"
    )]
    Unlike {
        /// The first file.
        first: PathBuf,
        /// The file that differs from it.
        other: PathBuf,
        /// What differs.
        what: String,
        /// What it is in the first file.
        a: String,
        /// What it is in the other.
        b: String,
    },
    /// The same measurement twice would count everything twice.
    #[error("{other} is the same measurement as {first}; name each only once")]
    Twice {
        /// The first file.
        first: PathBuf,
        /// The same once more.
        other: PathBuf,
    },
    /// A kind that has no sums.
    #[error("{0} is a {1} result, which has nothing that could be added up")]
    NoSums(PathBuf, ResultKind),
}

/// A merged file, not yet written.
#[derive(Debug)]
pub struct Merged {
    /// Its context: that of the first file, with all sources named.
    pub context: Context,
    /// Its records.
    pub records: Vec<Record>,
    /// Partial if one of the sources was.
    pub outcome: Outcome,
    /// Why it is partial, if it is.
    pub reason: Option<String>,
}

/// What becomes of the runs of profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// Those that were recorded alike are added up.
    AddedUp,
    /// Each stays one of the sum's, so that a comparison sees how much they differ.
    Kept,
}

/// Adds up files.
#[derive(Debug)]
pub struct Merger {
    first: PathBuf,
    context: Context,
    facts: Vec<(String, String)>,
    /// The files so far: where each really is, and how it was named.
    paths: HashMap<PathBuf, PathBuf>,
    sums: Sums,
    partial: u64,
}

#[derive(Debug)]
enum Sums {
    Bench(bench::Sums),
    Profile(Box<profile::Sums>),
}

impl Merger {
    /// Begins with a file; others must be like it.
    ///
    /// # Errors
    /// [`MergeError::NoSums`] for a kind that cannot be merged.
    pub fn new(file: ResultFile, runs: Runs) -> Result<Self, MergeError> {
        let sums = match file.context.kind {
            ResultKind::Bench => Sums::Bench(bench::Sums::default()),
            ResultKind::Profile => Sums::Profile(Box::new(profile::Sums::new(runs))),
            kind @ (ResultKind::Verdict | ResultKind::Matrix) => {
                return Err(MergeError::NoSums(file.path, kind));
            }
        };
        let mut context = file.context.clone();
        context.merged_from.clear();
        let mut merger = Self {
            first: file.path.clone(),
            facts: facts(&file),
            context,
            paths: HashMap::new(),
            sums,
            partial: 0,
        };
        merger
            .paths
            .insert(real_path(&file.path), file.path.clone());
        merger.take(file);
        Ok(merger)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`MergeError::Unlike`] when it was not measured as the first one was,
    /// [`MergeError::Twice`] when it was added already.
    pub fn add(&mut self, file: ResultFile) -> Result<(), MergeError> {
        for ((what, a), (_, b)) in self.facts.iter().zip(facts(&file)) {
            if *a != b {
                return Err(MergeError::Unlike {
                    first: self.first.clone(),
                    other: file.path,
                    what: what.clone(),
                    a: a.clone(),
                    b,
                });
            }
        }
        match self.paths.entry(real_path(&file.path)) {
            Entry::Occupied(known) => {
                return Err(MergeError::Twice {
                    first: known.get().clone(),
                    other: file.path,
                });
            }
            Entry::Vacant(place) => drop(place.insert(file.path.clone())),
        }
        self.take(file);
        Ok(())
    }

    fn take(&mut self, file: ResultFile) {
        self.partial += u64::from(!file.is_complete());
        if file.context.merged_from.is_empty() {
            self.context.merged_from.push(source(&file));
        } else {
            let sources = file.context.merged_from.iter().cloned();
            self.context.merged_from.extend(sources);
        }
        match &mut self.sums {
            Sums::Bench(sums) => sums.take(file.records),
            Sums::Profile(sums) => sums.take(file.records, file.events_left),
        }
    }

    /// The sums as records, and a context that names all sources.
    pub fn finish(mut self) -> Merged {
        self.context.created_utc = host::utc_now();
        self.context.command = host::command_line();
        let records = match self.sums {
            Sums::Bench(sums) => sums.records(),
            Sums::Profile(sums) => sums.records(),
        };
        let reason = format!("{} of the merged files were ended early", self.partial);
        Merged {
            context: self.context,
            records,
            outcome: if self.partial == 0 {
                Outcome::Complete
            } else {
                Outcome::Partial
            },
            reason: (self.partial > 0).then_some(reason),
        }
    }
}

fn source(file: &ResultFile) -> Source {
    let name = file.path.file_name().unwrap_or_default();
    Source {
        file: name.to_string_lossy().into_owned(),
        created_utc: file.context.created_utc.clone(),
        host: file.context.host.label.clone(),
    }
}

/// What must be the same in all files, in words.
fn facts(file: &ResultFile) -> Vec<(String, String)> {
    let (context, host) = (&file.context, &file.context.host);
    let known = |o: Option<&String>| o.map_or_else(|| "unknown".to_owned(), Clone::clone);
    let mut facts = vec![
        ("the kind of result".to_owned(), context.kind.to_string()),
        ("the CPU".to_owned(), known(host.cpu_model.value())),
        ("the kernel".to_owned(), host.kernel_release.clone()),
        ("the hypervisor".to_owned(), known(host.hypervisor.value())),
        ("KVM's backend".to_owned(), known(host.kvm.backend.value())),
        (
            "lockless aging".to_owned(),
            known(
                host.kvm
                    .lockless_aging
                    .value()
                    .map(ToString::to_string)
                    .as_ref(),
            ),
        ),
        (
            "tdp_mmu".to_owned(),
            known(host.kvm.parameters.get("kvm.tdp_mmu")),
        ),
    ];
    if context.kind == ResultKind::Bench {
        facts.push((
            "the number of CPUs".to_owned(),
            host.cpus_online.to_string(),
        ));
        facts.push((
            "optimisation".to_owned(),
            context.tool.optimised.to_string(),
        ));
        facts.push(("mmu_lock".to_owned(), known(context.mmu_lock.as_ref())));
        let revision = known(context.tool.git_revision.value());
        facts.push(("the measured revision".to_owned(), revision));
    } else {
        facts.extend(profile::mechanisms(&file.records));
    }
    facts
}
