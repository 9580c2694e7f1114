//! How far the schemes are from what bounds them, from peers and from each other,
//! beside what was set out to be reached.
//!
//! Every row is a ratio of two cells of one run; a row whose cells were not measured
//! is left out.

use std::fmt;

use crate::{
    ResultFile,
    schema::{BenchRecord, Cache, Op, Params, Record, Summary},
    table::{Column, Table, with_interval},
};

/// The bit lock as merged.
const MERGED: &str = "bitlock";
/// Our own fastest exact scheme.
const BEST: &str = "single-batched";
/// What peers' names begin with.
const PEER: &str = "peer-";
/// What bounds' names begin with.
const LIMIT: &str = "limit-";

/// Whether a row is of a peer.
pub(crate) fn is_peer(name: &str) -> bool {
    name.starts_with(PEER)
}

/// Whether a row is of a bound.
pub(crate) fn is_limit(name: &str) -> bool {
    name.starts_with(LIMIT)
}

/// Whether a row is of a lock scheme.
pub(crate) fn is_scheme(name: &str) -> bool {
    !is_peer(name) && !is_limit(name)
}

/// As large, as far as two percent go.
const NO_LARGER: f64 = 1.02;

/// What a ratio should be.
#[derive(Clone, Copy)]
pub(super) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    /// Whether it is reached, in a word.
    pub(super) fn word(self, ratio: &Summary) -> &'static str {
        match self.reached(ratio) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "~",
        }
    }

    /// Whether it is reached; `None` where the interval holds both answers.
    fn reached(self, ratio: &Summary) -> Option<bool> {
        let low = ratio.ci95_low.unwrap_or(ratio.median);
        let high = ratio.ci95_high.unwrap_or(ratio.median);
        let (surely, maybe) = match self {
            Self::AtMost(most) => (high <= most, low <= most),
            Self::AtLeast(least) => (low >= least, high >= least),
        };
        (surely == maybe).then_some(surely)
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

/// The cells of a run, and the rows made of them.
struct Goals<'a> {
    cells: Vec<&'a BenchRecord>,
    table: Table,
}

/// The table; empty where nothing was measured that it is about.
pub fn goals(file: &ResultFile) -> Table {
    let cells = file.records.iter().filter_map(|r| match r {
        Record::Bench(cell) => Some(&**cell),
        _ => None,
    });
    let mut goals = Goals {
        cells: cells.collect(),
        table: Table::new(
            "What bounds, peers and the merged scheme are to ours",
            vec![
                Column::text("what"),
                Column::text("ratio of"),
                Column::text("to"),
                Column::number("ratio"),
                Column::text("goal"),
                Column::text("reached"),
            ],
        ),
    };
    goals.walks();
    goals.empty_slots();
    goals.mutators();
    goals.agers();
    goals.memory();
    let mut table = goals.table;
    table.note(
        "median of the rounds' ratios ± half of its 95 % interval; a peer is the best of all \
         peers in that row. ~: the interval holds both answers.",
    );
    table
}

