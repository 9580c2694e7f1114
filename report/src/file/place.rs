//! Where in a line of JSON something stands: the field, by the column a parser stopped at.

/// An object or array that is open.
enum Open<'a> {
    Object {
        /// The field whose value is read.
        field: &'a str,
    },
    Array {
        /// Elements before the one that is read.
        index: usize,
    },
}

/// The field that a parser was in when it had read the line up to `column` (from 1), such
/// as `samples.value.rmap` or `rounds[3]`; `None` outside of any.
///
/// A value that was read whole is the field it stands under. The line is JSON up to there.
pub(super) fn field_at(line: &str, column: usize) -> Option<String> {
    let read = line.get(..column).unwrap_or(line);
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut at = 0;
    while let Some(byte) = read.as_bytes().get(at) {
        let mut end = at + 1;
        match (byte, open.last_mut()) {
            (b'"', last) => {
                end = string_end(read.as_bytes(), at);
                let is_name = line[end..].trim_start().starts_with(':');
                if let (Some(Open::Object { field }), true) = (last, is_name) {
                    *field = read.get(at + 1..end - 1).unwrap_or_default();
                }
            }
            (b'{', _) => open.push(Open::Object { field: "" }),
            (b'[', _) => open.push(Open::Array { index: 0 }),
            (b'}' | b']', _) => drop(open.pop()),
            (b',', Some(Open::Array { index })) => *index += 1,
            _ => {}
        }
        at = end;
    }
    let mut path = String::new();
    for part in &open {
        match part {
            Open::Object { field: "" } => {}
            Open::Object { field } if path.is_empty() => path.push_str(field),
            Open::Object { field } => path.extend([".", field]),
            Open::Array { index } => path.push_str(&format!("[{index}]")),
        }
    }
    (!path.is_empty()).then_some(path)
}

/// The byte after a string's closing quote.
pub(super) fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"a":{"value":1,"b":[2,{"c":"}\"],"}]},"d":-5}"#;

    fn at(what: &str) -> Option<String> {
        field_at(LINE, LINE.find(what).unwrap() + what.len())
    }

    #[test]
    fn the_field_is_the_one_whose_value_was_read_last() {
        assert_eq!(at("1").as_deref(), Some("a.value"));
        assert_eq!(at("[2").as_deref(), Some("a.b[0]"));
        assert_eq!(at(r#"],""#).as_deref(), Some("a.b[1].c"));
        assert_eq!(at("}]").as_deref(), Some("a.b"));
        assert_eq!(at("}]}").as_deref(), Some("a"));
        assert_eq!(at("-5").as_deref(), Some("d"));
    }

    #[test]
    fn outside_of_any_field_there_is_none() {
        assert_eq!(field_at(LINE, 1), None);
        assert_eq!(field_at(LINE, LINE.len()), None);
        assert_eq!(field_at("[1,2]", 5), None);
        assert_eq!(field_at("", 3), None);
    }

    #[test]
    fn a_line_that_ends_anywhere_is_no_panic() {
        for end in 0..LINE.len() {
            for column in 0..=LINE.len() {
                drop(field_at(&LINE[..end], column));
            }
        }
        assert_eq!(field_at(r#"{"é":"é"}"#, 9), Some("é".to_owned()));
    }
}
