//! What a watcher says it saw, read from what it left.

use std::{fs, path::Path};

use ::report::{Observed, ResultFile, schema::Record};
use anyhow::{Context as _, Result, ensure};

use crate::process;

/// The command of the test guest, which makes the kernel age it from its main thread.
const COMM: &str = "guest";

/// What was seen of the guest's callbacks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// Callbacks.
    pub(super) callbacks: Observed<u64>,
    /// Events that the watcher says it lost.
    pub(super) lost: Observed<u64>,
}

impl Seen {
    /// What nobody sees.
    pub(super) fn nothing() -> Self {
        Self {
            callbacks: Observed::missing("nobody counted"),
            lost: Observed::missing("nobody counted"),
        }
    }
}

/// From a recording.
pub(super) fn by_rmapscope(output: &Path) -> Result<Seen> {
    let file = ResultFile::read(output)?;
    let (mut callbacks, mut lost) = (0, 0);
    for record in &file.records {
        match record {
            Record::Callbacks(cell) if cell.vm.is_some() => callbacks += cell.callbacks,
            Record::Loss(loss) if ["callbacks", "events"].contains(&loss.signal.as_str()) => {
                lost += loss.count.value().copied().unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok(Seen {
        callbacks: Observed::Value(callbacks),
        lost: Observed::Value(lost),
    })
}

/// From the JSON lines of a map `@[comm]`.
pub(super) fn by_bpftrace(said: &str) -> Result<Seen> {
    let lines = said.lines();
    let lines: Vec<serde_json::Value> = lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let map = lines.iter().find(|line| line["type"] == "map");
    let map = map.context("bpftrace printed no map")?;
    let lost = lines.iter().filter(|line| line["type"] == "lost_events");
    let lost = lost.filter_map(|line| line["data"]["events"].as_u64());
    Ok(Seen {
        callbacks: Observed::Value(map["data"]["@"][COMM].as_u64().unwrap_or(0)),
        lost: Observed::Value(lost.sum()),
    })
}

/// From lines that begin with a count.
pub(super) fn by_perf_stat(output: &Path) -> Result<Seen> {
    let text = read(output)?;
    let counts: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split(',').next()?.parse().ok())
        .collect();
    ensure!(!counts.is_empty(), "perf stat counted nothing: {text:?}");
    Ok(Seen {
        callbacks: Observed::Value(counts.iter().sum()),
        lost: Observed::missing("perf stat does not tell what it missed"),
    })
}

/// From perf's data, through `perf script`.
pub(super) fn by_perf_record(output: &Path) -> Result<Seen> {
    let mut command = process::as_root("perf")?;
    command.args(["script", "--show-lost-events", "-F", "comm,event", "-i"]);
    Ok(by_lines(&process::output(command.arg(output))?))
}

/// From lines of events.
pub(super) fn by_perf_trace(output: &Path) -> Result<Seen> {
    Ok(by_lines(&read(output)?))
}

/// One line per event, and one for events lost.
fn by_lines(text: &str) -> Seen {
    let is_ours = |line: &&str| line.contains("age_hva") && line.contains(COMM);
    Seen {
        callbacks: Observed::Value(text.lines().filter(is_ours).count() as u64),
        lost: Observed::Value(text.lines().filter_map(lost_in).sum()),
    }
}

/// The number in `… lost 12` or `LOST 12 events!`.
fn lost_in(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find(|word| word.eq_ignore_ascii_case("lost"))?;
    words.next()?.parse().ok()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_other_commands_are_not_the_guests() {
        let said = "{\"type\": \"attached_probes\", \"data\": {\"probes\": 2}}\n\
                    {\"type\": \"lost_events\", \"data\": {\"events\": 4}}\n\
                    {\"type\": \"map\", \"data\": {\"@\": {\"kdamond.0\": 5, \"guest\": 7}}}\n";
        let seen = by_bpftrace(said).expect("a map");
        assert_eq!(seen.callbacks, Observed::Value(7));
        assert_eq!(seen.lost, Observed::Value(4));
        assert!(by_bpftrace("{\"type\": \"attached_probes\"}").is_err());
    }

    #[test]
    fn lost_events_are_told_from_events() {
        let text = "  12.3 guest/77 kvm:kvm_age_hva(start: 1, end: 2)\n\
                    LOST 12 events!\n\
                    guest  PERF_RECORD_LOST lost 30\n\
                    13.0 kdamond.0/9 kvm:kvm_age_hva(start: 1, end: 2)\n";
        let seen = by_lines(text);
        assert_eq!(seen.callbacks, Observed::Value(1));
        assert_eq!(seen.lost, Observed::Value(42));
    }
}
