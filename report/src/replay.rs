//! A recorded host's aging as a workload, and what a model fitted to another
//! recording predicts for it.
//!
//! The workload is made of groups: callbacks of one kind and chain length. A
//! synthetic time of a group is the walk on the model. A recording whose walk
//! times are known gives the line from synthetic to real ones and the time
//! outside of the walk; both are carried over to the recording that is
//! predicted. A recording is never predicted with a model of itself.

use std::collections::BTreeMap;

use crate::{
    Observed, ResultFile,
    compare::{RealCost, YoungShares, real_costs},
    schema::{CallbackKind, Estimate, HeldUp, Record, ReplayInput, ResultKind},
    stats::{Fit, Z95, fit_line},
};

/// Pages of a group, at least and at most.
const PAGES: (u64, u64) = (256, 1 << 16);
/// SPTEs of a group, at most.
const MOST_SPTES: u64 = 1 << 22;
/// Share of the recorded callbacks below which a mean of them would speak for others.
const LEAST_COVERED: f64 = 0.9;

/// Why a recording cannot be replayed or predicted.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Not a profile.
    #[error("{path} is a {found} result and not a profile; name a recording")]
    Kind {
        /// The file.
        path: std::path::PathBuf,
        /// What it is.
        found: ResultKind,
    },
    /// No callback can be replayed.
    #[error("{0} holds no callback at a known chain length; record a host whose VMs have rmaps")]
    Nothing(std::path::PathBuf),
    /// Predicting a recording with itself proves nothing.
    #[error("{0} cannot be predicted with a model of itself; name another recording with --model")]
    Itself(std::path::PathBuf),
}

/// Callbacks of one kind and chain length.
#[derive(Clone, Debug)]
pub struct Group {
    /// The kind.
    pub kind: CallbackKind,
    /// SPTEs on the chain of a gfn; the mean where lengths were pooled.
    pub chain_len: u32,
    /// Pages of a callback's range; the mean where they differ.
    pub range_pages: u64,
    /// Pages the callbacks are spread over.
    pub pages: u64,
    /// What was recorded of them.
    pub real: RealCost,
}

/// A recording, as a workload.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Its groups.
    pub groups: Vec<Group>,
    /// What it was built from.
    pub input: ReplayInput,
}

impl Recording {
    /// The workload of a profile.
    ///
    /// # Errors
    /// [`ReplayError`] when it is none, or has no callback to replay.
    pub fn of(profile: &ResultFile) -> Result<Self, ReplayError> {
        if profile.context.kind != ResultKind::Profile {
            return Err(ReplayError::Kind {
                path: profile.path.clone(),
                found: profile.context.kind,
            });
        }
        let heads = heads_by_length(profile);
        let groups: Vec<Group> = real_costs(profile)
            .into_iter()
            .map(|(kind, band, real)| {
                let chain_len = band.mean_len.round() as u32;
                let range_pages = (real.mean_pages().round() as u64).clamp(1, PAGES.1);
                Group {
                    kind,
                    chain_len,
                    range_pages,
                    pages: pages(&heads, chain_len).next_multiple_of(range_pages),
                    real,
                }
            })
            .collect();
        if groups.is_empty() {
            return Err(ReplayError::Nothing(profile.path.clone()));
        }
        let input = input(profile, &groups);
        Ok(Self { groups, input })
    }

    /// The mean over some groups of a figure per callback.
    pub fn mean(
        &self,
        covered: impl Fn(&Group) -> bool,
        of_group: impl Fn(usize, &Group) -> f64,
    ) -> f64 {
        let callbacks = self.callbacks(&covered);
        let terms = self.groups.iter().enumerate().filter(|(_, g)| covered(g));
        let sum: f64 = terms
            .map(|(i, g)| of_group(i, g) * g.real.callbacks as f64)
            .sum();
        sum / callbacks.max(1) as f64
    }

    fn callbacks(&self, covered: impl Fn(&Group) -> bool) -> u64 {
        let groups = self.groups.iter().filter(|g| covered(g));
        groups.fold(0, |sum, g| sum.saturating_add(g.real.callbacks))
    }

    /// The share of all recorded callbacks, those at unknown chain lengths too, that
    /// some groups are.
    pub fn share(&self, covered: impl Fn(&Group) -> bool) -> f64 {
        self.callbacks(covered) as f64 / self.input.callbacks_recorded.max(1) as f64
    }

    /// Threads that replay at once: the recorded callers, at least one.
    pub fn callers(&self) -> usize {
        let callers = self.input.callers.value().copied().unwrap_or(1.0);
        (callers.round() as usize).max(1)
    }

