//! The page of `report --html` in a real browser.
//!
//! Chromium's headless shell comes from Debian, unpacked beside the other tools
//! and not installed. It is driven by its command line alone: it prints the page
//! as its scripts left it, and says on standard error what went wrong in it.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use ::report::{ResultFile, compare, schema::Record, table::count};
use anyhow::{Context as _, Result, bail};

use crate::{Outcome, debian::PrivateApt, process};

const PACKAGE: &str = "chromium-headless-shell";
/// Figures every page has, drawn or with the reason why not.
const FIGURES: [&str; 7] = [
    "cost", "latency", "faults", "scaling", "census", "callers", "verdicts",
];

/// Draws the committed results and looks at them in headless Chromium.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Keep screenshots, light and dark, in this folder
    #[arg(long, value_name = "FOLDER")]
    screenshots: Option<PathBuf>,
}

/// Fetches the browser, opens the page and checks it.
pub(crate) fn run(options: &Options) -> Outcome {
    let browser = Browser::fetch()?;
    let folder = tempfile::Builder::new()
        .prefix("rmapscope-page-")
        .tempdir()?;
    let page = folder.path().join("report.html");
    let reference = process::workspace().join("results/reference");
    let mut draw = Command::new(std::env::current_exe()?);
    draw.args(["report", "--html"])
        .args(crate::results::below(&reference)?);
    process::output(draw.arg("--output").arg(&page))?;
    let (dom, said) = browser.open(&page, &["--dump-dom"])?;
    check(&dom, &said)?;
    check_data(&dom, &reference)?;
    check_hostile(&browser, &reference, folder.path())?;
    if let Some(folder) = &options.screenshots {
        std::fs::create_dir_all(folder)?;
        for (name, scheme) in [("light", "1"), ("dark", "0")] {
            let picture = folder.join(format!("{name}.png"));
            let shot = format!("--screenshot={}", picture.display());
            let colours = format!("--blink-settings=preferredColorScheme={scheme}");
            browser.open(
                &page,
                &[
                    "--hide-scrollbars",
                    "--window-size=1000,16000",
                    &colours,
                    &shot,
                ],
            )?;
        }
    }
    ::report::out!(
        "{} figures are on the page with their data, nothing went wrong in it, and markup in \
         names stays text",
        FIGURES.len()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// A figure's part of the page.
fn section<'a>(dom: &'a str, figure: &str) -> Option<&'a str> {
    let (_, section) = dom.split_once(&format!("<section id=\"{figure}\""))?;
    section.split("</section>").next()
}

/// What the results hold is what the page says: what one more SPTE costs, every real cost
/// with its callbacks, every class of callers, every claim, and which file a census is of.
fn check_data(dom: &str, reference: &Path) -> Result<()> {
    let read = |name: &str| ResultFile::read(&reference.join(name));
    let (profile, verdicts) = (read("profile.jsonl")?, read("verdicts.jsonl")?);
    let mut wanted: Vec<(&str, String)> = Vec::new();
    for (_, band, cost) in compare::real_costs(&profile) {
        if cost.is_supported() && cost.walk.is_some() && band.mean_len > 0.0 {
            wanted.push(("cost", format!("{} callbacks", count(cost.callbacks))));
        }
    }
    let bench = read("bench.jsonl")?;
    for model in compare::compare(&bench, &profile, None)?.models {
        if model.side == compare::Side::Real {
            wanted.push(("answer", model.per_spte.to_string()));
        }
    }
    wanted.push(("census", "profile.jsonl, run 0".to_owned()));
    wanted.push(("latency", "of another host: nested.jsonl".to_owned()));
    for record in profile.records.iter().chain(&verdicts.records) {
        match record {
            Record::Callbacks(cell) => wanted.push(("callers", cell.caller.to_string())),
            Record::Verdict(claim) => wanted.push(("verdicts", claim.claim_id.clone())),
            _ => {}
        }
    }
    for (figure, text) in wanted {
        if !section(dom, figure).is_some_and(|section| section.contains(&text)) {
            bail!("the figure {figure} does not show {text:?}, which the results hold");
        }
    }
    Ok(())
}

