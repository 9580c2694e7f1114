//! What `top` and `exporter` show is what happens, and they leave nothing.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use crate::common::{Ended, Recording, host, reclaim_host, rmapscope, stderr};
use guest::{Driver, Guest, GuestConfig, live};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use report::schema::{LossRecord, Record};

/// An exporter for this process's VMs that is killed if a test fails.
pub(crate) struct Exporter {
    child: Child,
    address: String,
}

impl Exporter {
    /// Starts it at a free port; returns once it answers.
    pub(crate) fn start() -> Self {
        let mut child = rmapscope()
            .args(["exporter", "--listen", "127.0.0.1:0", "--pid"])
            .arg(std::process::id().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rmapscope starts");
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.take().expect("piped"));
        said.read_line(&mut line).expect("it says something");
        let address = line
            .strip_prefix("http://")
            .and_then(|rest| rest.split('/').next())
            .unwrap_or_else(|| panic!("{line}"))
            .to_owned();
        Self { child, address }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it answers to a request for `path`, headers included.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
             Accept: application/openmetrics-text;version=1.0.0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("UTF-8");
        answer
    }

    /// Sends a signal and waits for the end; returns the exit status.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it still runs");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // Ended already, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of all series of a counter.
pub(crate) fn sum(answer: &str, name: &str) -> f64 {
    let lines = answer.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

#[test]
fn the_exporter_counts_what_it_sees_and_ends_when_told() {
    let _alone = live::exclusive();
    let name = "the_exporter_counts_what_it_sees_and_ends_when_told";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(1024, 2).with_driver(Driver::Reclaim));
    let guest = guest.expect("the guest starts");
    let exporter = Exporter::start();
    assert!(exporter.get("/").contains("/metrics"));
    assert!(exporter.get("/nothing").starts_with("HTTP/1.1 404"));
    guest.drive_once().expect("reclaims");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = exporter.get("/metrics");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        assert_eq!(sum(&answer, "rmapscope_vm{"), 1.0, "{answer}");
        // Linux 7.3 asks for all pages of a large folio at once.
        if sum(&answer, "rmapscope_pages_total{") >= 1024.0 {
            let callbacks = sum(&answer, "rmapscope_callbacks_total{");
            let by_caller = sum(&answer, "rmapscope_callbacks_by_caller_total{");
            assert!(callbacks > 0.0 && by_caller == callbacks, "{answer}");
            for signal in ["callbacks", "attribution", "chain length"] {
                let lost = format!("rmapscope_lost_total{{signal=\"{signal}\",");
                assert!(answer.contains(&lost), "no {signal}: {answer}");
            }
            break;
        }
        assert!(Instant::now() < deadline, "no callbacks: {answer}");
        std::thread::sleep(Duration::from_millis(200));
    }
    // First, for it is in the guest's cgroup, as whatever this process starts.
    assert_eq!(exporter.end(Signal::SIGTERM), Some(143));
    guest.stop().expect("stops");
}

#[test]
fn an_address_in_use_is_named() {
    let _alone = live::exclusive();
    let Some(()) = live::require("an_address_in_use_is_named", host()) else {
        return;
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = rmapscope()
        .args(["exporter", "--listen", &address])
        .output();
    let output = output.expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}

#[test]
fn top_shows_a_vm_that_is_aged_with_what_it_costs() {
    let _alone = live::exclusive();
    let name = "top_shows_a_vm_that_is_aged_with_what_it_costs";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(256, 2).with_driver(Driver::Reclaim));
    let mut guest = guest.expect("the guest starts");
    guest.start_driving().expect("drives");
    let pid = std::process::id().to_string();
    let output = rmapscope()
        .args([
            "top",
            "--json",
            "--interval",
            "2s",
            "--count",
            "2",
            // Neither rung can keep it, and says so.
            "--max-overhead",
            "0.001",
            "--pid",
            &pid,
        ])
        .output()
        .expect("it starts");
    guest.stop().expect("stops");
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = String::from_utf8_lossy(&output.stdout);
    let lines = lines.lines();
    let (rows, others): (Vec<_>, Vec<_>) = lines
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .partition(|line| !line["vm"].is_null());
    let is_known = |line: &serde_json::Value| line["lost"].is_u64() || line["notice"].is_string();
    assert!(others.iter().all(is_known), "{others:?}");
    let notices = others.iter().filter_map(|line| line["notice"].as_str());
    let told: Vec<&str> = notices.collect();
    assert!(told.iter().any(|told| told.contains("0.001 %")), "{told:?}");
    assert_eq!(rows.len(), 2, "one VM, two updates: {rows:?}");
    let callbacks = |row: &serde_json::Value| row["callbacks_per_s"].as_f64().unwrap_or(0.0);
    assert!(rows.iter().any(|row| callbacks(row) > 0.0), "{rows:?}");
    assert_eq!(rows[0]["pid"], std::process::id());
}

