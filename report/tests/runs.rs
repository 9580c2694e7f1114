//! Two bench runs beside each other: what counts as a change, and what is refused.

use report::{
    Observed, ResultFile,
    compare::{NotComparable, check_host, compare_runs},
    host,
    schema::{BenchRecord, Op, Outcome, Params, Record, ResultKind, Summary},
    table::Format,
};
use report::{ResultWriter, schema::Disturbance};

const TEN: [f64; 10] = [10.0, 10.1, 9.9, 10.2, 9.8, 10.05, 9.95, 10.15, 9.85, 10.3];

fn cell(scheme: &str, factor: f64) -> BenchRecord {
    let rounds: Vec<f64> = TEN.iter().map(|v| v * factor).collect();
    BenchRecord {
        workload: "walk".to_owned(),
        scheme: scheme.to_owned(),
        op: Op::Age,
        metric: "ns_per_gfn".to_owned(),
        params: Params {
            chain_len: Some(1),
            huge_page_share: Some(1.0 / factor),
            ..Params::default()
        },
        summary: Summary::of(&rounds)
            .map_or_else(|| Observed::missing("no rounds"), Observed::Value),
        rounds,
        latency: None,
        counts: None,
        counters: Default::default(),
        spoiled: None,
    }
}

fn file(kind: ResultKind, cells: Vec<BenchRecord>) -> ResultFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let mut writer = ResultWriter::create(&path, host::context(kind)).unwrap();
    for cell in cells {
        writer.push(&Record::Bench(Box::new(cell))).unwrap();
    }
    let path = writer
        .finish(Outcome::Complete, None, Disturbance::unwatched("a test"))
        .unwrap();
    ResultFile::read(&path).unwrap()
}

#[test]
fn only_what_differs_by_more_than_chance_is_called_slower() {
    let base = file(
        ResultKind::Bench,
        vec![cell("a", 1.0), cell("b", 1.0), cell("gone", 1.0)],
    );
    let new = file(ResultKind::Bench, vec![cell("a", 1.001), cell("b", 1.08)]);
    let compared = compare_runs(&base, &new).unwrap();
    let significant: Vec<_> = compared
        .changes
        .iter()
        .map(report::compare::Change::is_significant)
        .collect();
    assert_eq!(significant, [false, true]);
    assert_eq!(compared.only_one, 1);
    assert_eq!(compared.slower(5.0).count(), 1);
    assert_eq!(compared.slower(9.0).count(), 0);
    assert!(compared.verdict(9.0).is_none());
    assert!(compared.verdict(5.0).unwrap().contains("1 of 2 cells"));
    let text = compared.tables()[0].render(Format::Text);
    assert!(text.contains('~') && text.contains("+8.0 %"), "{text}");
    assert!(
        text.contains("geometric mean") && text.contains("10+10"),
        "{text}"
    );
}

#[test]
fn a_run_of_another_host_or_kind_is_refused_with_what_differs() {
    let new = file(ResultKind::Bench, vec![cell("a", 1.0)]);
    let mut base = file(ResultKind::Bench, vec![cell("a", 1.0)]);
    base.context.host.cpus_online += 1;
    let error = compare_runs(&base, &new).unwrap_err();
    assert!(matches!(
        error,
        NotComparable::Host {
            what: "number of CPUs",
            ..
        }
    ));
    base.context.host.cpus_online -= 1;
    base.context.mmu_lock = Some("std".to_owned());
    let error = compare_runs(&base, &new).unwrap_err();
    assert!(error.to_string().contains("mmu_lock"), "{error}");
    let profile = file(ResultKind::Profile, Vec::new());
    let error = check_host(&profile, &new.context).unwrap_err();
    assert!(matches!(error, NotComparable::Kind { .. }));
    assert!(compare_runs(&new, &profile).is_err());
}

#[test]
fn runs_without_a_common_cell_are_refused() {
    let base = file(ResultKind::Bench, vec![cell("a", 1.0)]);
    let new = file(ResultKind::Bench, vec![cell("b", 1.0)]);
    let error = compare_runs(&base, &new).unwrap_err();
    assert!(error.to_string().contains("nothing in common"), "{error}");
}
