//! Numbers that cannot be: JSON allows a time of -1 s and a share of 7, a
//! result does not.
//!
//! One pass over a line that is known to be valid JSON. The name of the field a
//! number stands under says what it may be, as it says its unit; so fields that
//! are added later are checked without being listed here.

use super::place::string_end;

/// A number that cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Impossible {
    /// The field it stands under.
    pub(super) field: String,
    /// What is wrong with it.
    pub(super) detail: String,
}

/// The largest magnitude of any number: 2^53, to which floating point tells integers apart.
/// Nothing that is counted comes near, so sums of a few do not overflow.
const LARGEST: f64 = 9_007_199_254_740_992.0;
/// Digits of numbers that cannot be larger.
const SHORT: usize = 15;

/// Units by the end of a field's name, and the largest value that makes sense.
const UNITS: [(&str, f64); 8] = [
    ("_share", 1.0 + 1e-9),
    ("_ns", LARGEST),
    ("_ms", 1e13),
    ("_s", 1e10),
    ("_hz", 1e12),
    ("_bytes", LARGEST),
    ("_pages", LARGEST),
    ("records", LARGEST),
];

/// The first impossible number of a line of valid JSON.
pub(super) fn first_impossible(line: &str) -> Option<Impossible> {
    let bytes = line.as_bytes();
    let mut field = "";
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = string_end(bytes, at);
                if bytes[end..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':') {
                    field = line.get(at + 1..end - 1).unwrap_or_default();
                    // serde would see another name than this pass.
                    if field.contains('\\') {
                        let detail = "a field's name has no escapes".to_owned();
                        let field = field.to_owned();
                        return Some(Impossible { field, detail });
                    }
                }
                at = end;
            }
            b'-' | b'0'..=b'9' => {
                let end = number_end(bytes, at);
                let text = line.get(at..end).unwrap_or_default();
                if let Some(detail) = complaint(field, text) {
                    let field = field.to_owned();
                    return Some(Impossible { field, detail });
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

fn number_end(bytes: &[u8], start: usize) -> usize {
    let is_part = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
    let len = bytes[start..].iter().take_while(|b| is_part(b)).count();
    start + len
}

fn complaint(field: &str, text: &str) -> Option<String> {
    // Short and without sign or exponent: nothing can be wrong without a unit.
    let unit = UNITS.iter().find(|(suffix, _)| field.ends_with(suffix));
    if unit.is_none() && text.len() <= SHORT && !text.contains(['e', 'E']) {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    if !value.is_finite() || value.abs() > LARGEST {
        return Some(format!("{text} is more than anything that is measured"));
    }
    let (suffix, most) = unit?;
    if value < 0.0 {
        return Some(format!("{text} is negative, which no {} is", noun(suffix)));
    }
    (value > *most).then(|| format!("{text} is more than a {} can be", noun(suffix)))
}

fn noun(suffix: &str) -> &'static str {
    match suffix {
        "_share" => "share",
        "_hz" => "rate",
        "_bytes" | "_pages" => "size",
        "records" => "count",
        _ => "time",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(line: &str) -> Option<String> {
        first_impossible(line).map(|i| i.field)
    }

    #[test]
    fn a_number_is_judged_by_the_unit_in_its_fields_name() {
        assert_eq!(
            field(r#"{"duration_s":-1.5}"#).as_deref(),
            Some("duration_s")
        );
        assert_eq!(
            field(r#"{"a":1,"young_share":1.5}"#).as_deref(),
            Some("young_share")
        );
        assert_eq!(
            field(r#"{"rounds_ns" : [1, -2]}"#).as_deref(),
            Some("rounds_ns")
        );
        assert_eq!(field(r#"{"x":1e300}"#).as_deref(), Some("x"));
        assert_eq!(field(r#"{"x":9007199254740994}"#).as_deref(), Some("x"));
        assert_eq!(field(r#"{"x":9007199254740992}"#), None);
        assert_eq!(
            field(r#"{"reached_hz":1e13}"#).as_deref(),
            Some("reached_hz")
        );
        assert_eq!(
            field(r#"{"change":-0.2,"ns":[1e3],"young_share":1.0}"#),
            None
        );
    }

    #[test]
    fn an_escape_does_not_hide_the_unit_of_a_field() {
        let found = first_impossible(r#"{"duration_\u0073":-1}"#).unwrap();
        assert_eq!(found.field, "duration_\\u0073");
        assert_eq!(found.detail, "a field's name has no escapes");
    }

    #[test]
    fn what_stands_in_strings_is_no_number() {
        assert_eq!(field(r#"{"reason_s":"-5 is \"-7\" \\","b":2}"#), None);
        assert_eq!(field(r#"{"\"_s":-1}"#).as_deref(), Some("\\\"_s"));
    }
}
