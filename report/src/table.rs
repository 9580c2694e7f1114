//! One table model, several renderers.
//!
//! Text tables are laid out as in kernel cover letters: no frames, a title
//! line, the unit in the header, numbers right-aligned, notes below.

use std::borrow::Cow;

use comfy_table::{CellAlignment, ContentArrangement};

use crate::terminal::harmless;

/// A column's header, unit included, and how its cells are aligned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    header: String,
    right: bool,
}

impl Column {
    /// A column of names.
    pub fn text(header: impl Into<String>) -> Self {
        Self {
            header: harmless(&header.into()).into_owned(),
            right: false,
        }
    }

    /// A column of numbers; `header` ends with the unit.
    pub fn number(header: impl Into<String>) -> Self {
        Self {
            header: harmless(&header.into()).into_owned(),
            right: true,
        }
    }

    /// Its header.
    pub fn header(&self) -> &str {
        &self.header
    }

    /// Whether it holds numbers.
    pub fn is_number(&self) -> bool {
        self.right
    }
}

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For terminals and mails.
    Text,
    /// For READMEs.
    Markdown,
    /// For spreadsheets; no title, no notes.
    Csv,
}

/// A table, not yet rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    title: String,
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// An empty table.
    pub fn new(title: impl Into<String>, columns: Vec<Column>) -> Self {
        Self {
            title: harmless(&title.into()).into_owned(),
            columns,
            ..Self::default()
        }
    }

    /// The title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The table under another title.
    #[must_use]
    pub fn titled(mut self, title: &str) -> Self {
        self.title = harmless(title).into_owned();
        self
    }

    /// Adds a row; missing cells stay empty, surplus ones are dropped.
    pub fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.columns.len(), String::new());
        for cell in &mut cells {
            if let Cow::Owned(harmless) = harmless(cell) {
                *cell = harmless;
            }
        }
        self.rows.push(cells);
    }

    /// Adds a line below the table.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(harmless(&note.into()).into_owned());
    }

    /// What stands in a cell for a sentence that is said once, below the table: `[2]`.
    pub fn numbered(&mut self, sentence: &str) -> String {
        let said = |note: &String| {
            note.split_once("] ")
                .is_some_and(|(_, said)| said == sentence)
        };
        let known = self.notes.iter().position(said);
        let number = known.unwrap_or(self.notes.len()) + 1;
        if known.is_none() {
            self.note(format!("[{number}] {sentence}"));
        }
        format!("[{number}]")
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The lines below the table.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The rows' cells.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Renders the table.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => self.laid_out(false),
            Format::Markdown => self.laid_out(true),
            Format::Csv => self.csv(),
        }
    }

    fn laid_out(&self, markdown: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(if markdown {
            comfy_table::presets::ASCII_MARKDOWN
        } else {
            comfy_table::presets::NOTHING
        });
        table.set_content_arrangement(ContentArrangement::Disabled);
        let shown = |text: &str| {
            if markdown {
                escaped(text)
            } else {
                text.to_owned()
            }
        };
        table.set_header(self.columns.iter().map(|c| shown(&c.header)));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| shown(cell)));
        }
        for (column, style) in self.columns.iter().zip(table.column_iter_mut()) {
            let alignment = if column.right {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            };
            style.set_cell_alignment(alignment);
            if !markdown {
                style.set_padding((0, 2));
            }
        }
        let emphasis = if markdown { "**" } else { "" };
        let mut out = String::new();
        if !self.title.is_empty() {
            out.push_str(&format!("{emphasis}{}{emphasis}\n\n", shown(&self.title)));
        }
        for line in table.lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        let bullet = if markdown { "- " } else { "  " };
        for note in &self.notes {
            out.push_str(&wrap(&shown(note), bullet));
        }
        out
    }

    fn csv(&self) -> String {
        let mut out = String::new();
        let header: Vec<&str> = self.columns.iter().map(|c| c.header.as_str()).collect();
        push_csv(&mut out, &header);
        for row in &self.rows {
            push_csv(
                &mut out,
                &row.iter().map(String::as_str).collect::<Vec<_>>(),
            );
        }
        out
    }
}

