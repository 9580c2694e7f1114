//! What verdicts rest on, and how rules look it up.

use std::collections::BTreeMap;

use crate::{
    Observed,
    proportion::Counts,
    schema::{BenchRecord, CensusRecord, KvmConfig, Op, Params, Record, Summary, VerdictNumber},
};

/// Tests that were run for the verdicts, by name.
#[derive(Debug, Default)]
pub struct Checks(BTreeMap<String, bool>);

impl Checks {
    /// Notes how a test ended.
    pub fn add(&mut self, name: impl Into<String>, passed: bool) {
        self.0.insert(name.into(), passed);
    }

    /// Whether the test passed; `None` if it was not run.
    fn passed(&self, name: &str) -> Option<bool> {
        self.0.get(name).copied()
    }
}

/// A recorded profile.
#[derive(Clone, Copy, Debug)]
pub struct Profile<'a> {
    /// KVM on the host that was recorded.
    pub kvm: &'a KvmConfig,
    /// What was recorded.
    pub records: &'a [Record],
}

/// Records to judge by: a benchmark's, those of profiles, and tests.
pub struct Evidence<'a> {
    bench: &'a [Record],
    profiles: &'a [Profile<'a>],
    checks: &'a Checks,
}

/// Whose VMs a run of a profile looked at, and what their rmaps can tell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Guests {
    /// The host's own. Without nested guests they have no rmaps: the TDP MMU is on.
    Own,
    /// The host's own, where the TDP MMU is off: all of them have rmaps, nested or not.
    OwnWithoutTdpMmu,
    /// A test guest that is an L1, whose L2 uses the pages.
    Nested {
        /// Whether L1 maps each page once.
        once: bool,
    },
    /// Another test guest, with as many SPTEs for a gfn as somebody chose.
    Chosen,
}

/// How all tests of a claim ended.
pub(super) enum Tests {
    Passed,
    Failed(&'static str),
    NotRun(&'static str),
}

impl<'a> Evidence<'a> {
    /// Evidence from a benchmark's records, profiles and tests; any may be empty.
    pub fn new(bench: &'a [Record], profiles: &'a [Profile<'a>], checks: &'a Checks) -> Self {
        Self {
            bench,
            profiles,
            checks,
        }
    }

    /// All cells of one workload, scheme, operation and metric.
    pub(super) fn cells(
        &self,
        (workload, scheme, op, metric): Key<'a>,
    ) -> impl Iterator<Item = &'a BenchRecord> {
        self.bench.iter().filter_map(move |record| match record {
            Record::Bench(cell)
                if cell.workload == workload
                    && cell.scheme == scheme
                    && cell.op == op
                    && cell.metric == metric =>
            {
                Some(&**cell)
            }
            _ => None,
        })
    }

    /// The first of the cells whose parameters are these.
    pub(super) fn cell(
        &self,
        key: Key<'a>,
        fits: impl Fn(&Params) -> bool,
    ) -> Option<&'a BenchRecord> {
        self.cells(key).find(|cell| fits(&cell.params))
    }

    /// Events of all the cells whose parameters are these.
    pub(super) fn counts(&self, key: Key<'a>, fits: impl Fn(&Params) -> bool) -> Option<Counts> {
        let mut sum = None;
        let fitting = self.cells(key).filter(|cell| fits(&cell.params));
        for counts in fitting.filter_map(|cell| cell.counts) {
            sum.get_or_insert_with(Counts::default).add(counts);
        }
        sum
    }

    /// The census records of 4 KiB rmaps, each with whose they are.
    pub(super) fn censuses(&self) -> impl Iterator<Item = (Guests, &'a CensusRecord)> {
        self.profiles.iter().flat_map(|profile| {
            profile.records.iter().filter_map(|record| match record {
                Record::Census(census) if census.level == 1 => {
                    Some((profile.guests(census.run), census))
                }
                _ => None,
            })
        })
    }

    /// How these tests ended, the worst first.
    pub(super) fn tests(&self, names: &[&'static str]) -> Tests {
        let of = |wanted| {
            let mut names = names.iter();
            names.find(move |name| self.checks.passed(name) == wanted)
        };
        match (of(Some(false)), of(None)) {
            (Some(name), _) => Tests::Failed(name),
            (_, Some(name)) => Tests::NotRun(name),
            _ => Tests::Passed,
        }
    }
}

impl Profile<'_> {
    /// Whose VMs a run looked at.
    fn guests(&self, number: u32) -> Guests {
        let guest = self.records.iter().find_map(|record| match record {
            Record::Run(run) if run.run == number => run.guest.as_ref(),
            _ => None,
        });
        match guest {
            None if self.kvm.has_tdp_mmu() => Guests::Own,
            None => Guests::OwnWithoutTdpMmu,
            Some(guest) if guest.nested => Guests::Nested {
                once: guest.aliases == 1,
            },
            Some(_) => Guests::Chosen,
        }
    }
}

/// Workload, scheme, operation, metric.
pub(super) type Key<'a> = (&'a str, &'a str, Op, &'a str);

/// A measured median as a figure of a verdict.
pub(super) fn median(name: impl Into<String>, unit: &str, cell: &BenchRecord) -> VerdictNumber {
    let summary = cell.summary.value();
    VerdictNumber {
        name: name.into(),
        unit: unit.to_owned(),
        value: match summary {
            Some(summary) => Observed::Value(summary.median),
            None => Observed::missing("no round gave a value"),
        },
        ci95: summary.and_then(|s| s.ci95_low.zip(s.ci95_high)),
    }
}

/// How many times the first is the second: the median over the rounds, each of
/// which measured both within the same seconds, and its interval.
pub(super) fn ratio(
    name: impl Into<String>,
    over: &BenchRecord,
    under: &BenchRecord,
) -> Option<VerdictNumber> {
    let summary = Summary::of_ratios(&over.rounds, &under.rounds)?;
    Some(VerdictNumber {
        name: name.into(),
        unit: String::new(),
        value: Observed::Value(summary.median),
        ci95: summary.ci95_low.zip(summary.ci95_high),
    })
}

/// Events per million.
pub(super) fn per_million(name: impl Into<String>, counts: Counts) -> VerdictNumber {
    const PER: f64 = 1e6;
    VerdictNumber {
        name: format!("{} ({} of {})", name.into(), counts.hits, counts.trials),
        unit: "per million".to_owned(),
        value: counts.share().map_or_else(
            || Observed::missing("nothing was looked at"),
            |share| Observed::Value(share * PER),
        ),
        ci95: counts
            .share_ci95()
            .map(|(low, high)| (low * PER, high * PER)),
    }
}

/// The figure's value, if it has one.
pub(super) fn value(number: &VerdictNumber) -> Option<f64> {
    number.value.value().copied()
}

/// The lowest and highest the figure can be taken to be.
pub(super) fn bounds(number: &VerdictNumber) -> Option<(f64, f64)> {
    number.ci95.or_else(|| value(number).map(|v| (v, v)))
}
