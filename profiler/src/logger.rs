//! Log lines on standard error, for `--verbose`: rmapscope's own and the kernel side's, not
//! those of the libraries it uses.

use std::io::Write as _;

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

/// Whether a line is of this program or of its kernel side, which log under the names of their
/// crates.
fn is_ours(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or_default();
    ["rmapscope", "profiler_ebpf"].contains(&name)
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_ours(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_this_program_and_its_kernel_side_are_ours() {
        for ours in [module_path!(), "profiler_ebpf", "profiler_ebpf::vms"] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in ["aya::bpf", "aya_obj::btf", "hyper", ""] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }
}
