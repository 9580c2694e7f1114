//! `cargo xtask report`: tables from results, and the tables inside the
//! README and docs.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::report::{
    ResultFile, benchstat, embed, letter, page, summary,
    table::{Column, Format, Table},
};
use anyhow::{Context as _, Result, bail};

use crate::{Outcome, process, results};

/// The JSON Schema of result files, generated from the types.
const SCHEMA: &str = "report/schema.json";

/// Without files: writes the tables inside README.md, docs/ and results/ anew
/// from the results they name, and the schema from the types; --check only looks.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Result files to print or to draw
    files: Vec<PathBuf>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Style::Text, conflicts_with = "html")]
    format: Style,
    /// Print the figures of a bench result as multiples of this scheme's
    #[arg(long, value_name = "SCHEME", requires = "files", conflicts_with_all = ["html", "check"])]
    relative_to: Option<String>,
    /// Draw a page of them: without files, of the newest runs, and of the
    /// committed ones where there is no run
    #[arg(long)]
    html: bool,
    /// Where to write the page
    #[arg(
        long,
        value_name = "FILE",
        requires = "html",
        default_value = "results/runs/report.html"
    )]
    output: PathBuf,
    /// Change nothing; fail if a committed table is not what its results give
    #[arg(long, conflicts_with_all = ["files", "html"])]
    check: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// For mails and terminals: at most 75 columns
    Text,
    /// For markdown files
    Markdown,
    /// For spreadsheets
    Csv,
    /// For programs: context and tables
    Json,
    /// For benchstat: one line per round
    Benchstat,
}

/// Prints, draws, renders or checks.
pub(crate) fn run(options: &Options) -> Outcome {
    if options.html {
        draw(options)?;
    } else if options.files.is_empty() {
        refresh(options.check)?;
    }
    if !options.html {
        for path in &options.files {
            let file = ResultFile::read(path)?;
            let file = match &options.relative_to {
                Some(base) => summary::relative_to(file, base).map_err(anyhow::Error::msg)?,
                None => file,
            };
            print(&file, options.format)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the tables of a file that was just written, and where it is.
pub(crate) fn finished(path: &Path) -> Outcome {
    let file = ResultFile::read(path)?;
    print(&file, Style::Text)?;
    ::report::say!("result: {}", file.path.display());
    Ok(if file.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints a file.
pub(crate) fn print(file: &ResultFile, style: Style) -> Result<()> {
    match style {
        Style::Text => ::report::out!("{}", letter::letter(file))?,
        Style::Benchstat => ::report::out!("{}", benchstat::lines(file))?,
        Style::Json => {
            let tables: Vec<_> = summary::tables(file).iter().map(as_json).collect();
            let whole = serde_json::json!({ "context": file.context, "tables": tables });
            ::report::out!("{}", serde_json::to_string_pretty(&whole)?)?;
        }
        Style::Markdown | Style::Csv => {
            for line in summary::heading(file) {
                let comment = if style == Style::Csv { "# " } else { "" };
                ::report::out!("{comment}{line}")?;
            }
            for table in summary::tables(file) {
                ::report::out!("\n{}", rendered(&table, style))?;
            }
        }
    }
    Ok(())
}

/// A table in a style.
pub(crate) fn rendered(table: &Table, style: Style) -> String {
    match style {
        Style::Markdown => table.render(Format::Markdown),
        Style::Csv => format!("# {}\n{}", table.title(), table.render(Format::Csv)),
        Style::Text | Style::Json | Style::Benchstat => letter::within(table),
    }
}

fn as_json(table: &Table) -> serde_json::Value {
    let columns: Vec<&str> = table.columns().iter().map(Column::header).collect();
    serde_json::json!({
        "title": table.title(),
        "columns": columns,
        "rows": table.rows(),
        "notes": table.notes(),
    })
}

/// Writes the page under a temporary name and renames it.
fn draw(options: &Options) -> Result<()> {
    let paths = if options.files.is_empty() {
        newest()?
    } else {
        options.files.clone()
    };
    let files = paths
        .iter()
        .map(|p| ResultFile::read(p))
        .collect::<Result<Vec<_>, _>>()?;
    let page = page::render(&files)?;
    let output = if options.output.is_relative() && options.files.is_empty() {
        process::workspace().join(&options.output)
    } else {
        options.output.clone()
    };
    may_replace(&output)?;
    let folder = output
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if output.starts_with(process::workspace().join("results/runs")) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    } else if !folder.is_dir() {
        bail!(
            "--output {}: there is no folder {}; make it or name another",
            output.display(),
            folder.display()
        );
    }
    let failed = || {
        format!(
            "cannot write the page {}; name another file with --output",
            output.display()
        )
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".rmapscope-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(failed)?;
    temporary.write_all(page.as_bytes()).with_context(failed)?;
    temporary.persist(&output).with_context(failed)?;
    for path in &paths {
        ::report::say!("drawn from {}", path.display());
    }
    ::report::out!("{}", output.display())?;
    Ok(())
}

/// A page may be drawn anew; nothing else may be lost to one.
fn may_replace(output: &Path) -> Result<()> {
    use std::io::Read as _;
    let name = output.display();
    let mut file = match std::fs::File::open(output) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => {
            file.with_context(|| format!("cannot read {name}, which the page would replace"))?
        }
    };
    if file.metadata()?.is_dir() {
        bail!("--output {name}: this is a folder; name a file in it");
    }
    let mut begins = [0; page::BEGINS.len()];
    let is_page = file.read_exact(&mut begins).is_ok() && begins == *page::BEGINS.as_bytes();
    if !is_page {
        bail!(
            "--output {name}: this file is no page of rmapscope's and is left alone; name another"
        );
    }
    Ok(())
}

/// The newest run of each kind; where there is none, the committed files.
fn newest() -> Result<Vec<PathBuf>> {
    let results = process::workspace().join("results");
    let mut chosen = Vec::new();
    for kind in ["bench", "profile"] {
        let of_kind = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{kind}-"))
        };
        let folder = results.join("runs");
        let runs = if folder.is_dir() {
            results::below(&folder)?
        } else {
            Vec::new()
        };
        // Names of runs end with the time they were begun.
        let newest = runs.into_iter().rfind(of_kind);
        chosen.push(newest.unwrap_or_else(|| results.join(format!("reference/{kind}.jsonl"))));
    }
    let verdicts = results.join("reference/verdicts.jsonl");
    chosen.extend(Some(verdicts).filter(|p| p.exists()));
    Ok(chosen)
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
    fn a_page_replaces_nothing_but_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        assert!(may_replace(&path).is_ok());
        std::fs::write(&path, page::render(&[]).unwrap()).unwrap();
        assert!(may_replace(&path).is_ok());
        std::fs::write(&path, "# somebody's notes").unwrap();
        let refused = may_replace(&path).unwrap_err().to_string();
        assert!(refused.contains("left alone"), "{refused}");
        let refused = may_replace(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("is a folder"), "{refused}");
    }

    #[test]
    fn the_committed_tables_are_what_their_results_give() {
        refresh(true).unwrap();
    }
}
