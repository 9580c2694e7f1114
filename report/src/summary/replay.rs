//! The table of a replay: a recorded host's aging under every scheme.

use super::Marks;
use crate::{
    Observed, ResultFile,
    schema::{Estimate, Record, ReplayInput, ReplayRecord},
    table::{Column, Table, count, figure, with_interval},
};

/// One row per scheme.
pub(super) fn tables(file: &ResultFile) -> Vec<Table> {
    let replays: Vec<&ReplayRecord> = file
        .records
        .iter()
        .filter_map(|r| match r {
            Record::Replay(replay) => Some(&**replay),
            _ => None,
        })
        .collect();
    let Some(first) = replays.first() else {
        return Vec::new();
    };
    let mut table = Table::new(
        "A recorded host's aging under each scheme, mean of one callback",
        vec![
            Column::text("scheme"),
            Column::number("synthetic (ns)"),
            Column::number("predicted (ns)"),
            Column::number("recorded (ns)"),
            Column::number("error (goal ±25 %)"),
        ],
    );
    let marks = Marks {
        kernels_own: replays
            .iter()
            .find(|r| r.kernels_own)
            .map(|r| r.scheme.as_str()),
        pass_over: &file.context.pass_over_chains,
    };
    for replay in &replays {
        table.row(row(replay, marks));
    }
    describe(&first.input)
        .into_iter()
        .for_each(|note| table.note(note));
    table.note(
        "synthetic: the recorded mix of callbacks on the model, median ± half of the 95 % \
         interval. predicted: that time carried over to a real callback by a model fitted to \
         another recording. recorded, error: only for the scheme the kernel itself uses (*).",
    );
    if let Some(share) = first.covered_share {
        table.note(format!(
            "prediction and recorded time are of {:.1} % of the recorded callbacks: the others are \
             of a kind that the model's recording has too few of, or at a chain length that could \
             not be read.",
            share * 100.0
        ));
    }
    for reason in reasons(&replays) {
        table.note(reason);
    }
    if let Some(note) = marks.note(replays.iter().map(|r| r.scheme.as_str())) {
        table.note(note);
    }
    vec![table]
}

fn row(replay: &ReplayRecord, marks: Marks<'_>) -> Vec<String> {
    let estimate = |e: &Observed<Estimate>| {
        e.value().map_or_else(
            || "-".to_owned(),
            |e| with_interval(e.mean_ns, Some((e.low_ns, e.high_ns))),
        )
    };
    let synthetic = replay.synthetic_ns.value().map_or_else(
        || "-".to_owned(),
        |s| with_interval(s.median, s.ci95_low.zip(s.ci95_high)),
    );
    let error = replay
        .relative_error
        .value()
        .map_or_else(|| "-".to_owned(), |e| format!("{:+.0} %", e * 100.0));
    vec![
        marks.named(&replay.scheme),
        synthetic,
        estimate(&replay.predicted_ns),
        estimate(&replay.recorded_ns),
        error,
    ]
}

fn describe(input: &ReplayInput) -> Vec<String> {
    let kinds: Vec<String> = input
        .kind_share
        .iter()
        .map(|(kind, share)| format!("{kind} {}", figure(*share)))
        .collect();
    let or_reason = |o: &Observed<f64>| match o {
        Observed::Value(v) => figure(*v),
        Observed::Missing(reason) => format!("unknown ({reason})"),
    };
    vec![
        format!("recording of {}: {}.", input.recorded_utc, input.host),
        format!(
            "{} callbacks replayed of {} recorded, {} a second; shares: {}; mean chain {} SPTEs; mean range {} pages; \
             {} of SPTEs young ({}); callers at once: {}; faults a second (not replayed): {}; {} pages.",
            count(input.callbacks),
            count(input.callbacks_recorded),
            figure(input.callbacks_per_s),
            kinds.join(", "),
            figure(input.mean_chain_len),
            figure(input.mean_range_pages),
            figure(input.young_share),
            input.young_from,
            or_reason(&input.callers),
            or_reason(&input.faults_per_s),
            count(input.pages),
        ),
    ]
}

/// Why there is no prediction or no error where there might be one.
fn reasons(replays: &[&ReplayRecord]) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    for replay in replays {
        let missing = [
            ("predicted", replay.predicted_ns.reason()),
            (
                "recorded",
                replay.recorded_ns.reason().filter(|_| replay.kernels_own),
            ),
        ];
        for (what, reason) in missing {
            if let Some(reason) = reason {
                let note = format!("no {what} time: {reason}.");
                if !reasons.contains(&note) {
                    reasons.push(note);
                }
            }
        }
    }
    reasons
}
