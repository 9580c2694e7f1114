//! Predictions of a recording by a model of another one.

mod common;

use common::{callbacks, file, run};
use report::{
    Observed, ResultFile,
    latency::Latency,
    replay::{Group, Model, Recording},
    schema::{CallbackKind, HeldUp, InterferenceRecord, Record, ResultKind},
};

const CLEARS: CallbackKind = CallbackKind::ClearFlushYoung;
const LOOKS: CallbackKind = CallbackKind::TestYoung;
/// Callbacks of a group; with it a sample in common's records stands for a quarter of a
/// nanosecond of each.
const CALLBACKS: u64 = 1_000_000;

/// What the model would take to walk a group's chains.
fn synthetic_ns(group: &Group) -> f64 {
    50.0 * f64::from(group.chain_len)
}

/// Real times of the walk and outside of it, ns: other programs, other lines.
fn real_ns(kind: CallbackKind, len: u32) -> (u64, u64) {
    let synthetic = 50 * u64::from(len);
    match kind {
        CLEARS => (20 + 2 * synthetic, 200),
        _ => (300 + synthetic / 10, 100),
    }
}

fn profile(name: &str, kinds: &[CallbackKind], lens: &[u32]) -> ResultFile {
    let folder = tempfile::tempdir().unwrap();
    let of = |(kind, len)| {
        let (walk, outside) = real_ns(kind, len);
        callbacks(kind, len, CALLBACKS, 4 * walk, 4 * outside)
    };
    let cells = kinds
        .iter()
        .flat_map(|&k| lens.iter().map(move |&l| (k, l)));
    let records: Vec<_> = cells.map(of).collect();
    file(folder.path(), name, ResultKind::Profile, &records)
}

fn synthetic(recording: &Recording) -> Vec<f64> {
    recording.groups.iter().map(synthetic_ns).collect()
}

fn model(kinds: &[CallbackKind]) -> Model {
    let recording = Recording::of(&profile("model.jsonl", kinds, &[1, 4, 16])).unwrap();
    Model::fit(&recording, &synthetic(&recording)).unwrap()
}

#[test]
fn walks_that_clear_and_walks_that_look_have_lines_of_their_own() {
    let recording = Recording::of(&profile("r.jsonl", &[CLEARS, LOOKS], &[2, 8])).unwrap();
    let predicted = model(&[CLEARS, LOOKS]).predict(&recording, &synthetic(&recording));
    // (20 + 200) + 200, (20 + 800) + 200, (300 + 10) + 100, (300 + 40) + 100.
    let expected = (420.0 + 1020.0 + 410.0 + 440.0) / 4.0;
    let mean = predicted.value().unwrap().mean_ns;
    assert!((mean / expected - 1.0).abs() < 0.01, "{mean} {expected}");
}

#[test]
fn callbacks_of_a_kind_that_the_model_never_saw_are_not_predicted() {
    let recording = Recording::of(&profile("r.jsonl", &[CLEARS, LOOKS], &[2, 8])).unwrap();
    let predicted = model(&[CLEARS]).predict(&recording, &synthetic(&recording));
    let reason = predicted.reason().unwrap();
    assert!(reason.contains("50 %"), "{reason}");
}

#[test]
fn where_the_model_has_its_points_it_is_surer_than_at_zero() {
    let predicted = |lens: &[u32]| {
        let recording = Recording::of(&profile("r.jsonl", &[CLEARS], lens)).unwrap();
        let predicted = model(&[CLEARS]).predict(&recording, &synthetic(&recording));
        let predicted = *predicted.value().unwrap();
        predicted.high_ns - predicted.mean_ns
    };
    // The model's lengths are 1, 4 and 16; a line through them turns about their middle.
    let (amid, beyond) = (predicted(&[4]), predicted(&[64]));
    assert!(3.0 * amid < beyond, "{amid} {beyond}");
    // By hand: 10.1 of the line where it meets 200 ns, 17.2 of what is outside of the walk.
    // Height and slope taken for independent would give 23.2.
    assert!((20.0..21.0).contains(&amid), "{amid}");
}

#[test]
fn faults_are_told_by_the_second_or_why_they_are_not() {
    let mut recorded = profile("r.jsonl", &[CLEARS], &[2]);
    let told = |recorded: &ResultFile| Recording::of(recorded).unwrap().input.faults_per_s;
    assert!(
        told(&recorded)
            .reason()
            .unwrap()
            .contains("holds no faults")
    );
    let faults = |while_aging, not_aging| {
        Record::Interference(Box::new(InterferenceRecord {
            run: 0,
            vm: Some(0),
            what: HeldUp::Fault,
            while_aging,
            not_aging,
        }))
    };
    let none = || Observed::missing("the kernel refuses");
    recorded.records.push(faults(none(), none()));
    assert_eq!(told(&recorded).reason(), Some("the kernel refuses"));
    let mut times = Latency::new();
    times.record_many_ns(1000, 600);
    recorded.records.push(faults(
        Observed::Value(times.clone()),
        Observed::Value(times),
    ));
    recorded.records.push(run(0, Observed::missing("timed")));
    // 1200 in the ten seconds of the run.
    assert_eq!(told(&recorded).value(), Some(&120.0));
}