/// Markdown that shows the text as it is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\`*_[]<>|".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Wraps a note at 75 columns, its first line behind `bullet`.
pub(crate) fn wrap(note: &str, bullet: &str) -> String {
    let mut out = String::new();
    let mut line = bullet.to_owned();
    let indent = " ".repeat(bullet.len());
    let mut empty = true;
    for word in note.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > 75 {
            out.push_str(&line);
            out.push('\n');
            line.clone_from(&indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out.push_str(&line);
    out.push('\n');
    out
}

fn push_csv(out: &mut String, cells: &[&str]) {
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        if cell.contains([',', '"', '\n']) {
            out.push_str(&format!("\"{}\"", cell.replace('"', "\"\"")));
        } else {
            out.push_str(cell);
        }
    }
    out.push('\n');
}

/// A number with three significant digits or all before the point, no exponent.
pub fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    match value.abs() {
        v if (10_000.0..1e15).contains(&v) => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", count(v.round() as u64))
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A median with half the width of its interval: `12.3 ±0.2`.
pub fn with_interval(value: f64, interval: Option<(f64, f64)>) -> String {
    match interval {
        Some((low, high)) => format!("{} ±{}", figure(value), figure((high - low) / 2.0)),
        None => figure(value),
    }
}

/// A change as a share of what it is a change of: `+3.1 %`, and a dash where that is nothing.
pub fn signed_percent(change: f64, of: f64) -> String {
    let percent = change * 100.0 / of;
    if !percent.is_finite() {
        return "-".to_owned();
    }
    format!("{percent:+.1} %")
}

/// A count with thousands separated: `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(
            "Costs",
            vec![Column::text("scheme"), Column::number("cost (ns)")],
        );
        table.row(vec!["bit, lock".into(), "6.02".into()]);
        table.row(vec!["rcu".into(), "112".into()]);
        table.note("medians");
        table
    }

    #[test]
    fn text_has_no_frame_and_right_aligned_numbers() {
        assert_eq!(
            sample().render(Format::Text),
            "Costs\n\nscheme     cost (ns)\nbit, lock       6.02\nrcu              112\n\n  medians\n"
        );
    }

    #[test]
    fn a_sentence_of_many_cells_is_said_once() {
        let mut table = sample();
        let cells = ["refused", "not there", "refused"].map(|why| table.numbered(why));
        assert_eq!(
            cells,
            ["[2]", "[3]", "[2]"],
            "behind the note that is there"
        );
        assert_eq!(table.notes()[1..], ["[2] refused", "[3] not there"]);
    }

    #[test]
    fn csv_quotes_what_would_split() {
        assert_eq!(
            sample().render(Format::Csv),
            "scheme,cost (ns)\n\"bit, lock\",6.02\nrcu,112\n"
        );
    }

    #[test]
    fn markdown_has_a_header_rule() {
        assert!(sample().render(Format::Markdown).contains("|--"));
    }

    #[test]
    fn names_from_elsewhere_cannot_escape_from_their_cell() {
        let mut table = Table::new("t", vec![Column::text("name")]);
        table.row(vec!["a\x1b[31m|<script>".into()]);
        table.note("`<b>`");
        let table = table.titled("a|b_*c*");
        let markdown = table.render(Format::Markdown);
        assert!(markdown.starts_with("**a\\|b\\_\\*c\\***\n"), "{markdown}");
        assert!(markdown.ends_with("- \\`\\<b\\>\\`\n"), "{markdown}");
        assert!(table.render(Format::Text).contains("a\\u{1b}[31m|<script>"));
        assert!(table.render(Format::Markdown).contains("\\|\\<script\\>"));
        assert!(!table.render(Format::Csv).contains('\x1b'));
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(
            [figure(0.5), figure(12.34), figure(1234.5)],
            ["0.50", "12.3", "1234"]
        );
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(with_interval(10.0, Some((9.0, 12.0))), "10.0 ±1.50");
    }

    #[test]
    fn a_change_from_nothing_has_no_share() {
        assert_eq!(signed_percent(1.0, 8.0), "+12.5 %");
        assert_eq!(signed_percent(5.0, 0.0), "-");
        assert_eq!(signed_percent(5.0, f64::MIN_POSITIVE), "-");
    }
}
