//! Result files: whole, damaged, foreign, hostile.

mod common;

use std::{fs, path::Path};

use report::{
    Observed, ReadError, ResultFile, ResultWriter, WriteError, host,
    schema::{
        Cache, CallbackKind, CensusRecord, Disturbance, Op, Outcome, Record, ResultKind,
        field_tables,
    },
};

fn sample(folder: &Path) -> String {
    let records = [
        common::cell("bitlock", Op::Age, 1, Cache::Hot, &[6.0; 6]),
        common::callbacks(CallbackKind::ClearYoung, 1, 1000, 3, 4),
    ];
    fs::read_to_string(common::written(
        folder,
        "sample.jsonl",
        ResultKind::Bench,
        &records,
    ))
    .unwrap()
}

fn read(text: &str) -> Result<ResultFile, ReadError> {
    ResultFile::read_from(text.as_bytes(), Path::new("r.jsonl"))
}

#[test]
fn a_file_comes_back_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = read(&sample(folder.path())).unwrap();
    assert_eq!(file.records.len(), 2);
    assert!(file.is_complete());
}

#[test]
fn a_file_that_is_written_has_no_name_before_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    let writer = ResultWriter::create(&path, host::context(ResultKind::Bench)).unwrap();
    // Who is killed here leaves nothing.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let end = Disturbance::unwatched("a test");
    writer.finish(Outcome::Complete, None, end).unwrap();
    assert!(ResultFile::read(&path).unwrap().is_complete());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_census_comes_back_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let census = Record::Census(CensusRecord {
        run: 0,
        vm: 1,
        level: 1,
        heads: 2048,
        lengths: [(0, 48), (16, 2000)].into(),
        longer: 0,
        sptes: 32000,
        descriptor_bytes: Some(2000 * 256),
        accessed: Observed::missing("not asked"),
        read_again: 0,
        locked_again: 0,
        locked: 0,
        corrupt: 0,
        faults: 0,
        discarded_chunks: 0,
        elapsed_ms: 1.5,
        longest_chunk_ms: Some(0.25),
    });
    let records = [census.clone()];
    let file = common::file(folder.path(), "census.jsonl", ResultKind::Profile, &records);
    assert_eq!(file.records, [census]);
    let text = fs::read_to_string(&file.path).unwrap();
    let error = read(&text.replacen("[0,48]", "[16,48]", 1)).unwrap_err();
    assert!(error.to_string().contains("listed twice"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    for cut in 0..text.len() {
        let error = read(&text[..cut]).expect_err("a cut file was read");
        assert!(
            matches!(
                error,
                ReadError::Truncated { .. } | ReadError::NotAResult { .. }
            ),
            "cut at {cut}: {error}"
        );
    }
}

#[test]
fn a_removed_line_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    let without: Vec<&str> = text
        .lines()
        .enumerate()
        .filter(|(i, _)| *i != 1)
        .map(|(_, l)| l)
        .collect();
    let error = read(&(without.join("\n") + "\n")).unwrap_err();
    assert!(
        error.to_string().contains("counts 4 records, there are 3"),
        "{error}"
    );
}

#[test]
fn foreign_files_are_named_as_such() {
    for text in [
        "",
        "hello\n",
        "{\"a\":1}\n",
        "[]\n",
        "{\"record\":\"end\"}\n",
        "\u{0}\n",
    ] {
        let error = read(text).unwrap_err();
        assert!(
            matches!(error, ReadError::NotAResult { .. }),
            "{text:?}: {error}"
        );
    }
    let bytes: &[u8] = &[0xff, 0xfe, b'\n'];
    let error = ResultFile::read_from(bytes, Path::new("r")).unwrap_err();
    assert!(matches!(error, ReadError::NotAResult { .. }));
}

#[test]
fn another_major_version_is_refused_and_another_minor_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    let error = read(&text.replacen("\"major\":1", "\"major\":2", 1)).unwrap_err();
    assert!(error.to_string().contains("schema version 2"), "{error}");
    assert!(read(&text.replacen("\"minor\":", "\"minor\":7", 1)).is_ok());
}

#[test]
fn a_damaged_line_is_named_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    let error = read(&text.replacen("\"callbacks\":1000", "\"callbacks\":-1", 1)).unwrap_err();
    assert!(error.to_string().starts_with("r.jsonl:3:"), "{error}");
    let error = read(&text.replacen("\"rmap\":3", "\"rmap\":NaN", 1)).unwrap_err();
    assert!(error.to_string().starts_with("r.jsonl:3:"), "{error}");
}

