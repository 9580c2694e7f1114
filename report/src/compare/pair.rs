//! Two result files held against each other, whatever they are of: what every command
//! that compares files does.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    CompareError, Comparison, NotComparable, ProfileComparison, RunComparison, YoungShares,
    compare, compare_profiles, compare_runs,
};
use crate::{
    ResultFile,
    file::{ReadError, real_path},
    schema::ResultKind,
    table::Table,
};

/// What is chosen of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Share of SPTEs that are young on the synthetic side, 0 to 1; none for what the
    /// recorded guest's was.
    pub young: Option<f64>,
    /// Only these schemes; all if there is none.
    pub schemes: Vec<String>,
}

/// The comparison of two files.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Pair {
    /// A bench result beside a profile.
    Sides(Box<Comparison>),
    /// Two bench results, the older first.
    Runs(RunComparison),
    /// Two profiles, the older first.
    Profiles(ProfileComparison),
}

/// A scheme that was chosen and is not there.
#[derive(Debug, thiserror::Error)]
#[error("no scheme {name} is in the comparison; it has {known}")]
pub struct NoScheme {
    name: String,
    known: String,
}

impl NoScheme {
    /// Whether all chosen schemes are among those of a comparison's rows.
    pub(super) fn check<'a>(
        chosen: &[String],
        rows: impl Iterator<Item = &'a String>,
    ) -> Result<(), Self> {
        let mut known: Vec<&str> = Vec::new();
        for scheme in rows {
            if !known.contains(&scheme.as_str()) {
                known.push(scheme);
            }
        }
        let unknown = chosen.iter().find(|name| !known.contains(&name.as_str()));
        unknown.map_or(Ok(()), |name| {
            Err(Self {
                name: name.clone(),
                known: known.join(", "),
            })
        })
    }
}

/// Why two files are not compared.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// There is only one.
    #[error("{first} and {second} are one file; name two")]
    OneFile {
        /// Its name.
        first: PathBuf,
        /// The name it was given the second time.
        second: PathBuf,
    },
    /// One cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A bench result and a profile do not meet.
    #[error(transparent)]
    Sides(#[from] CompareError),
    /// Two of a kind do not.
    #[error(transparent)]
    Alike(#[from] NotComparable),
    /// A scheme was chosen that neither has.
    #[error(transparent)]
    Scheme(#[from] NoScheme),
    /// There is nothing to choose from.
    #[error("--{option} chooses {among}, and both files are {kind} results; leave it out")]
    NoChoice {
        /// The option.
        option: &'static str,
        /// What it is for.
        among: &'static str,
        /// What both files are.
        kind: ResultKind,
    },
}

/// Reads the two files of a comparison.
///
/// # Errors
/// [`PairError::OneFile`] when they are one, [`PairError::Read`] when one is no result.
pub fn read_two(first: &Path, second: &Path) -> Result<[ResultFile; 2], PairError> {
    if real_path(first) == real_path(second) {
        let (first, second) = (first.to_owned(), second.to_owned());
        return Err(PairError::OneFile { first, second });
    }
    Ok([ResultFile::read(first)?, ResultFile::read(second)?])
}

impl Pair {
    /// Compares two files: of a kind, the older first; of both kinds, in any order.
    ///
    /// # Errors
    /// [`PairError::NoChoice`] when something is chosen that two files of that kind do not
    /// have; [`PairError::Sides`] and [`PairError::Alike`] when the files do not compare.
    pub fn of(a: &ResultFile, b: &ResultFile, choice: &Choice) -> Result<Self, PairError> {
        let kind = a.context.kind;
        let no_choice = |option, among| {
            Err(PairError::NoChoice {
                option,
                among,
                kind,
            })
        };
        let alike = kind == b.context.kind;
        if alike && choice.young.is_some() {
            return no_choice(
                "young",
                "the cells of a bench result that a profile is held against",
            );
        }
        if alike && kind == ResultKind::Profile {
            if !choice.schemes.is_empty() {
                return no_choice("schemes", "among the schemes of a bench result");
            }
            return Ok(Self::Profiles(compare_profiles(a, b)?));
        }
        if alike && kind == ResultKind::Bench {
            let mut runs = compare_runs(a, b)?;
            runs.keep_schemes(&choice.schemes)?;
            return Ok(Self::Runs(runs));
        }
        let (bench, profile) = match kind {
            ResultKind::Profile => (b, a),
            _ => (a, b),
        };
        let mut sides = compare(bench, profile, choice.young.map(YoungShares::all))?;
        sides.keep_schemes(&choice.schemes)?;
        Ok(Self::Sides(Box::new(sides)))
    }

    /// The comparison's tables.
    pub fn tables(&self) -> Vec<Table> {
        match self {
            Self::Sides(sides) => sides.tables(),
            Self::Runs(runs) => runs.tables(),
            Self::Profiles(profiles) => profiles.tables(),
        }
    }
}
