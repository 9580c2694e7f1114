//! The schema described to others: as JSON Schema, and as tables of fields.
//!
//! Both are generated from the types, so neither can say anything else than
//! what is read and written.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{Record, SchemaVersion};
use crate::table::{Column, Table};

/// The JSON Schema of one line of a result file, with a newline at its end.
pub fn json_schema() -> String {
    let mut schema = root();
    schema.insert(
        "title".to_owned(),
        format!(
            "One line of an {} result file, version {}.{}",
            SchemaVersion::NAME,
            SchemaVersion::MAJOR,
            SchemaVersion::MINOR
        )
        .into(),
    );
    // A map of strings and values always becomes JSON.
    let mut text = serde_json::to_string_pretty(&Value::Object(schema)).unwrap_or_default();
    text.push('\n');
    text
}

fn root() -> Map<String, Value> {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let schema = generator.into_root_schema_for::<Record>();
    match schema.to_value() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// One table per record and per type used in records: field, type, unit,
/// meaning.
pub fn field_tables() -> Vec<Table> {
    let root = root();
    let no_types = Map::new();
    let types = root
        .get("$defs")
        .and_then(Value::as_object)
        .unwrap_or(&no_types);
    let mut tables = Vec::new();
    for variant in root
        .get("oneOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let name = variant["properties"]["record"]["const"]
            .as_str()
            .unwrap_or("?");
        let title = format!("record {name}: {}", first_sentence(variant));
        let target = variant["$ref"]
            .as_str()
            .and_then(|r| types.get(type_name(r)));
        tables.extend(table(&title, target.unwrap_or(variant)));
    }
    for (name, schema) in types {
        let is_record = tables
            .iter()
            .any(|t: &Table| t.title().ends_with(&format!(" {name}")));
        if name.starts_with("Observed_") || is_record {
            continue;
        }
        tables.extend(table(
            &format!("{name}: {}", first_sentence(schema)),
            schema,
        ));
    }
    tables
}

fn table(title: &str, schema: &Value) -> Option<Table> {
    let mut table = Table::new(
        title.trim_end_matches([':', ' ', '.']),
        ["field", "type", "unit", "meaning"]
            .map(Column::text)
            .to_vec(),
    );
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        if name == "record" {
            continue;
        }
        let kind = shown_type(field);
        let optional = if required.contains(&name.as_str()) {
            ""
        } else {
            ", may be absent"
        };
        let meaning = field["description"].as_str().unwrap_or_default();
        table.row(vec![
            name.clone(),
            format!("{kind}{optional}"),
            unit(name, &kind, meaning).to_owned(),
            one_line(meaning),
        ]);
    }
    for value in schema["oneOf"].as_array().into_iter().flatten() {
        if let Some(name) = value["const"].as_str() {
            let meaning = value["description"].as_str().unwrap_or_default();
            table.row(vec![
                name.to_owned(),
                "value".to_owned(),
                "-".to_owned(),
                one_line(meaning),
            ]);
        }
    }
    (!table.is_empty()).then_some(table)
}

fn type_name(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

/// A type as people say it; what may be null with a reason is `observed`.
fn shown_type(field: &Value) -> String {
    if let Some(reference) = field["$ref"].as_str() {
        let name = type_name(reference);
        return match name.strip_prefix("Observed_") {
            Some(inner) => format!("observed {inner}"),
            None => name.to_owned(),
        };
    }
    if let Some(either) = field["anyOf"].as_array() {
        let shown: Vec<String> = either
            .iter()
            .map(shown_type)
            .filter(|t| t != "null")
            .collect();
        return shown.join(" or ");
    }
    let own = match &field["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .filter(|n| *n != "null")
            .collect::<Vec<_>>()
            .join(" or "),
        _ => "any".to_owned(),
    };
    match own.as_str() {
        "array" if field.get("prefixItems").is_some() => "pair".to_owned(),
        "array" => format!("list of {}", shown_type(&field["items"])),
        "object" => format!("map to {}", shown_type(&field["additionalProperties"])),
        _ => own,
    }
}

/// The unit, from the field's name, which always ends with it; a number
/// without one is a count or a ratio.
fn unit(name: &str, kind: &str, meaning: &str) -> &'static str {
    const SUFFIXES: [(&str, &str); 11] = [
        ("per_s", "1/s"),
        ("_ns", "ns"),
        ("_ms", "ms"),
        ("_s", "s"),
        ("_hz", "Hz"),
        ("_bytes", "bytes"),
        ("_pages", "pages"),
        ("_utc", "UTC time"),
        ("_share", "0 to 1"),
        ("rounds", "see metric"),
        ("_base64", "-"),
    ];
    if let Some((_, unit)) = SUFFIXES.iter().find(|(suffix, _)| name.ends_with(suffix)) {
        return unit;
    }
    const NUMBERS_OF: [&str; 8] = ["run", "vm", "pid", "cpu", "cpus", "level", "major", "minor"];
    let number = ["integer", "number", "uint", "double", "float"];
    if NUMBERS_OF.contains(&name) || !number.iter().any(|n| kind.contains(n)) {
        return "-";
    }
    if meaning.contains("0 to 1") {
        return "0 to 1";
    }
    "count"
}

fn first_sentence(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    let end = text
        .find(". ")
        .or_else(|| text.find("\n\n"))
        .unwrap_or(text.len());
    one_line(&text[..end])
}

fn one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .trim_end_matches('.')
        .to_owned()
}
