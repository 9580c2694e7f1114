//! `cargo xtask report`: tables from results, and the tables inside the
//! README and docs.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::report::{ResultFile, embed, summary, table::Format};
use anyhow::{Context as _, Result, bail};

use crate::{Outcome, process};

/// The JSON Schema of result files, generated from the types.
const SCHEMA: &str = "report/schema.json";

/// Without files: renders the tables inside README.md, docs/ and results/ anew
/// from the results they name, and the schema from the types.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Result files whose tables to print
    files: Vec<PathBuf>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Style::Text)]
    format: Style,
    /// Change nothing; fail if a committed table is not what its results give
    #[arg(long, conflicts_with = "files")]
    check: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Style {
    /// For terminals and mails
    Text,
    /// For markdown files
    Markdown,
    /// For spreadsheets
    Csv,
}

impl From<Style> for Format {
    fn from(style: Style) -> Self {
        match style {
            Style::Text => Self::Text,
            Style::Markdown => Self::Markdown,
            Style::Csv => Self::Csv,
        }
    }
}

/// Prints, renders or checks tables.
pub(crate) fn run(options: &Options) -> Outcome {
    if options.files.is_empty() {
        refresh(options.check)?;
        return Ok(ExitCode::SUCCESS);
    }
    for path in &options.files {
        print(&ResultFile::read(path)?, options.format.into())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a file's tables.
pub(crate) fn print(file: &ResultFile, format: Format) -> Result<()> {
    for line in summary::heading(&file.context) {
        ::report::out!("{line}")?;
    }
    for table in summary::tables(file) {
        ::report::out!("\n{}", table.render(format))?;
    }
    Ok(())
}

fn refresh(check: bool) -> Result<()> {
    let mut stale = Vec::new();
    let schema = process::workspace().join(SCHEMA);
    for path in documents()?.into_iter().chain([schema.clone()]) {
        let name = path
            .strip_prefix(process::workspace())
            .unwrap_or(&path)
            .display()
            .to_string();
        let (text, fresh) = if path == schema {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            (text, ::report::schema::json_schema())
        } else {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let fresh =
                embed::refresh(&text, process::workspace()).with_context(|| name.clone())?;
            (text, fresh)
        };
        if fresh == text {
            continue;
        }
        if check {
            stale.push(name);
        } else {
            std::fs::write(&path, fresh)?;
            println!("rendered {name} anew");
        }
    }
    if !stale.is_empty() {
        bail!(
            "{} is not what the results or the types give; run cargo xtask report",
            stale.join(", ")
        );
    }
    Ok(())
}

/// Every markdown file that may hold tables.
fn documents() -> Result<Vec<PathBuf>> {
    let mut paths = vec![process::workspace().join("README.md")];
    for folder in ["docs", "results"] {
        for entry in std::fs::read_dir(process::workspace().join(folder))? {
            let path = entry?.path();
            if path.extension() == Some(Path::new("md").as_os_str()) {
                paths.push(path);
            }
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A figure with a unit that a person typed would be one nobody can trace.
    fn figures_typed_by_hand(text: &str) -> Vec<String> {
        const UNITS: [&str; 10] = [
            "ns",
            "µs",
            "us",
            "ms",
            "%",
            "×",
            "x",
            "GiB",
            "MiB",
            "callbacks/s",
        ];
        let hand = embed::written_by_hand(text);
        let words: Vec<&str> = hand.split_whitespace().collect();
        let is_number = |w: &str| {
            let w = w.trim_matches(|c: char| "(),;:~≈±".contains(c));
            !w.is_empty() && w.chars().all(|c| c.is_ascii_digit() || ".,".contains(c))
        };
        let has_unit = |w: &str| {
            let w = w.trim_matches(|c: char| "(),;:.".contains(c));
            UNITS.contains(&w)
        };
        let glued = |w: &str| {
            let w = w.trim_matches(|c: char| "(),;:.`".contains(c));
            UNITS
                .iter()
                .any(|u| w.strip_suffix(u).is_some_and(is_number))
        };
        let apart = words
            .windows(2)
            .filter(|w| is_number(w[0]) && has_unit(w[1]));
        let mut found: Vec<String> = apart.map(|w| w.join(" ")).collect();
        found.extend(words.iter().filter(|w| glued(w)).map(|w| (*w).to_owned()));
        found
    }

    #[test]
    fn every_figure_of_the_readme_comes_from_a_result() {
        let readme = std::fs::read_to_string(process::workspace().join("README.md")).unwrap();
        assert_eq!(figures_typed_by_hand(&readme), Vec::<String>::new());
    }

    #[test]
    fn a_typed_figure_is_found() {
        assert_eq!(figures_typed_by_hand("costs 6.0 ns a gfn"), ["6.0 ns"]);
        assert_eq!(
            figures_typed_by_hand("is (15x) faster, 20%."),
            ["(15x)", "20%."]
        );
        assert!(figures_typed_by_hand("Linux 6.15 has 14 entries").is_empty());
    }

    #[test]
    fn the_committed_tables_are_what_their_results_give() {
        refresh(true).unwrap();
    }
}
