//! The page of `report --html`: one file to look at, with nothing loaded from
//! elsewhere.
//!
//! Invariant: whatever comes from a result file reaches the page through
//! `html::escaped` or as the text of an SVG element, never as markup; and the
//! page's content security policy allows no script but its own, by its hash.
//!
//! A figure whose data are absent says so in its place.

mod answer;
mod axis;
mod bars;
mod chart;
mod figures;
mod html;
mod marks;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use crate::{
    ResultFile,
    compare::{self, Comparison},
    schema::ResultKind,
    summary,
};
use html::{element, escaped};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Why a page could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the figure {figure} could not be drawn: {cause}; report this with the result files")]
pub struct PageError {
    /// The figure.
    figure: String,
    /// What the plotting library said.
    cause: String,
}

/// A figure: drawn, or with the reason why it is not there.
struct Figure {
    /// Its name in the page's addresses.
    id: &'static str,
    title: String,
    /// What it shows and how to read it.
    caption: String,
    parts: Result<Vec<chart::Drawing>, String>,
}

/// All that figures are drawn from.
struct Sources<'a> {
    files: &'a [ResultFile],
    /// The profile that has costs at the most chain lengths.
    profile: Option<&'a ResultFile>,
    /// The bench result that says most about the profile.
    bench: Option<&'a ResultFile>,
    comparison: Option<Comparison>,
    /// Why there is no comparison.
    no_comparison: String,
}

impl<'a> Sources<'a> {
    fn new(files: &'a [ResultFile]) -> Self {
        let of = |kind| files.iter().filter(move |f| f.context.kind == kind);
        let benches = || of(ResultKind::Bench);
        // Of equals the first: a reader names the main result before its companions.
        let profile = of(ResultKind::Profile).rev().max_by_key(|p| supported(p));
        let compared = |bench| Some((bench, compare::compare(bench, profile?, None)));
        let rows =
            |of: &(&ResultFile, Result<Comparison, _>)| of.1.as_ref().map_or(0, |c| c.rows.len());
        let best = benches().rev().filter_map(compared).max_by_key(rows);
        let (bench, comparison, no_comparison) = match best {
            Some((bench, Ok(comparison))) => (Some(bench), Some(comparison), String::new()),
            Some((bench, Err(error))) => (Some(bench), None, error.to_string()),
            None if profile.is_none() => {
                (benches().next(), None, "no profile was named".to_owned())
            }
            None => (None, None, "no bench result was named".to_owned()),
        };
        Self {
            files,
            profile,
            bench,
            comparison,
            no_comparison,
        }
    }

    /// Whether times of a profile may stand beside those of the others: two hosts' do not
    /// compare.
    fn has_host_of(&self, profile: &ResultFile) -> bool {
        let host = self.bench.or(self.profile).map(|f| &f.context.host.label);
        host.is_none_or(|label| *label == profile.context.host.label)
    }

    fn of_kind(&self, kind: ResultKind) -> impl Iterator<Item = &'a ResultFile> {
        self.files.iter().filter(move |f| f.context.kind == kind)
    }
}

/// Chain lengths and kinds of callbacks that a profile has enough of to say what they cost.
fn supported(profile: &ResultFile) -> usize {
    let costs = compare::real_costs(profile);
    costs
        .iter()
        .filter(|(.., cost)| cost.is_supported())
        .count()
}

/// Draws the page of these results.
///
/// # Errors
/// [`PageError`] if the plotting library refuses a figure.
pub fn render(files: &[ResultFile]) -> Result<String, PageError> {
    let sources = Sources::new(files);
    let figures = figures::all(&sources)?;
    let mut body = String::new();
    body.push_str(
        "<header><h1>rmapscope</h1><p>What page aging costs in KVM's reverse map, \
         synthetic beside real. Point at a mark, or go to a figure with Tab and through its marks \
         with the arrow keys, for its exact figures.</p></header>\n<nav><ul>",
    );
    body.push_str("<li><a href=\"#answer\">What one more SPTE costs</a></li>");
    for figure in &figures {
        let absent = if figure.parts.is_err() {
            " (not here)"
        } else {
            ""
        };
        let title = escaped(&figure.title);
        let link = format!("<a href=\"#{}\">{title}{absent}</a>", figure.id);
        body.push_str(&format!("<li>{link}</li>"));
    }
    body.push_str(
        "<li><a href=\"#tables\">Tables</a></li><li><a href=\"#context\">Context of \
         the runs</a></li></ul></nav>\n<main>\n",
    );
    body.push_str(&answer::section(&sources));
    for (number, figure) in figures.iter().enumerate() {
        body.push_str(&section(number + 1, figure));
    }
    body.push_str(&tables(&sources));
    body.push_str(&contexts(files));
    body.push_str("</main>\n<div id=\"tip\" role=\"status\" hidden></div>\n");
    Ok(document(&body))
}

/// How every page begins, which tells it from other files.
pub const BEGINS: &str =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta name=\"generator\" content=\"rmapscope\">";

fn document(body: &str) -> String {
    let hash = STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()));
    format!(
        "{BEGINS}\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>rmapscope: results</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{body}<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

fn absent(reason: &str) -> String {
    format!(
        "<p class=\"absent\">Not here: {}.</p>\n",
        escaped(reason.trim_end_matches('.'))
    )
}

fn section(number: usize, figure: &Figure) -> String {
    let mut out = format!("<section id=\"{}\" class=\"figure\">\n", figure.id);
    out.push_str(&element("h2", &format!("{number}. {}", figure.title)));
    match &figure.parts {
        Err(reason) => out.push_str(&absent(reason)),
        Ok(parts) => {
            out.push_str(&element("p", &figure.caption));
            for part in parts {
                out.push_str(&part.html());
            }
        }
    }
    out.push_str("</section>\n");
    out
}

/// The tables of the comparison, then those of each file.
fn tables(sources: &Sources<'_>) -> String {
    let mut out = String::from("<section id=\"tables\">\n");
    out.push_str(&element("h2", "Tables"));
    if let Some(comparison) = &sources.comparison {
        for table in &comparison.tables() {
            out.push_str(&html::folded(table.title(), &html::table(table)));
        }
    }
    for file in sources.files {
        for table in &summary::tables(file) {
            let title = format!("{}: {}", file.context.kind, table.title());
            out.push_str(&html::folded(&title, &html::table(table)));
        }
    }
    out.push_str("</section>\n");
    out
}

/// A file's name.
fn name(file: &ResultFile) -> String {
    let name = file.path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn contexts(files: &[ResultFile]) -> String {
    let mut out = String::from("<section id=\"context\">\n");
    out.push_str(&element("h2", "Context of the runs"));
    for file in files {
        let title = format!("{} ({})", name(file), file.context.kind);
        out.push_str(&element("h3", &title));
        out.push_str(&element("pre", &summary::heading(file).join("\n")));
        out.push_str(&html::folded(
            "everything known about the host",
            &html::host(&file.context),
        ));
    }
    out.push_str("</section>\n");
    out
}
