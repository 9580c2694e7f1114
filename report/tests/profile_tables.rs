//! The tables of a recording: what is not whole, not counted or not so says it.

mod common;

use common::{callbacks, run};
use report::{
    Observed, ResultFile, ResultWriter, host,
    schema::{
        CallbackKind, ChainLen, Disturbance, LossRecord, MechanismRecord, Outcome, Record,
        ResultKind,
    },
    summary,
    table::Format,
};

fn loss(signal: &str, cause: &str, count: u64) -> Record {
    Record::Loss(LossRecord {
        run: 0,
        signal: signal.to_owned(),
        cause: cause.to_owned(),
        count: Observed::Value(count),
        at_s: None,
    })
}

/// A recording of ten seconds with these records, that ended for this reason if it ended early.
fn recording(records: Vec<Record>, reason: Option<&str>) -> ResultFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.jsonl");
    let mut writer = ResultWriter::create(&path, host::context(ResultKind::Profile)).unwrap();
    writer.push(&run(0, Observed::missing("a test"))).unwrap();
    for record in records {
        writer.push(&record).unwrap();
    }
    let outcome = match reason {
        Some(_) => Outcome::Partial,
        None => Outcome::Complete,
    };
    let end = Disturbance::unwatched("a test");
    let written = writer.finish(outcome, reason.map(str::to_owned), end);
    ResultFile::read(&written.unwrap()).unwrap()
}

/// The table of a title, rendered.
fn table(file: &ResultFile, title: &str) -> String {
    let tables = summary::tables(file).into_iter();
    let mut found = tables.filter(|table| table.title() == title);
    found.next().expect(title).render(Format::Text)
}

#[test]
fn a_recording_that_was_ended_early_says_so_first_and_for_how_long_it_lasted() {
    let partial = summary::heading(&recording(Vec::new(), Some("ended by SIGINT")));
    assert_eq!(partial[0], "PARTIAL: ended by SIGINT; 10.0 s recorded");
    let whole = summary::heading(&recording(Vec::new(), None)).join("\n");
    assert!(!whole.contains("PARTIAL"), "{whole}");
}

#[test]
fn what_was_lost_comes_first_and_what_was_not_is_one_line() {
    let losses = vec![
        loss("VM", "beyond the tables", 0),
        loss("attribution", "in no recorded VM", 3),
        loss("callbacks", "the table of cells was full", 0),
        loss("samples", "no stack", 1200),
    ];
    let text = table(&recording(losses, None), "Losses");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip(3)
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["samples", "no", "stack", "1,200"]);
    assert_eq!(rows[1], ["attribution", "in", "no", "recorded", "VM", "3"]);
    assert_eq!(rows[2], ["all", "2", "other", "causes", "0"]);
    assert_eq!(rows.len(), 3, "{text}");
}

#[test]
fn rates_that_were_lowered_are_no_losses_and_in_the_order_of_time() {
    let lowered = |at_s: f64| {
        let cause = format!("the rate was lowered to 1994 Hz after {at_s:.0} s, because");
        let mut record = loss(LossRecord::SAMPLING_RATE, &cause, 1);
        if let Record::Loss(loss) = &mut record {
            loss.at_s = Some(at_s);
        }
        record
    };
    // In the order of their words, as merged files have them.
    let losses = vec![lowered(101.0), lowered(12.0), lowered(3.0)];
    let file = recording(losses, None);
    let text = table(&file, "Limit on the cost of observing");
    let at = |text: &str, what: &str| text.find(what).expect("a row");
    assert!(at(&text, "after 3 s") < at(&text, "after 12 s"), "{text}");
    assert!(at(&text, "after 12 s") < at(&text, "after 101 s"), "{text}");
    assert!(
        summary::tables(&file)
            .iter()
            .all(|table| table.title() != "Losses")
    );
}

#[test]
fn a_row_without_a_vm_is_named_for_what_it_is() {
    let at = |chain_len| {
        let mut record = callbacks(CallbackKind::ClearYoung, 1, 1000, 2, 3);
        if let Record::Callbacks(record) = &mut record {
            record.chain_len = chain_len;
        }
        record
    };
    let records = vec![at(ChainLen::Outside), at(ChainLen::Ambiguous)];
    let file = recording(records, None);
    let text = table(&file, "Aging callbacks, by VM, kind and caller");
    for name in ["not recorded", "ambiguous"] {
        let row = text.lines().find(|line| line.starts_with(name));
        // Five samples are too few for a mean.
        let row = row.unwrap_or_else(|| panic!("{text}"));
        assert!(
            row.contains("1,000") && row.ends_with("-               -"),
            "{text}"
        );
    }
}

#[test]
fn a_refusal_that_holds_for_several_signals_is_told_once() {
    let refused = "fentry: the kernel refuses to load it: EPERM";
    let mechanism = |signal: &str, mechanism| {
        Record::Mechanism(MechanismRecord {
            run: 0,
            signal: signal.to_owned(),
            mechanism,
            exact: true,
            passed_over: vec![refused.to_owned()],
        })
    };
    let records = vec![
        mechanism("callbacks", Observed::Value("tracepoints".to_owned())),
        mechanism("young result", Observed::missing(refused)),
    ];
    let text = table(&recording(records, None), "What observed each signal");
    assert_eq!(text.matches("EPERM").count(), 1, "{text}");
    assert!(text.contains("none: fentry [1]"), "{text}");
}