/// Results whose names are markup: the page shows it and the browser does not run it.
fn check_hostile(browser: &Browser, reference: &Path, folder: &Path) -> Result<()> {
    const MARKUP: &str = "</text></svg><script>document.title='run'</script>\
                          <img src=x onerror=document.title='run'>";
    let quoted = serde_json::to_string(MARKUP)?;
    let mut draw = Command::new(std::env::current_exe()?);
    draw.args(["report", "--html"]);
    for (name, plain) in [
        ("bench.jsonl", "\"bitlock\""),
        ("profile.jsonl", "\"guest\""),
    ] {
        let text = std::fs::read_to_string(reference.join(name))?;
        let hostile = folder.join(name);
        std::fs::write(&hostile, text.replace(plain, &quoted))?;
        draw.arg(hostile);
    }
    let page = folder.join("hostile.html");
    process::output(draw.arg("--output").arg(&page))?;
    let (dom, said) = browser.open(&page, &["--dump-dom"])?;
    if let Some(line) = said.lines().find(|l| l.contains("CONSOLE")) {
        bail!("a page of names with markup says in the browser's console: {line}");
    }
    if dom.contains("<title>run") || dom.contains("<img") || !dom.contains("&lt;script&gt;") {
        bail!("a name with markup was taken for markup by the page");
    }
    Ok(())
}

/// Every figure is there, drawn or with a reason, and no script complained.
fn check(dom: &str, said: &str) -> Result<()> {
    if let Some(line) = said.lines().find(|l| l.contains("CONSOLE")) {
        bail!("the page says in the browser's console: {line}");
    }
    for figure in FIGURES {
        let Some(section) = section(dom, figure) else {
            bail!("the page has no figure {figure}");
        };
        let drawn = section.contains("class=\"m\"") || section.contains("class=\"m bar\"");
        if !drawn && !section.contains("class=\"absent\"") && !section.contains("<tbody>") {
            bail!("the figure {figure} has neither marks nor a reason why not");
        }
    }
    Ok(())
}

struct Browser {
    folder: PathBuf,
}

impl Browser {
    fn fetch() -> Result<Self> {
        let folder = process::workspace().join("target/chromium");
        if !folder.exists() {
            ::report::say!("fetching Chromium's headless shell from Debian");
            let apt = PrivateApt::new("chromium", &["bookworm"])?;
            let mut simulate = apt.command("apt-get");
            simulate.args(["--simulate", "--no-install-recommends", "install", PACKAGE]);
            let plan = process::output(&mut simulate)?;
            let packages: Vec<String> = plan
                .lines()
                .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
                .map(str::to_owned)
                .collect();
            let partial = folder.with_extension("partial");
            if partial.exists() {
                std::fs::remove_dir_all(&partial)?;
            }
            apt.unpack(&packages, &partial)?;
            std::fs::rename(&partial, &folder)?;
        }
        Ok(Self { folder })
    }

    /// Opens a page and returns what the browser printed and what it said.
    fn open(&self, page: &Path, arguments: &[&str]) -> Result<(String, String)> {
        let home = tempfile::Builder::new()
            .prefix("rmapscope-browser-")
            .tempdir()?;
        let libraries = [
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/x86_64-linux-gnu/pulseaudio",
        ];
        let libraries = std::env::join_paths(libraries.map(|l| self.folder.join(l)))?;
        let mut command =
            Command::new(self.folder.join("usr/lib/chromium/chromium-headless-shell"));
        command
            .env("LD_LIBRARY_PATH", libraries)
            // It opens one file that we wrote, and root has no sandbox.
            .args([
                "--no-sandbox",
                "--disable-gpu",
                "--enable-logging=stderr",
                "--timeout=30000",
            ])
            .arg(format!("--user-data-dir={}", home.path().display()))
            .args(arguments)
            .arg(format!("file://{}", page.display()));
        let out = command.output().with_context(|| process::shown(&command))?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if !out.status.success() {
            bail!("{} from: {}\n{said}", out.status, process::shown(&command));
        }
        Ok((String::from_utf8_lossy(&out.stdout).into_owned(), said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(inside: &str) -> String {
        FIGURES
            .map(|f| format!("<section id=\"{f}\" class=\"figure\">{inside}</section>"))
            .concat()
    }

    #[test]
    fn a_figure_without_marks_and_without_a_reason_is_found() {
        assert!(check(&page("<g class=\"m\" role=\"img\"></g>"), "").is_ok());
        assert!(check(&page("<p class=\"absent\">"), "").is_ok());
        assert!(check(&page(""), "").is_err());
        assert!(check("", "").is_err());
    }

    #[test]
    fn a_complaint_in_the_console_is_found() {
        let said = "[1:1:INFO:CONSOLE:1] \"Uncaught ReferenceError\", source: (1)";
        assert!(check(&page("<p class=\"absent\">"), said).is_err());
    }
}
