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

/// The same cell measured by something else.
fn of_metric(scheme: &str, metric: &str, factor: f64) -> BenchRecord {
    BenchRecord {
        metric: metric.to_owned(),
        ..cell(scheme, factor)
    }
}

#[test]
fn more_time_and_less_throughput_are_slower_and_nothing_else_is() {
    let costs = ["ns_per_op", "due_p99_ns", "s_per_pass", "vcpu_s"];
    let others = ["gfns_per_us", "fairness", "bytes_per_gfn"];
    let run = |factor| {
        let metrics = costs.iter().chain(&others);
        let cells = metrics.map(|metric| of_metric("a", metric, factor));
        file(ResultKind::Bench, cells.collect())
    };
    let compared = compare_runs(&run(1.0), &run(1.5)).unwrap();
    assert!(
        compared
            .changes
            .iter()
            .all(report::compare::Change::is_significant)
    );
    let slower: Vec<_> = compared.slower(5.0).map(|c| c.metric.as_str()).collect();
    assert_eq!(slower, costs);
    let halved = compare_runs(&run(2.0), &run(1.0)).unwrap();
    let slower: Vec<_> = halved.slower(5.0).map(|c| c.metric.as_str()).collect();
    assert_eq!(slower, ["gfns_per_us"]);
    let verdict = halved.verdict(5.0).unwrap();
    assert!(verdict.contains("the worst by 100.0 %"), "{verdict}");
}

#[test]
fn how_many_of_the_slower_cells_were_disturbed_is_said() {
    let run = |factor, spoiled: Option<&str>| {
        let mut cell = cell("a", factor);
        cell.spoiled = spoiled.map(str::to_owned);
        file(ResultKind::Bench, vec![cell])
    };
    let verdict = |new| {
        let compared = compare_runs(&run(1.0, None), &new).unwrap();
        compared.verdict(5.0).unwrap()
    };
    assert!(!verdict(run(2.0, None)).contains("disturbed"));
    assert!(verdict(run(2.0, Some("other work"))).contains("1 of them were disturbed"));
}

#[test]
fn a_large_difference_that_may_be_chance_is_not_slower() {
    // 10 % more, but the rounds lie in each other's spread.
    let spread = |factor: f64| {
        let mut cell = cell("a", 1.0);
        cell.rounds = vec![5.0 * factor, 20.0, 10.0 * factor, 10.0 * factor];
        cell.summary = Observed::Value(Summary::of(&cell.rounds).unwrap());
        file(ResultKind::Bench, vec![cell])
    };
    let compared = compare_runs(&spread(1.0), &spread(1.1)).unwrap();
    assert!(compared.changes[0].ratio > 1.09);
    assert!(compared.verdict(5.0).is_none());
}

#[test]
fn cells_with_other_parameters_are_not_compared() {
    let base = file(ResultKind::Bench, vec![cell("a", 1.0)]);
    let mut longer = cell("a", 2.0);
    longer.params.chain_len = Some(16);
    let new = file(ResultKind::Bench, vec![longer, cell("a", 1.0)]);
    let compared = compare_runs(&base, &new).unwrap();
    assert_eq!((compared.changes.len(), compared.only_one), (1, 1));
    assert_eq!(compared.changes[0].ratio, 1.0);
}

#[test]
fn the_tables_name_the_worst_the_spoiled_the_missing_and_the_mean() {
    let run = |cells| file(ResultKind::Bench, cells);
    let base = run(["a", "b", "c", "gone"].map(|s| cell(s, 1.0)).to_vec());
    let mut spoiled = cell("b", 1.44);
    spoiled.spoiled = Some("other work".to_owned());
    let new = run(vec![cell("c", 1.1), cell("a", 1.21), spoiled]);
    let compared = compare_runs(&base, &new).unwrap();
    let verdict = compared.verdict(5.0).unwrap();
    assert!(verdict.contains("44.0 % (walk b"), "{verdict}");
    assert!(verdict.ends_with("1 of them were disturbed while they were measured"));
    let text = compared.tables()[0].render(Format::Text);
    // The third root of 1.1 times 1.21 times 1.44.
    let told = ["b (spoiled)", "+24.2 %", "1 cells are in one run only"];
    assert!(told.iter().all(|words| text.contains(words)), "{text}");
    assert!(!text.contains("a (spoiled)"), "{text}");
}