#[test]
fn a_damaged_field_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    for (good, bad, named) in [
        (
            "\"rmap\":3",
            "\"rmap\":-3",
            "r.jsonl:3: field samples.value.rmap:",
        ),
        (
            "\"rmap\":3",
            "\"rmap\":null",
            "r.jsonl:3: field samples.value.rmap:",
        ),
        (
            "\"young_share\":1.0",
            "\"young_share\":7",
            "r.jsonl:2: field young_share: 7 is more",
        ),
        (
            "[6.0,6.0",
            "[6.0,-6.0",
            "r.jsonl:2: field rounds: -6 ns_per_callback is negative",
        ),
        (
            "[6.0,6.0",
            "[6.0,6e200",
            "r.jsonl:2: field rounds: 6e200 is more than",
        ),
        ("[6.0,6.0", "[6.0", "r.jsonl:2: field summary.n:"),
        (
            "\"median\":6.0",
            "\"median\":6.1",
            "r.jsonl:2: field summary.median: 6.1 is not that of the rounds, 6",
        ),
        (
            "\"ci95_low\":6.0",
            "\"ci95_low\":5.0",
            "r.jsonl:2: field summary.ci95_low:",
        ),
        (
            "\"callbacks\":1000",
            "\"callbacks\":9007199254740993000",
            "r.jsonl:3: field callbacks: 9007199254740993000 is more than",
        ),
        (
            "\"elapsed_s\":",
            "\"elapsed_s\":-",
            "r.jsonl:4: field elapsed_s:",
        ),
        (
            "\"cpus_online\":",
            "\"cpus_online\":-",
            "r.jsonl:1: field host.cpus_online:",
        ),
    ] {
        let damaged = text.replacen(good, bad, 1);
        assert_ne!(damaged, text, "{good}");
        let error = read(&damaged).unwrap_err().to_string();
        assert!(error.starts_with(named), "{bad}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn records_of_a_later_minor_version_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    let later = text
        .replacen("\"record\":\"callbacks\"", "\"record\":\"telepathy\"", 1)
        .replacen("\"minor\":", "\"minor\":9", 1);
    assert_eq!(read(&later).unwrap().records.len(), 1);
    let damaged = text.replacen("\"record\":\"callbacks\"", "\"record\":\"telepathy\"", 1);
    let error = read(&damaged).unwrap_err().to_string();
    assert!(
        error.starts_with("r.jsonl:3: unknown kind of record \"telepathy\""),
        "{error}"
    );
}

#[test]
fn a_file_of_a_gigabyte_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.jsonl");
    fs::write(&path, sample(folder.path())).unwrap();
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    let error = ResultFile::read(&path).unwrap_err();
    assert!(matches!(error, ReadError::Large { .. }), "{error}");
    assert!(error.to_string().contains("larger than 512 MiB"), "{error}");
}

#[test]
fn every_record_of_the_schema_is_known_to_the_reader() {
    let folder = tempfile::tempdir().unwrap();
    let text = sample(folder.path());
    let context = text.lines().next().unwrap();
    let tables = field_tables();
    let named = |title: &str| Some(title.strip_prefix("record ")?.split_once(':')?.0.to_owned());
    let names: Vec<String> = tables.iter().filter_map(|t| named(t.title())).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let error = read(&format!("{context}\n{{\"record\":\"{name}\"}}\n"));
        let error = error.unwrap_err().to_string();
        assert!(!error.contains("unknown kind of record"), "{error}");
    }
}

#[test]
fn results_are_never_overwritten_and_nothing_is_left_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b.jsonl");
    let writer = ResultWriter::create(&path, host::context(ResultKind::Bench)).unwrap();
    drop(writer);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "something was left"
    );

    let racing = ResultWriter::create(&path, host::context(ResultKind::Bench)).unwrap();
    fs::write(&path, "mine").unwrap();
    let ended = racing.finish(Outcome::Complete, None, Disturbance::unwatched("a test"));
    let beside = folder.path().join("a/b-2.jsonl");
    assert_eq!(ended.unwrap(), beside, "what was measured is kept");
    assert!(ResultFile::read(&beside).unwrap().is_complete());
    let begun = ResultWriter::create(&path, host::context(ResultKind::Bench));
    assert!(matches!(begun, Err(WriteError::Exists(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 2);
}

#[test]
fn a_target_without_a_file_name_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["new/", "new/..", "/"] {
        let path = folder.path().join(name);
        let begun = ResultWriter::create(&path, host::context(ResultKind::Bench));
        assert!(matches!(begun, Err(WriteError::NoFile(_))), "{name}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file/r.jsonl");
    let error = ResultWriter::create(&path, host::context(ResultKind::Bench)).unwrap_err();
    assert!(error.to_string().contains("--output"), "{error}");
}
