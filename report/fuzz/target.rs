//! What the fuzzer and a short deterministic test both do with bytes.

use std::path::Path;

use report::{
    ResultFile, benchstat, compare, embed, letter,
    merge::{Merger, Runs},
    replay,
    schema::ResultKind,
    summary,
    table::Format,
};

/// Reads the bytes as a file; and, so that more than the first line is
/// reached, as records between a context and an end that fit.
pub(crate) fn feed(data: &[u8]) {
    use_it(data);
    refresh(data);
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let kind = if kind % 2 == 0 { "bench" } else { "profile" };
    let mut whole = CONTEXT.replace("KIND", kind).into_bytes();
    whole.extend_from_slice(data);
    if whole.last() != Some(&b'\n') {
        whole.push(b'\n');
    }
    let records = whole.iter().filter(|b| **b == b'\n').count() + 1;
    whole.extend_from_slice(END.replace("RECORDS", &records.to_string()).as_bytes());
    use_it(&whole);
}

/// Reads the bytes as a document with blocks; no result file is beside it.
fn refresh(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for text in [text.to_string(), format!("<!-- rmapscope {text}")] {
        if let Ok(fresh) = embed::refresh(&text, Path::new("/nonexistent")) {
            assert_eq!(
                embed::written_by_hand(&text),
                embed::written_by_hand(&fresh)
            );
        }
    }
}

fn use_it(data: &[u8]) {
    let file = match ResultFile::read_from(data, Path::new("fuzzed.jsonl")) {
        Ok(file) => file,
        Err(error) => {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            return;
        }
    };
    let sums = ResultFile::read_sums_from(data, &file.path).expect("it was read whole");
    assert_eq!(
        sums.records.len() as u64 + sums.events_left,
        file.records.len() as u64
    );
    for table in summary::tables(&file) {
        letter::within(&table);
    }
    assert!(letter::letter(&file).lines().all(|l| !l.contains('\x1b')));
    benchstat::lines(&file);
    compare::real_costs(&file);
    compared(&file);
    let _ = replay::Recording::of(&file);
    #[cfg(feature = "page")]
    page(&file);
    let (again, path) = (file.clone(), file.path.clone());
    let Ok(mut merger) = Merger::new(file, Runs::AddedUp) else {
        return;
    };
    // One file twice would be refused by its path.
    let another = ResultFile {
        path: path.with_extension("again"),
        ..again
    };
    let _ = merger.add(another);
    merger.finish();
}

/// The file beside itself, and beside a small one of the other kind.
fn compared(file: &ResultFile) {
    let mut tables = Vec::new();
    if let Ok(compared) = compare::compare_profiles(file, file) {
        tables.extend(compared.tables());
    }
    if let Ok(compared) = compare::compare_runs(file, file) {
        tables.extend(compared.tables());
        let _ = compared.verdict(1.0);
    }
    let other = other(file.context.kind);
    let (bench, profile) = match file.context.kind {
        ResultKind::Bench => (file, &other),
        _ => (&other, file),
    };
    if let Ok(compared) = compare::compare(bench, profile, None) {
        tables.extend(compared.tables());
    }
    for table in tables {
        let text = table.render(Format::Text);
        assert!(!text.contains('\x1b'), "{text}");
    }
}

/// What a file of this kind is compared with.
fn other(kind: ResultKind) -> ResultFile {
    let (kind, line) = match kind {
        ResultKind::Bench => ("profile", CALLBACKS),
        _ => ("bench", CELL),
    };
    let end = END.replace("RECORDS", "4");
    let text = [&CONTEXT.replace("KIND", kind), line, line, &end].concat();
    ResultFile::read_from(text.as_bytes(), Path::new("other.jsonl")).expect("a whole file")
}

#[cfg(feature = "page")]
fn page(file: &ResultFile) {
    let files = [file.clone(), other(file.context.kind)];
    if let Ok(page) = report::page::render(&files) {
        assert!(!page.contains('\x1b'), "an escape on the page");
    }
}

const CONTEXT: &str = concat!(
    r#"{"record":"context","schema":{"name":"rmapscope","major":1,"minor":0},"kind":"KIND","#,
    r#""created_utc":"2026-01-01T00:00:00Z","tool":{"version":"0","git_revision":{"value":"0"},"#,
    r#""rustc":"rustc","optimised":true},"command":["c"],"host":{"label":"h","kernel_release":"6.18","#,
    r#""kernel_version":"1","cpu_model":{"value":"c"},"cpus_online":2,"threads_per_core":{"value":1},"#,
    r#""sockets":{"value":1},"numa_nodes":{"value":1},"llc_bytes":{"value":1},"memory_bytes":{"value":1},"#,
    r#""governor":{"value":"g"},"smt":{"value":"s"},"mitigations":{"value":{}},"clocksource":{"value":"tsc"},"#,
    r#""thp":{"value":"t"},"swap_bytes":{"value":0},"mglru":{"value":"0"},"kdamonds":{"value":0},"#,
    r#""hypervisor":{"value":"none"},"pmu":{"value":"p"},"lockdown":{"value":"none"},"#,
    r#""kvm":{"backend":{"value":"kvm_intel"},"built_in":{"value":false},"parameters":{},"#,
    r#""lockless_aging":{"value":true}},"unusual":[]}}"#,
    "\n"
);

const CELL: &str = concat!(
    r#"{"record":"bench","workload":"walk","scheme":"bitlock","op":"age","metric":"ns_per_callback","#,
    r#""params":{"chain_len":1,"range_pages":1,"level":1,"young_share":1.0,"cache":"hot"},"#,
    r#""rounds":[6.0,7.0],"summary":{"value":{"n":2,"median":6.5,"min":6.0,"max":7.0}}}"#,
    "\n"
);

const CALLBACKS: &str = concat!(
    r#"{"record":"callbacks","run":0,"kind":"clear_young","caller":"memcg","chain_len":{"exact":1},"#,
    r#""several_pages":false,"callbacks":1000,"pages":1000,"locked":{"value":0},"young":{"value":1},"#,
    r#""samples":{"value":{"rmap":300,"age_gfn":0,"notifier":300,"own":0,"period_ns":250000}},"#,
    r#""latency":{"value":null,"reason":"r"},"wait":{"value":null,"reason":"r"}}"#,
    "\n"
);

const END: &str = concat!(
    r#"{"record":"end","records":RECORDS,"outcome":"complete","elapsed_s":1.0,"#,
    r#""disturbance":{"steal_ms":{"value":0},"involuntary_switches":{"value":0},"migrations":{"value":0}}}"#,
    "\n"
);
