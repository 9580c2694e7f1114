//! The `guest` binary on the live host: whatever ends it, nothing of it stays.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use guest::live;
use guest::wire::{Line, Ready};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SCAN_SLEEP: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";

fn host() -> Result<(), String> {
    live::root()?;
    live::kvm().map_err(|error| error.to_string())?;
    live::memcg().map_err(|error| error.to_string())?;
    live::disk().map_err(|error| error.to_string())?;
    Ok(())
}

/// A running `guest run` that is killed if a test fails.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_guest"))
            .args(["run", "--json"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("piped");
        Self {
            child,
            lines: BufReader::new(stdout),
        }
    }

    fn line(&mut self) -> Option<Line> {
        let mut text = String::new();
        self.lines.read_line(&mut text).expect("readable");
        (!text.is_empty()).then(|| serde_json::from_str(&text).expect("a line of JSON"))
    }

    fn ready(&mut self) -> Ready {
        match self.line() {
            Some(Line::Ready(ready)) => ready,
            other => panic!("not ready: {other:?}"),
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("signalled");
    }

    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn stopped_by(&mut self) -> String {
        match self.line() {
            Some(Line::End(end)) => end.stopped_by,
            other => panic!("no end: {other:?}"),
        }
    }

    /// Open files of the process that have no name any more, such as its memory.
    fn unnamed_files(&self) -> usize {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id()));
        let maps = maps.expect("maps");
        maps.lines()
            .filter(|line| line.ends_with("(deleted)"))
            .count()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn names_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("listing");
    entries.map(|entry| entry.expect("entry").path()).collect()
}