impl<'a> Goals<'a> {
    fn find(
        &self,
        (workload, scheme, op, metric): (&str, &str, Op, &str),
        fits: &dyn Fn(&Params) -> bool,
    ) -> Option<&'a BenchRecord> {
        let is_it = |c: &&&BenchRecord| {
            (
                c.workload.as_str(),
                c.scheme.as_str(),
                c.op,
                c.metric.as_str(),
            ) == (workload, scheme, op, metric)
                && fits(&c.params)
        };
        self.cells.iter().find(is_it).copied()
    }

    /// The peer that does best: every figure here is a cost.
    fn peer(
        &self,
        key: (&str, Op, &str),
        fits: &dyn Fn(&Params) -> bool,
    ) -> Option<&'a BenchRecord> {
        self.extreme(key, fits, &is_peer)
            .reduce(|best, c| if median(c) < median(best) { c } else { best })
    }

    fn extreme<'s>(
        &'s self,
        (workload, op, metric): (&'s str, Op, &'s str),
        fits: &'s dyn Fn(&Params) -> bool,
        is_one: &'s dyn Fn(&str) -> bool,
    ) -> impl Iterator<Item = &'a BenchRecord> + 's {
        self.cells.iter().copied().filter(move |c| {
            (c.workload.as_str(), c.op, c.metric.as_str()) == (workload, op, metric)
                && is_one(&c.scheme)
                && fits(&c.params)
        })
    }

    fn row(
        &mut self,
        what: &str,
        over: Option<&BenchRecord>,
        under: Option<&BenchRecord>,
        goal: Goal,
    ) {
        let (Some(over), Some(under)) = (over, under) else {
            return;
        };
        let Some(ratio) = Summary::of_ratios(&over.rounds, &under.rounds) else {
            return;
        };
        let names = [over.scheme.clone(), under.scheme.clone()];
        self.ratio(what, names, &ratio, goal);
    }

    fn ratio(&mut self, what: &str, names: [String; 2], ratio: &Summary, goal: Goal) {
        let [over, under] = names;
        self.table.row(vec![
            what.to_owned(),
            over,
            under,
            with_interval(ratio.median, ratio.ci95_low.zip(ratio.ci95_high)),
            goal.to_string(),
            goal.word(ratio).to_owned(),
        ]);
    }

    /// One SPTE a page: hot and cold, a page at a time and 64.
    fn walks(&mut self) {
        let (once, many) = (("ns_per_callback", 1), ("ns_per_gfn", 64));
        for (op, young) in [(Op::TestAge, 0.0), (Op::Age, 0.0), (Op::Age, 1.0)] {
            for (cache, (metric, pages)) in [
                (Cache::Hot, many),
                (Cache::Hot, once),
                (Cache::Cold, many),
                (Cache::Cold, once),
            ] {
                let fits = move |p: &Params| {
                    (p.cache, p.range_pages, p.chain_len) == (Some(cache), Some(pages), Some(1))
                        && p.level == Some(1)
                        && p.young_share == Some(young)
                };
                let state = if young > 0.0 { "young" } else { "old" };
                let page = if pages == 1 { "page" } else { "pages" };
                let what = format!("{op}, {cache}, {state}, {pages} {page}");
                let cell = |scheme| self.find(("walk", scheme, op, metric), &fits);
                let peer = self.peer(("walk", op, metric), &fits);
                let (merged, best) = (cell(MERGED), cell(BEST));
                let (loads, cmpxchg) = (cell("limit-loads"), cell("limit-cmpxchg"));
                let hot = cache == Cache::Hot;
                let of = |if_hot, if_cold| if hot { if_hot } else { if_cold };
                if hot {
                    self.row(&what, merged, cmpxchg, Goal::AtMost(1.15));
                    self.row(&what, best, loads, Goal::AtMost(1.15));
                }
                self.row(&what, merged, best, Goal::AtLeast(of(8.0, 2.0)));
                self.row(&what, peer, best, Goal::AtLeast(of(15.0, 8.0)));
                self.row(&what, peer, merged, Goal::AtLeast(of(2.0, 5.0)));
            }
        }
    }

    /// A whole slot, 99 % of it empty: the bandwidth of our walk of that of a stream.
    fn empty_slots(&mut self) {
        for (op, cache) in [Op::TestAge, Op::Age]
            .into_iter()
            .flat_map(|op| [(op, Cache::Hot), (op, Cache::Cold)])
        {
            let fits = move |p: &Params| p.empty_share == Some(0.99) && p.cache == Some(cache);
            let cell = |scheme| self.find(("empty", scheme, op, "ns_per_gfn"), &fits);
            let (stream, best) = (cell("limit-stream"), cell(BEST));
            let what = format!("{op}, {cache}, slot 99 % empty");
            self.row(&what, stream, best, Goal::AtLeast(0.8));
        }
    }

    /// What mutators pay.
    fn mutators(&mut self) {
        for (op, chain_len) in [Op::Fault, Op::Zap]
            .into_iter()
            .flat_map(|op| [(op, 1), (op, 16)])
        {
            let fits = move |p: &Params| p.chain_len == Some(chain_len);
            let cell = |scheme| self.find(("writer", scheme, op, "ns_per_op"), &fits);
            let (best, merged, plain) = (cell(BEST), cell(MERGED), cell("rwlock-write"));
            let what = format!("{op}, {}", sptes(chain_len));
            self.row(&what, best, plain, Goal::AtMost(1.15));
            self.row(&what, best, merged, Goal::AtMost(NO_LARGER));
        }
    }

    /// Two agers on disjoint ranges to one.
    fn agers(&mut self) {
        for chain_len in [1, 16] {
            for scheme in [MERGED, BEST] {
                let fits = move |p: &Params| {
                    p.ranges.as_deref() == Some("disjoint")
                        && (p.agers, p.chain_len) == (Some(2), Some(chain_len))
                };
                let cell = self.find(("agers", scheme, Op::Age, "ratio_to_one"), &fits);
                let Some(ratio) = cell.and_then(|c| c.summary.value()) else {
                    continue;
                };
                let names = [format!("{scheme}, 2 agers"), "1 ager".to_owned()];
                let what = format!("age, disjoint pages, {}", sptes(chain_len));
                self.ratio(&what, names, ratio, Goal::AtLeast(1.9));
            }
        }
    }

    /// The scheme that takes most memory against the peer that takes least.
    fn memory(&mut self) {
        for (chain_len, most) in [(1, 0.125), (16, 0.5)] {
            let fits = move |p: &Params| p.chain_len == Some(chain_len);
            for (metric, of) in [
                ("bytes_per_gfn", "bytes per gfn"),
                ("index_bytes_per_gfn", "bytes per gfn beside its SPTEs"),
            ] {
                let key = ("memory", Op::Map, metric);
                let largest = self
                    .extreme(key, &fits, &is_scheme)
                    .reduce(|most, c| if median(c) > median(most) { c } else { most });
                let peer = self.peer(key, &fits);
                let what = format!("{of}, {}", sptes(chain_len));
                self.row(&what, largest, peer, Goal::AtMost(most));
            }
        }
    }
}

fn sptes(chain_len: u32) -> String {
    format!("{chain_len} SPTE{}", if chain_len == 1 { "" } else { "s" })
}

fn median(cell: &BenchRecord) -> f64 {
    cell.summary.value().map_or(f64::NAN, |s| s.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(low: f64, median: f64, high: f64) -> Summary {
        Summary {
            ci95_low: Some(low),
            ci95_high: Some(high),
            ..Summary::of(&[median]).unwrap()
        }
    }

    #[test]
    fn a_goal_is_reached_when_the_whole_interval_says_so() {
        let most = Goal::AtMost(1.15);
        assert_eq!(most.reached(&ratio(0.9, 1.0, 1.1)), Some(true));
        assert_eq!(most.reached(&ratio(1.0, 1.1, 1.2)), None);
        assert_eq!(most.reached(&ratio(1.2, 1.3, 1.4)), Some(false));
        let least = Goal::AtLeast(2.0);
        assert_eq!(least.reached(&ratio(2.1, 2.2, 2.3)), Some(true));
        assert_eq!(least.reached(&ratio(1.9, 2.2, 2.3)), None);
        assert_eq!(least.reached(&ratio(1.0, 1.2, 1.3)), Some(false));
    }
}
