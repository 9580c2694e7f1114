//! A tool that others use, beside us on the same function: both count the same.

use std::{
    fs,
    io::Read as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::common::{callbacks, exact_host, losses, record};
use guest::{Driver, Guest, GuestConfig, live};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use report::schema::CallbackKind;

const FUNCTION: &str = "__mmu_notifier_test_young";
/// The kernel's list of probes, where one can see that a tool has attached.
const PROBES: &str = "/sys/kernel/debug/kprobes/list";
/// A tool that has not attached by then never will.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(60);

/// bcc's funclatency on one function; killed if a test fails.
struct Funclatency(Child);

impl Funclatency {
    fn start() -> Self {
        let child = Command::new("funclatency")
            .arg(FUNCTION)
            .stdout(Stdio::piped())
            .spawn()
            .expect("funclatency starts");
        let tool = Self(child);
        let started = Instant::now();
        // At the entry and at the return.
        while probes() < 2 {
            assert!(started.elapsed() < ATTACH_TIMEOUT, "it does not attach");
            std::thread::sleep(Duration::from_millis(20));
        }
        tool
    }

    /// Ends it; returns how many calls are in its histogram.
    fn end(mut self) -> u64 {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("it still runs");
        let mut said = String::new();
        let mut stdout = self.0.stdout.take().expect("piped");
        stdout.read_to_string(&mut said).expect("UTF-8");
        self.0.wait().expect("it ends");
        histogram_total(&said)
    }
}

impl Drop for Funclatency {
    fn drop(&mut self) {
        // Ended already, unless a test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Probes on the function that no program of ours has: we use none there.
fn probes() -> usize {
    let list = fs::read_to_string(PROBES).expect("debugfs");
    list.lines().filter(|line| line.contains(FUNCTION)).count()
}

/// The sum over rows such as `1024 -> 2047 : 17 |*** |`.
fn histogram_total(text: &str) -> u64 {
    let rows = text.lines().filter(|line| line.contains("->"));
    let counts = rows.filter_map(|row| row.split(':').nth(1)?.split_whitespace().next());
    counts
        .map(|count| count.parse::<u64>().expect("a count"))
        .sum()
}

fn has_funclatency() -> Result<(), String> {
    let tried = Command::new("funclatency").arg("--version").output();
    tried.map_err(|error| format!("needs bcc's funclatency: {error}"))?;
    fs::metadata(PROBES).map_err(|error| format!("{PROBES}: {error}"))?;
    Ok(())
}

#[test]
fn bccs_funclatency_counts_what_we_count() {
    let _alone = live::exclusive();
    let name = "bccs_funclatency_counts_what_we_count";
    let able = exact_host()
        .and_then(|()| live::khugepaged().map_err(|e| e.to_string()))
        .and_then(|()| has_funclatency());
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(2048, 1).with_driver(Driver::Khugepaged));
    let guest = guest.expect("the guest starts");
    guest.pause().expect("pauses");
    let funclatency = Funclatency::start();
    let file = record(&[], || {
        for _ in 0..3 {
            guest.drive_once().expect("looks");
        }
    });
    let theirs = funclatency.end();
    guest.stop().expect("stops");
    let ours: u64 = callbacks(&file)
        .filter(|r| r.kind == CallbackKind::TestYoung)
        .map(|r| r.callbacks)
        .sum();
    let by = [("rmapscope", ours), ("funclatency", theirs)];
    live::counted(name, "calls of __mmu_notifier_test_young", &by);
    assert!(ours > 3 * 2000, "{ours}");
    assert_eq!(ours, theirs);
    for (cause, count) in losses(&file) {
        assert_eq!(count, 0, "{cause}");
    }
}