#[test]
fn a_signal_ends_the_guest_and_leaves_nothing() {
    let _alone = live::exclusive();
    let name = "a_signal_ends_the_guest_and_leaves_nothing";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let disk = live::disk().expect("a disk");
    let dir = tempfile::tempdir_in(disk).expect("temporary directory");
    let path = dir.path().to_str().expect("text");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut guest = Running::start(&["--driver", "reclaim", "--dir", path]);
        let ready = guest.ready();
        let cgroup = PathBuf::from(ready.cgroup.expect("cgroup"));
        assert!(cgroup.exists());
        assert!(guest.unnamed_files() > 0, "no file behind the memory");
        thread::sleep(Duration::from_millis(200));
        guest.signal(signal);
        assert_eq!(guest.wait().code(), Some(0), "{signal}");
        assert_eq!(guest.stopped_by(), signal.as_str());
        assert!(!cgroup.exists(), "{signal} left {}", cgroup.display());
        assert_eq!(names_in(dir.path()), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_signal_before_the_guest_is_ready_leaves_nothing() {
    let _alone = live::exclusive();
    let name = "a_signal_before_the_guest_is_ready_leaves_nothing";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let mut guest = Running::start(&["--driver", "reclaim", "--pages", "65536", "--aliases", "64"]);
    let cgroup = wait_for_cgroup(guest.child.id());
    guest.signal(Signal::SIGTERM);
    assert_eq!(guest.wait().code(), Some(1));
    assert_eq!(guest.line(), None);
    assert!(!cgroup.exists());
}

/// Where the guest is once it has moved into its cgroup.
fn wait_for_cgroup(pid: u32) -> PathBuf {
    let hierarchy = guest::MemoryHierarchy::detect().expect("memory controller");
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("alive");
        let ours = text.lines().find(|line| line.contains("rmapscope-guest-"));
        if let Some(path) = ours.and_then(|line| line.splitn(3, ':').nth(2)) {
            let cgroup = hierarchy.mount.join(path.trim_start_matches('/'));
            assert!(cgroup.exists(), "{}", cgroup.display());
            return cgroup;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "no cgroup");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_closed_stdin_ends_the_guest_if_asked_to() {
    let _alone = live::exclusive();
    let name = "a_closed_stdin_ends_the_guest_if_asked_to";
    let Some(()) = live::require(name, live::kvm()) else {
        return;
    };
    let mut guest = Running::start(&["--until-stdin-closes"]);
    guest.ready();
    thread::sleep(Duration::from_millis(100));
    assert!(guest.child.try_wait().expect("waits").is_none(), "too soon");
    drop(guest.child.stdin.take());
    assert_eq!(guest.wait().code(), Some(0));
    assert_eq!(guest.stopped_by(), "stdin closed");
}

#[test]
fn a_line_on_stdin_ages_the_guest_once_and_finds_the_same_work_every_time() {
    let _alone = live::exclusive();
    let name = "a_line_on_stdin_ages_the_guest_once_and_finds_the_same_work_every_time";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let mut guest = Running::start(&[
        "--until-stdin-closes",
        "--on-request",
        "--driver",
        "reclaim",
        "--pages",
        "512",
        "--spare-pages",
        "4096",
    ]);
    guest.ready();
    let mut stdin = guest.child.stdin.take().expect("piped");
    let mut passes = 0;
    for _ in 0..3 {
        writeln!(stdin).expect("it listens");
        let Some(Line::Progress(progress)) = guest.line() else {
            panic!("no answer");
        };
        // One that found no page to age would take no time.
        assert!(progress.aged_ns > Some(50_000), "{progress:?}");
        assert!(progress.passes > passes, "{progress:?}");
        passes = progress.passes;
    }
    drop(stdin);
    assert_eq!(guest.wait().code(), Some(0));
    match guest.line() {
        Some(Line::End(end)) => assert_eq!(end.report.driver_iterations, 3),
        other => panic!("no end: {other:?}"),
    }
}

#[test]
fn the_death_of_the_parent_ends_the_guest_even_if_stdin_stays_open() {
    let _alone = live::exclusive();
    let name = "the_death_of_the_parent_ends_the_guest_even_if_stdin_stays_open";
    let Some(()) = live::require(name, live::kvm()) else {
        return;
    };
    // The shell is the guest's parent and dies at once; the guest's stdin is ours and stays open.
    let script = "exec 3<&0; \"$0\" run --json --pages 8 --until-stdin-closes --seconds 20 <&3 & \
                  sleep 0.5";
    let mut shell = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_guest")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let stdin = shell.stdin.take();
    let stdout = BufReader::new(shell.stdout.take().expect("piped"));
    let lines: Vec<_> = stdout.lines().map(|line| line.expect("text")).collect();
    shell.wait().expect("waits");
    drop(stdin);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[1].contains(r#""stopped_by":"parent died""#),
        "{lines:?}"
    );
}

#[test]
fn a_closed_stdout_ends_the_guest_as_a_failure() {
    let _alone = live::exclusive();
    let name = "a_closed_stdout_ends_the_guest_as_a_failure";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_guest"))
        .args([
            "run",
            "--pages",
            "8",
            "--seconds",
            "1",
            "--driver",
            "reclaim",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let cgroup = wait_for_cgroup(child.id());
    assert_eq!(child.wait().expect("waits").code(), Some(1));
    assert!(!cgroup.exists());
}

#[test]
fn the_next_guest_sweeps_up_what_a_killed_one_left() {
    let _alone = live::exclusive();
    let name = "the_next_guest_sweeps_up_what_a_killed_one_left";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let mut killed = Running::start(&["--driver", "reclaim"]);
    let cgroup = PathBuf::from(killed.ready().cgroup.expect("cgroup"));
    killed.signal(Signal::SIGKILL);
    killed.wait();
    assert!(cgroup.exists(), "nothing to sweep: the test proves nothing");
    let mut next = Running::start(&["--driver", "reclaim", "--seconds", "1"]);
    next.ready();
    assert!(!cgroup.exists());
    assert_eq!(next.wait().code(), Some(0));
}

#[test]
fn khugepageds_settings_come_back_after_a_signal_and_after_a_kill() {
    let _alone = live::exclusive();
    let name = "khugepageds_settings_come_back_after_a_signal_and_after_a_kill";
    let probe = live::root().map_err(str::to_owned);
    let probe = probe.and_then(|()| live::kvm().map_err(|error| error.to_string()));
    let probe = probe.and_then(|()| live::khugepaged().map_err(|error| error.to_string()));
    let Some(()) = live::require(name, probe) else {
        return;
    };
    let setting = || fs::read_to_string(SCAN_SLEEP).expect("setting");
    let before = setting();
    let mut killed = Running::start(&["--driver", "khugepaged"]);
    killed.ready();
    assert_ne!(setting(), before, "the driver changes nothing");
    killed.signal(Signal::SIGKILL);
    killed.wait();
    let mut next = Running::start(&["--driver", "khugepaged"]);
    next.ready();
    next.signal(Signal::SIGTERM);
    assert_eq!(next.wait().code(), Some(0));
    assert_eq!(setting(), before);
}
