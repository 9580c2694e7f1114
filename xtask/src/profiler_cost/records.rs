//! From turns to result records.

use ::report::{
    Observed,
    schema::{BenchRecord, Op, Params, Record, Summary},
    stats,
    summary::watchers::{ADDED, ALONE, LOST, PASS, SEEN, WORKLOAD},
};

use super::{
    rounds::{Arm, Rounds, Turn},
    watcher::Watcher,
};

/// One figure of a turn.
type Figure = fn(&Turn) -> &Observed<u64>;
const SEES: Figure = |turn| &turn.seen.callbacks;
const LOSES: Figure = |turn| &turn.seen.lost;

/// All records: for each watcher the time of a pass, what it adds to a callback,
/// and what it saw and lost.
pub(super) fn of(rounds: &Rounds) -> Vec<Record> {
    let callbacks: Vec<Option<f64>> = (0..rounds.done())
        .map(|round| callbacks_per_pass(&rounds.arms, round))
        .collect();
    let mut records = Vec::new();
    for arm in &rounds.arms {
        let mut add = |metric: &str, values: Vec<Option<f64>>, reason: &str| {
            records.push(record(rounds, arm, metric, &values, reason));
        };
        let turns = || arm.turns.iter();
        add(PASS, turns().map(|turn| Some(turn.pass_ns)).collect(), "");
        let alone = turns().map(|turn| Some(turn.alone_ns));
        add(ALONE, alone.collect(), "");
        if arm.watcher == Watcher::Nobody {
            continue;
        }
        let added = turns().zip(&callbacks);
        let added = added.map(|(turn, of)| Some((turn.pass_ns - turn.alone_ns) / (*of)?));
        add(ADDED, added.collect(), "no watcher counted every callback");
        for (metric, of) in [(SEEN, SEES), (LOST, LOSES)] {
            let per_pass =
                turns().map(|turn| Some(*of(turn).value()? as f64 / f64::from(turn.passes)));
            let reason = arm.turns.iter().find_map(|turn| of(turn).reason());
            add(metric, per_pass.collect(), reason.unwrap_or_default());
        }
    }
    records
}

/// Callbacks of one pass in a round: the median of what those counted who say
/// that they lost nothing.
fn callbacks_per_pass(arms: &[Arm], round: usize) -> Option<f64> {
    let turns = arms.iter().filter_map(|arm| arm.turns.get(round));
    let whole = turns.filter(|turn| turn.seen.lost == Observed::Value(0));
    let counted: Vec<f64> = whole
        .filter_map(|turn| Some(*turn.seen.callbacks.value()? as f64 / f64::from(turn.passes)))
        .collect();
    stats::median(&counted).filter(|callbacks| *callbacks > 0.0)
}

fn record(
    rounds: &Rounds,
    arm: &Arm,
    metric: &str,
    values: &[Option<f64>],
    reason: &str,
) -> Record {
    let values: Option<Vec<f64>> = values.iter().copied().collect();
    let values = values.unwrap_or_default();
    let reason = arm.missing.as_deref().unwrap_or(reason);
    Record::Bench(Box::new(BenchRecord {
        workload: WORKLOAD.to_owned(),
        scheme: arm.watcher.name().to_owned(),
        op: Op::Reclaim,
        metric: metric.to_owned(),
        params: Params {
            slot_pages: Some(rounds.guest_pages),
            chain_len: Some(rounds.guest_aliases),
            ..Params::default()
        },
        summary: Summary::of(&values).map_or_else(|| Observed::missing(reason), Observed::Value),
        rounds: values,
        latency: None,
        counts: None,
        counters: std::collections::BTreeMap::new(),
        spoiled: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiler_cost::seen::Seen;

    fn arm(watcher: Watcher, callbacks: u64, lost: u64) -> Arm {
        let seen = Seen {
            callbacks: Observed::Value(callbacks),
            lost: Observed::Value(lost),
        };
        let turn = Turn {
            pass_ns: 1.0,
            alone_ns: 1.0,
            passes: 2,
            seen,
        };
        Arm {
            watcher,
            missing: None,
            turns: vec![turn],
        }
    }

    #[test]
    fn who_lost_events_does_not_say_how_many_there_were() {
        let arms = [
            arm(Watcher::Rmapscope, 2000, 0),
            arm(Watcher::PerfRecord, 500, 1500),
            arm(Watcher::PerfTrace, 400, 1600),
        ];
        assert_eq!(callbacks_per_pass(&arms, 0), Some(1000.0));
        assert_eq!(callbacks_per_pass(&arms, 1), None);
    }
}
