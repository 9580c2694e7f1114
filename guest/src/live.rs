//! For tests against the live host: skip loudly what it cannot do, or insist that it can.
//!
//! A live test waits for its turn, asks for what it needs and returns if it is not there:
//!
//! ```no_run
//! # fn the_test() {
//! let _alone = guest::live::exclusive();
//! let Some(()) = guest::live::require("the_test", guest::live::kvm()) else {
//!     return;
//! };
//! # }
//! ```
//!
//! Every skip is printed. Where `RMAPSCOPE_LIVE_LOG` names a file, tests that ran and tests that
//! were skipped are appended to it. With `RMAPSCOPE_REQUIRE_LIVE=1` a skip is a failure.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::GuestError;
use crate::backing::{self, BackingError};
use crate::cgroup::{CgroupError, Memcg};
use crate::driver::{self, DriverError};
use crate::tracefs::{Tracefs, TracefsError};

/// Environment variable with the file that says which tests ran and which were skipped.
pub const LIVE_LOG: &str = "RMAPSCOPE_LIVE_LOG";
/// Environment variable that, set to 1, turns skips into failures.
pub const REQUIRE_LIVE: &str = "RMAPSCOPE_REQUIRE_LIVE";
/// What a line of that file begins with if the rest of it is a count, as JSON.
pub const COUNTED: &str = "counted: ";

/// What `probe` found, or `None` after saying loudly that `test` is skipped and why.
///
/// # Panics
/// If `probe` failed and live tests are required.
pub fn require<T, E: Display>(test: &str, probe: Result<T, E>) -> Option<T> {
    let reason = probe.as_ref().err().map(ToString::to_string);
    let found = where_possible(test, probe);
    let required = env::var_os(REQUIRE_LIVE).is_some_and(|value| value == OsStr::new("1"));
    if let (Some(reason), true) = (reason, required) {
        panic!("live tests are required: {test}: {reason}");
    }
    found
}

/// As [`require`], for what a good host may lack, such as DAMON: a skip is said as loudly, and is
/// no failure even where live tests are required. The kernel matrix says which of them must run.
pub fn where_possible<T, E: Display>(test: &str, probe: Result<T, E>) -> Option<T> {
    let reason = match probe {
        Ok(found) => {
            log(&format!("ran: {test}\n"));
            return Some(found);
        }
        Err(reason) => reason,
    };
    let line = format!("SKIPPED: {test}: {reason}\n");
    // Straight to stderr: the test harness shows captured output of failed tests only.
    let _ = io::stderr().lock().write_all(line.as_bytes());
    log(&line);
    None
}

/// Notes what independent witnesses counted of the same thing, so that a reader sees the numbers
/// behind a test that passed.
pub fn counted(test: &str, of: &str, by: &[(&str, u64)]) {
    let by: BTreeMap<&str, u64> = by.iter().copied().collect();
    let line = serde_json::json!({ "test": test, "of": of, "by": by });
    println!("{line}");
    log(&format!("{COUNTED}{line}\n"));
}

fn log(line: &str) {
    let Some(log) = env::var_os(LIVE_LOG) else {
        return;
    };
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&log)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!(
            "could not append to {LIVE_LOG} {}: {error}",
            Path::new(&log).display()
        );
    }
}

/// Lets one live test of this process run at a time, its probes included: they share the
/// process's cgroup, the host's settings and two CPUs.
pub fn exclusive() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process is root.
///
/// # Errors
/// The reason it is needed.
pub fn root() -> Result<(), &'static str> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err("needs root: run as root")
}

/// Whether KVM can be used.
///
/// # Errors
/// As for a guest.
pub fn kvm() -> Result<(), GuestError> {
    crate::vm::probe()
}

/// Whether this process can have a memory cgroup of its own.
///
/// # Errors
/// As for a guest with the driver reclaim.
pub fn memcg() -> Result<(), CgroupError> {
    Memcg::join().map(drop)
}

/// The temporary directory on a disk that file-backed guests use.
///
/// # Errors
/// As for a guest with a file backing.
pub fn disk() -> Result<PathBuf, BackingError> {
    backing::temporary_on_disk()
}

/// Whether KVM runs guests under shadow paging here, where rmap chains are as long as the aliases.
///
/// # Errors
/// The parameter that says otherwise.
pub fn shadow_paging() -> Result<(), String> {
    for parameter in ["kvm_intel/parameters/ept", "kvm_amd/parameters/npt"] {
        let value = fs::read_to_string(Path::new("/sys/module").join(parameter));
        if value.is_ok_and(|value| matches!(value.trim(), "Y" | "1")) {
            return Err(format!(
                "needs shadow paging: {parameter} is on, load that module with it off"
            ));
        }
    }
    Ok(())
}

/// Whether KVM runs a guest in a guest here, over nested paging.
///
/// # Errors
/// As for a nested guest.
pub fn nested() -> Result<(), GuestError> {
    crate::nested::probe()
}

/// Whether khugepaged runs here.
///
/// # Errors
/// As for a guest with the driver khugepaged.
pub fn khugepaged() -> Result<(), DriverError> {
    driver::check_khugepaged()
}

/// Whether MGLRU can be told to age a cgroup here.
///
/// # Errors
/// As for a guest with the driver MGLRU.
pub fn mglru() -> Result<(), DriverError> {
    driver::check_mglru()
}

/// Whether DAMON can be told to watch a guest here.
///
/// # Errors
/// As for a guest with the driver DAMON.
pub fn damon() -> Result<(), DriverError> {
    driver::check_damon()
}

/// Whether kernel events can be counted through tracefs.
///
/// # Errors
/// Why not.
pub fn tracefs() -> Result<Tracefs, TracefsError> {
    Tracefs::open()
}
