//! The schema as others see it: JSON Schema and tables of fields.

use std::path::Path;

use report::schema::{field_tables, json_schema};

#[test]
fn the_committed_json_schema_is_what_the_types_give() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == json_schema(),
        "report/schema.json is stale; run cargo xtask report"
    );
}

#[test]
fn every_field_has_a_meaning_and_every_record_a_table() {
    let tables = field_tables();
    for record in [
        "context",
        "bench",
        "callbacks",
        "census",
        "verdict",
        "boot",
        "witness",
        "end",
    ] {
        let prefix = format!("record {record}: ");
        assert!(
            tables.iter().any(|t| t.title().starts_with(&prefix)),
            "{record}"
        );
    }
    for table in &tables {
        for row in table.rows() {
            assert!(!row[1].contains("any"), "{}: {row:?}", table.title());
            assert!(!row[3].is_empty(), "{}: {row:?}", table.title());
        }
    }
}