    /// The recorded mean time of the callbacks of some groups.
    pub fn recorded(&self, covered: impl Fn(&Group) -> bool) -> Observed<Estimate> {
        let timed = |g: &Group| g.real.total.is_some();
        if !self.groups.iter().filter(|g| covered(g)).all(timed) {
            return Observed::missing("the recording counts callbacks and does not time them");
        }
        let total = |g: &Group| g.real.total.map_or(0.0, |t| t.mean_ns);
        let half = |g: &Group| g.real.total.map_or(0.0, |t| t.half_ns());
        let mean = self.mean(&covered, |_, g| total(g));
        let callbacks = self.callbacks(&covered);
        let squares = self
            .groups
            .iter()
            .filter(|g| covered(g))
            .map(|g| (half(g) * g.real.callbacks as f64).powi(2));
        Observed::Value(around(
            mean,
            squares.sum::<f64>().sqrt() / callbacks.max(1) as f64,
        ))
    }
}

fn around(mean_ns: f64, half: f64) -> Estimate {
    Estimate {
        mean_ns,
        low_ns: (mean_ns - half).max(0.0),
        high_ns: mean_ns + half,
    }
}

/// For each chain length the most heads a census found with it.
fn heads_by_length(profile: &ResultFile) -> BTreeMap<u32, u64> {
    let mut heads: BTreeMap<u32, u64> = BTreeMap::new();
    for record in &profile.records {
        if let Record::Census(census) = record
            && census.level == 1
        {
            for (length, count) in &census.lengths {
                let most = heads.entry(*length).or_insert(0);
                *most = (*most).max(*count);
            }
        }
    }
    heads
}

fn pages(heads: &BTreeMap<u32, u64>, chain_len: u32) -> u64 {
    let seen = heads.get(&chain_len).copied().unwrap_or(0);
    let fits = MOST_SPTES / u64::from(chain_len.max(1));
    seen.min(fits).clamp(PAGES.0, PAGES.1)
}

fn input(profile: &ResultFile, groups: &[Group]) -> ReplayInput {
    let (mut seconds, mut pages, mut calls) = (0.0, 0_u64, 0_u64);
    for record in &profile.records {
        match record {
            Record::Run(run) => seconds += run.duration_s,
            Record::Callbacks(cell) => {
                calls = calls.saturating_add(cell.callbacks);
                pages = pages.saturating_add(cell.pages);
            }
            _ => {}
        }
    }
    let callbacks = groups.iter().map(|g| g.real.callbacks);
    let callbacks = callbacks.fold(0, u64::saturating_add);
    let all = callbacks.max(1) as f64;
    let mut kind_share: BTreeMap<String, f64> = BTreeMap::new();
    for group in groups {
        *kind_share.entry(group.kind.to_string()).or_insert(0.0) +=
            group.real.callbacks as f64 / all;
    }
    let mean_len: f64 = groups
        .iter()
        .map(|g| f64::from(g.chain_len) * g.real.callbacks as f64)
        .sum::<f64>()
        / all;
    let (young_share, young_from) = young(profile);
    let per_s = if seconds > 0.0 {
        callbacks as f64 / seconds
    } else {
        0.0
    };
    let busy_ns = groups
        .iter()
        .filter_map(|g| Some(g.real.total?.mean_ns * g.real.callbacks as f64));
    ReplayInput {
        recorded_utc: profile.context.created_utc.clone(),
        host: profile.context.host.label.clone(),
        callbacks,
        callbacks_recorded: calls,
        callbacks_per_s: per_s,
        kind_share: kind_share
            .into_iter()
            .map(|(k, share)| (k, share.min(1.0)))
            .collect(),
        mean_chain_len: mean_len,
        mean_range_pages: pages as f64 / calls.max(1) as f64,
        young_share,
        young_from,
        callers: if seconds > 0.0 && groups.iter().all(|g| g.real.total.is_some()) {
            Observed::Value(busy_ns.sum::<f64>() / 1e9 / seconds)
        } else {
            Observed::missing("callbacks were not timed")
        },
        faults_per_s: faults_per_s(profile, seconds),
        pages: groups.iter().map(|g| g.pages).max().unwrap_or(0),
    }
}

/// vCPU faults per second of all VMs, or why they were not observed.
fn faults_per_s(profile: &ResultFile, seconds: f64) -> Observed<f64> {
    let (mut faults, mut reason) = (None, "the recording holds no faults");
    for record in &profile.records {
        let Record::Interference(held_up) = record else {
            continue;
        };
        if held_up.what != HeldUp::Fault {
            continue;
        }
        for times in [&held_up.while_aging, &held_up.not_aging] {
            match times {
                Observed::Value(times) => *faults.get_or_insert(0.0) += times.count() as f64,
                Observed::Missing(why) => reason = why,
            }
        }
    }
    let per_s = faults
        .filter(|_| seconds > 0.0)
        .map(|faults: f64| faults / seconds);
    per_s.map_or_else(|| Observed::missing(reason), Observed::Value)
}