#[test]
fn a_recording_gives_up_what_it_does_not_need() {
    const KEPT: u64 = 1 << 39 | 1 << 38 | 1 << 1;
    let _alone = live::exclusive();
    let name = "a_recording_gives_up_what_it_does_not_need";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let recording = Recording::start(&[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", recording.pid()));
    let status = status.expect("it runs");
    for set in ["CapEff:", "CapPrm:", "CapInh:"] {
        let mask = status.lines().find_map(|line| line.strip_prefix(set));
        let mask = u64::from_str_radix(mask.expect(set).trim(), 16).expect("a mask");
        assert_eq!(mask & !KEPT, 0, "{set} {mask:x}");
    }
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    assert!(ended.file.is_some(), "{}", ended.said);
}

/// What a recording with a limit asked for, in Hz, and what it says of the limit.
fn asked_and_told(ended: &Ended) -> (Vec<f64>, Vec<String>) {
    let (mut rates, mut told) = (Vec::new(), Vec::new());
    for record in &ended.file().records {
        match record {
            Record::Run(run) => rates.extend(run.sampling.value().map(|s| s.asked_hz)),
            Record::Loss(loss) if loss.signal == LossRecord::SAMPLING_RATE => {
                told.push(loss.cause.clone());
            }
            _ => {}
        }
    }
    (rates, told)
}

#[test]
fn sampling_is_slowed_down_when_observing_costs_too_much() {
    let _alone = live::exclusive();
    let name = "sampling_is_slowed_down_when_observing_costs_too_much";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    // Nobody ages it and faults are not timed: what observing costs is samples.
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let arguments = ["--mechanism", "sampled", "--max-overhead", "0.05"];
    let recording = Recording::start(&[&arguments[..], &["--no-interference"]].concat());
    std::thread::sleep(Duration::from_secs(4));
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    let (rates, told) = asked_and_told(&ended);
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(rates.len() > 2 && least < 997.0, "{rates:?}");
    assert!(told.iter().any(|told| told.contains("lowered")), "{told:?}");
}

#[test]
fn a_limit_that_fewer_samples_cannot_keep_is_told_once_and_lowers_nothing() {
    let _alone = live::exclusive();
    let name = "a_limit_that_fewer_samples_cannot_keep_is_told_once_and_lowers_nothing";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(1024, 2).with_driver(Driver::Reclaim));
    let mut guest = guest.expect("the guest starts");
    guest.start_driving().expect("drives");
    let recording = Recording::start(&["--mechanism", "sampled", "--max-overhead", "0.001"]);
    std::thread::sleep(Duration::from_secs(4));
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    let (rates, told) = asked_and_told(&ended);
    assert_eq!(rates.len(), 2, "{rates:?}");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("limit of 0.001 % could not be kept"),
        "{told:?}"
    );
    assert_eq!(
        ended.said.matches("could not be kept").count(),
        1,
        "{}",
        ended.said
    );
}

#[test]
fn a_filter_that_no_vm_passes_says_so() {
    let _alone = live::exclusive();
    let Some(()) = live::require("a_filter_that_no_vm_passes_says_so", host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let pid = std::process::id().to_string();
    let output = rmapscope()
        .args([
            "top",
            "--count",
            "1",
            "--interval",
            "100ms",
            "--filter",
            "nothing",
        ])
        .args(["--pid", &pid])
        .output()
        .expect("it starts");
    guest.stop().expect("stops");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("No VM has \"nothing\" in its command or cgroup."),
        "{text}"
    );
}
