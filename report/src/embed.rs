//! Tables kept up to date inside markdown files.
//!
//! A block that begins with
//! `<!-- rmapscope compare bench=FILE profile=FILE [schemes=NAME,…] -->` or
//! `<!-- rmapscope tables result=FILE [only=WORD…] [as=markdown] -->` or
//! `<!-- rmapscope relative result=FILE to=SCHEME [schemes=NAME,…] [only=WORD…] -->` or
//! `<!-- rmapscope goals result=FILE -->` or
//! `<!-- rmapscope schema -->` (the fields of every record) and ends with
//! `<!-- /rmapscope -->` holds what these tables render to; file names are
//! relative to the workspace. [`refresh`] renders every block of a text anew.

use std::path::Path;

use crate::{
    ReadError, ResultFile, compare, letter,
    schema::{self, Record},
    summary,
    table::{Format, Table},
};

const BEGIN: &str = "<!-- rmapscope ";
const END: &str = "<!-- /rmapscope -->";

/// Why a text could not be refreshed.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// A block has no end.
    #[error("line {0}: the block has no {END}")]
    Unclosed(usize),
    /// A block's first line is not understood.
    #[error("line {line}: {detail}")]
    Directive {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// A result file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Two result files cannot be compared.
    #[error(transparent)]
    Compare(#[from] compare::CompareError),
    /// A scheme is asked for that they do not have.
    #[error(transparent)]
    Scheme(#[from] compare::NoScheme),
}

/// Renders every block of `text` anew from the results below `workspace`; the
/// lines around the blocks, and the blocks' own two, are kept byte by byte.
///
/// # Errors
/// [`EmbedError`] naming the line of the block, or the result file.
pub fn refresh(text: &str, workspace: &Path) -> Result<String, EmbedError> {
    let mut out = String::with_capacity(text.len());
    let mut lines = text.split_inclusive('\n').enumerate();
    while let Some((index, line)) = lines.next() {
        out.push_str(line);
        let Some(directive) = directive(line) else {
            continue;
        };
        out.push_str(&render(directive, index + 1, workspace)?);
        let end = lines.by_ref().find(|(_, line)| ends_block(line));
        let (_, end) = end.ok_or(EmbedError::Unclosed(index + 1))?;
        out.push_str(end);
    }
    Ok(out)
}

/// `text` without its blocks: what a person wrote. [`refresh`] changes none of it.
pub fn written_by_hand(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        inside |= directive(line).is_some();
        if !inside {
            out.push_str(line);
        }
        inside &= !ends_block(line);
    }
    out
}

/// What the line that begins a block asks for.
fn directive(line: &str) -> Option<&str> {
    let rest = line.strip_prefix(BEGIN)?;
    Some(rest.trim_end().trim_end_matches("-->").trim())
}

fn ends_block(line: &str) -> bool {
    line.trim() == END
}

struct Directive<'a> {
    line: usize,
    words: Vec<(&'a str, &'a str)>,
    workspace: &'a Path,
}

impl Directive<'_> {
    fn file(&self, name: &str) -> Result<ResultFile, EmbedError> {
        let found = self.words.iter().find(|(key, _)| *key == name);
        let Some((_, path)) = found else {
            return Err(EmbedError::Directive {
                line: self.line,
                detail: format!("the block names no {name}=FILE"),
            });
        };
        Ok(ResultFile::read(&self.workspace.join(path))?)
    }

    /// The comma-separated words of `key=`.
    fn list(&self, key: &str) -> Vec<String> {
        let of_key = self.words.iter().filter(|(k, _)| *k == key);
        of_key
            .flat_map(|(_, words)| words.split(','))
            .map(str::to_owned)
            .collect()
    }

    fn wanted(&self, title: &str) -> bool {
        let mut only = self
            .words
            .iter()
            .filter(|(key, _)| *key == "only")
            .peekable();
        let title = title.replace(' ', "_");
        only.peek().is_none() || only.any(|(_, word)| title.contains(word))
    }
}

fn render(directive: &str, line: usize, workspace: &Path) -> Result<String, EmbedError> {
    let mut words = directive.split_whitespace();
    let what = words.next().unwrap_or_default();
    let words = words.filter_map(|w| w.split_once('=')).collect();
    let directive = Directive {
        line,
        words,
        workspace,
    };
    if what == "schema" {
        return Ok(fields());
    }
    let (tables, context) = match what {
        "compare" => {
            let (bench, profile) = (directive.file("bench")?, directive.file("profile")?);
            let mut comparison = compare::compare(&bench, &profile, None)?;
            comparison.keep_schemes(&directive.list("schemes"))?;
            let tables = comparison.tables_where(|title| directive.wanted(title));
            (tables, Vec::new())
        }
        "tables" => {
            let file = directive.file("result")?;
            (summary::tables(&file), summary::heading(&file))
        }
        "relative" => {
            let base = directive.list("to").join(",");
            let refused = |detail| EmbedError::Directive { line, detail };
            let mut file =
                summary::relative_to(directive.file("result")?, &base).map_err(refused)?;
            let schemes = directive.list("schemes");
            file.records.retain(|record| match record {
                Record::Bench(cell) => schemes.is_empty() || schemes.contains(&cell.scheme),
                _ => true,
            });
            (summary::tables(&file), summary::heading(&file))
        }
        "goals" => {
            let file = directive.file("result")?;
            let heading = summary::heading(&file);
            (vec![summary::goals(&file)], heading)
        }
        other => {
            let detail = format!("{other:?} is none of compare, tables, relative, goals, schema");
            return Err(EmbedError::Directive { line, detail });
        }
    };
    if directive.list("as") == ["markdown"] {
        return Ok(markdown(&tables, &context));
    }
    let mut out = String::from("```text\n");
    for heading in &context {
        out.push_str(heading);
        out.push('\n');
    }
    for table in tables.iter().filter(|t| directive.wanted(t.title())) {
        if !out.ends_with("```text\n") {
            out.push('\n');
        }
        out.push_str(&letter::within(table));
    }
    out.push_str("```\n");
    Ok(out)
}

/// Tables whose cells are sentences: text would be too wide.
fn markdown(tables: &[Table], heading: &[String]) -> String {
    let mut out = format!("\n```text\n{}\n```\n\n", heading.join("\n"));
    for table in tables {
        out.push_str(&table.render(Format::Markdown));
        out.push('\n');
    }
    out
}

/// The tables of fields, as markdown: they are wider than text can be.
fn fields() -> String {
    let mut out = String::new();
    for table in schema::field_tables() {
        out.push('\n');
        out.push_str(&table.render(Format::Markdown));
    }
    out.push('\n');
    out
}