/// The share of young SPTEs at a clearing callback, and where it is from.
fn young(profile: &ResultFile) -> (f64, String) {
    let (mut young, mut of) = (0_u64, 0_u64);
    for record in &profile.records {
        if let Record::Callbacks(cell) = record
            && cell.kind.clears()
            && let Observed::Value(n) = cell.young
        {
            young = young.saturating_add(n);
            of = of.saturating_add(cell.callbacks);
        }
    }
    if of > 0 {
        let share = (young as f64 / of as f64).min(1.0);
        return (share, "results of the callbacks".to_owned());
    }
    let share = YoungShares::of_guest(profile).clear;
    (
        share,
        "what the test guest did; young results were not observed".to_owned(),
    )
}

/// What carries synthetic times over to real ones.
#[derive(Clone, Debug)]
pub struct Model {
    /// The recording it was fitted to: its start, UTC.
    pub utc: String,
    outside: BTreeMap<CallbackKind, (f64, f64)>,
    /// Of callbacks that clear (`true`) and of those that only look: two programs, of which
    /// the second ends at the first young SPTE.
    walk: BTreeMap<bool, Fit<2>>,
}

impl Model {
    /// Fits a model to a recording and the synthetic times of its groups,
    /// nanoseconds, under the scheme its kernel uses.
    ///
    /// # Errors
    /// A sentence when the recording does not tell the walk from the rest.
    pub fn fit(recording: &Recording, synthetic_ns: &[f64]) -> Result<Self, String> {
        let mut outside: BTreeMap<CallbackKind, (f64, f64, f64)> = BTreeMap::new();
        let mut points: BTreeMap<bool, Vec<_>> = BTreeMap::new();
        for (group, ns) in recording.groups.iter().zip(synthetic_ns) {
            let (Some(total), Some(walk)) = (group.real.total, group.real.walk) else {
                continue;
            };
            if !group.real.is_supported() {
                continue;
            }
            let n = group.real.callbacks as f64;
            let sum = outside.entry(group.kind).or_default();
            sum.0 += n;
            sum.1 += n * (total.mean_ns - walk.mean_ns);
            sum.2 += (n * total.half_ns()).powi(2);
            let point = (*ns, walk.mean_ns, walk.half_ns().max(1e-3) / Z95);
            points.entry(group.kind.clears()).or_default().push(point);
        }
        if points.is_empty() {
            let reason = "the model's recording does not tell the walk from the rest of a callback";
            return Err(reason.to_owned());
        }
        let line = |points: &Vec<_>| fit_line(points).or_else(|| offset(points));
        let walk = points
            .iter()
            .filter_map(|(clears, points)| Some((*clears, line(points)?)));
        let walk = walk.collect();
        let outside = outside
            .into_iter()
            .map(|(k, (n, ns, squares))| (k, (ns / n, squares.sqrt() / n)));
        Ok(Self {
            utc: recording.input.recorded_utc.clone(),
            outside: outside.collect(),
            walk,
        })
    }

    /// Whether the model says what callbacks like these take outside of the walk.
    pub fn covers(&self, group: &Group) -> bool {
        self.outside.contains_key(&group.kind) && self.walk.contains_key(&group.kind.clears())
    }

    /// The mean time of those of a recording's callbacks that the model covers, from
    /// the synthetic times of its groups under some scheme.
    pub fn predict(&self, recording: &Recording, synthetic_ns: &[f64]) -> Observed<Estimate> {
        let covered = |group: &Group| self.covers(group);
        let share = recording.share(covered);
        if share < LEAST_COVERED {
            return Observed::missing(format!(
                "the model covers only {:.0} % of the recorded callbacks: its own recording has \
                 too few timed ones of the other kinds, or their chain lengths could not be read",
                share * 100.0
            ));
        }
        let outside = |g: &Group| self.outside.get(&g.kind).copied().unwrap_or_default();
        let (mut mean, mut squares) = (recording.mean(covered, |_, g| outside(g).0), 0.0_f64);
        for (clears, line) in &self.walk {
            // What a callback of the mean has of this kind of walk: none, a part, a whole one.
            let of_kind = |g: &Group| f64::from(u8::from(g.kind.clears() == *clears));
            let part = recording.mean(covered, |_, g| of_kind(g));
            let synthetic = recording.mean(covered, |i, g| {
                of_kind(g) * synthetic_ns.get(i).copied().unwrap_or(0.0)
            });
            // Together: a line that starts too high rises too little.
            let (ns, half) = line.value_ci95([part, synthetic]);
            mean += ns;
            squares += half.powi(2);
        }
        Observed::Value(around(
            mean.max(0.0),
            squares
                .sqrt()
                .hypot(recording.mean(covered, |_, g| outside(g).1)),
        ))
    }
}

/// A line of slope 1 where there are too few points for another.
fn offset(points: &[(f64, f64, f64)]) -> Option<Fit<2>> {
    let (x, y, se) = points.first()?;
    Some(Fit {
        coefficients: [y - x, 1.0],
        covariance: [[se * se, 0.0], [0.0, 0.0]],
        scatter: None,
    })
}
