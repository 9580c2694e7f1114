//! Log lines on standard error, for `--verbose`.

use std::io::Write as _;

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Standard error may be closed; logging must not end the job.
        let _ = writeln!(std::io::stderr(), "{:5} {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// From now on log lines go to standard error.
pub(crate) fn install() {
    // A second call finds the first one's logger in place, which is the same.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}
