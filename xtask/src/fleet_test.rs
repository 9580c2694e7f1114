//! `cargo xtask fleet-test`: the exporter under a real Prometheus.
//!
//! Debian's Prometheus and its promtool are unpacked under `target/`, started on
//! loopback and stopped again. promtool checks what `docs/fleet/` ships and what
//! the exporter answers; Prometheus must scrape it and evaluate the rules.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Outcome,
    debian::PrivateApt,
    process,
    profile::guest::{TestGuest, Wanted},
};

/// How long Prometheus may take to show what it scraped and computed.
const PATIENCE: Duration = Duration::from_secs(120);
/// What it must show in the end, and what that proves.
const QUERIES: [(&str, &str); 4] = [
    ("up{job=\"rmapscope\"} == 1", "the exporter is scraped"),
    (
        "sum(rmapscope_callbacks_total) > 0",
        "callbacks are counted",
    ),
    (
        "sum(rmapscope:callbacks:rate1m) > 0",
        "the recording rules work",
    ),
    (
        "count(rmapscope_lost_total{signal=\"callbacks\"} >= 0)",
        "losses are exported, also where nothing was lost",
    ),
];

/// Checks the exporter and `docs/fleet/` with Prometheus.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

/// Runs all checks; the first that fails is the error.
pub(crate) fn run(_: &Options) -> Outcome {
    let tools = fetch()?;
    let fleet = process::workspace().join("docs/fleet");
    for (what, file) in [("rules", "rules.yml"), ("config", "prometheus.yml")] {
        let mut check = Command::new(tools.join("promtool"));
        process::run(check.args(["check", what]).arg(fleet.join(file)))?;
    }
    let rmapscope = process::build("rmapscope")?;
    let wanted = Wanted {
        pages: 2048,
        aliases: 2,
        nested: false,
        driver: "reclaim",
        held: false,
    };
    let guest = TestGuest::start(&process::build("guest")?, &wanted)?;
    let exporter = Exporter::start(&rmapscope, guest.pid())?;
    check_exposition(&tools.join("promtool"), &exporter.address)?;
    let folder = tempfile::Builder::new()
        .prefix("rmapscope-fleet-")
        .tempdir()?;
    let server = Server::start(&tools.join("prometheus"), folder.path(), &exporter.address)?;
    for (query, proves) in QUERIES {
        server.wait_for(query)?;
        println!("{proves}: {query}");
    }
    let expressions = dashboard(&fleet.join("grafana.json"))?;
    for expression in &expressions {
        server.accepts(expression)?;
    }
    println!(
        "{} expressions of the dashboard are valid",
        expressions.len()
    );
    drop(server);
    drop(exporter);
    guest.stop()?;
    Ok(ExitCode::SUCCESS)
}

/// The folder with prometheus and promtool.
fn fetch() -> Result<PathBuf> {
    let folder = process::workspace().join("target/prometheus");
    if !folder.exists() {
        eprintln!("fetching Prometheus from Debian");
        let apt = PrivateApt::new("prometheus", &["bookworm"])?;
        let partial = folder.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        apt.unpack(&["prometheus".to_owned()], &partial)?;
        fs::rename(&partial, &folder)?;
    }
    Ok(folder.join("usr/bin"))
}

/// The expressions of a dashboard's panels, for all instances.
fn dashboard(file: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let dashboard: serde_json::Value =
        serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<String> = targets
        .filter_map(|target| Some(target["expr"].as_str()?.replace("$instance", ".*")))
        .collect();
    ensure!(!expressions.is_empty(), "{} shows nothing", file.display());
    Ok(expressions)
}

/// A child that is asked to end when it is dropped.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

struct Exporter {
    address: String,
    _child: Ending,
}

impl Exporter {
    fn start(program: &Path, pid: u32) -> Result<Self> {
        let mut command = process::as_root(program)?;
        command.args(["exporter", "--listen", "127.0.0.1:0", "--pid"]);
        command.arg(pid.to_string()).stderr(Stdio::piped());
        let shown = process::shown(&command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start: {shown}"))?;
        let stderr = child.stderr.take().context("no standard error")?;
        let child = Ending(child);
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line)?;
        let address = line
            .strip_prefix("http://")
            .and_then(|l| l.split('/').next());
        Ok(Self {
            address: address
                .with_context(|| format!("{shown} said {line:?}"))?
                .to_owned(),
            _child: child,
        })
    }
}

/// promtool reads the older text format.
fn check_exposition(promtool: &Path, address: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = get(address, "/metrics")?;
        if text.contains("rmapscope_callbacks_total{") {
            break text;
        }
        ensure!(Instant::now() < deadline, "the exporter shows no callbacks");
        thread::sleep(Duration::from_millis(200));
    };
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let shown = process::shown(&command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start: {shown}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let status = process::wait(&mut child)?;
    ensure!(status.success(), "{status} from: {shown}");
    println!("promtool accepts what the exporter answers");
    Ok(())
}

/// The body of an answer.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("{address} answered {answer:?}"))?;
    Ok(body.to_owned())
}

struct Server {
    address: String,
    _child: Ending,
}

impl Server {
    fn start(program: &Path, folder: &Path, exporter: &str) -> Result<Self> {
        let rules = process::workspace().join("docs/fleet/rules.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{:?}]\n\
             scrape_configs:\n\
             - job_name: rmapscope\n  static_configs: [{{targets: [{exporter:?}]}}]\n",
            rules.display().to_string()
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, config)?;
        // Free now; Prometheus cannot tell which port it took.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=warn"]);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start: {}", process::shown(&command)))?;
        Ok(Self {
            address,
            _child: Ending(child),
        })
    }

    fn query(query: &str) -> String {
        format!("/api/v1/query?query={}", percent_encoded(query))
    }

    /// Fails if Prometheus cannot evaluate an expression.
    fn accepts(&self, expression: &str) -> Result<()> {
        let answer = get(&self.address, &Self::query(expression))?;
        let status: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        ensure!(
            status["status"] == "success",
            "Prometheus refuses {expression}: {answer}"
        );
        Ok(())
    }

    /// Waits until a query gives something.
    fn wait_for(&self, query: &str) -> Result<()> {
        let path = Self::query(query);
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < deadline {
            ensure!(!process::interrupted(), "interrupted");
            // It refuses connections until it has started.
            last = get(&self.address, &path).unwrap_or_default();
            let answer: serde_json::Value = serde_json::from_str(&last).unwrap_or_default();
            if answer["data"]["result"]
                .as_array()
                .is_some_and(|r| !r.is_empty())
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(500));
        }
        bail!("Prometheus shows nothing for {query}: {last}");
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_being_part_of_an_address() {
        assert_eq!(percent_encoded("up{a=\"b\"}"), "up%7Ba%3D%22b%22%7D");
    }
}
