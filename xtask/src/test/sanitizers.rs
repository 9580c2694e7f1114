//! ThreadSanitizer and Miri over rmap's tests.
//!
//! ThreadSanitizer needs the standard library built with it too: stable rustc does
//! that, given the library's source. Miri comes with nightly toolchains only, so
//! where there is none its step is skipped and says so.

use std::process::{Command, Stdio};

use anyhow::Result;

use super::{Check, Step, target_folder};
use crate::{build_ebpf::core_source, process};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The scheme whose plain-store unlock only x86-64 orders: a race by the language's
/// rules, and reported as one.
const RELIES_ON_THE_MACHINE: &str = "bitlock-seed";

/// The modules with pointers, whose unit tests Miri runs. A whole MMU under Miri, a
/// thousand times slower, takes longer than everything else together.
const MIRI_TESTS: [&str; 3] = ["pte_list::tests", "head::tests", "spte::tests"];
/// Cases of a property test under Miri.
const MIRI_CASES: &str = "2";

/// Adds the steps; a tool that cannot be had is a skipped step with its reason.
pub(super) fn add(steps: &mut Vec<Step>) -> Result<()> {
    for check in tsan()? {
        steps.push(Step {
            name: "tsan",
            check,
        });
    }
    steps.push(Step {
        name: "miri",
        check: miri()?,
    });
    Ok(())
}

/// The stress under ThreadSanitizer, and before it the races it must report: a plain
/// one, and that of the scheme which relies on the machine.
fn tsan() -> Result<Vec<Check>> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        let reason = "ThreadSanitizer is set up for x86-64 Linux";
        return Ok(vec![Check::Skipped(reason.to_owned())]);
    }
    let library = match core_source::std_source() {
        Ok(library) => library,
        Err(error) => {
            let reason = format!("the standard library's source cannot be had: {error:#}");
            return Ok(vec![Check::Skipped(reason)]);
        }
    };
    let folder = target_folder()?.join("tsan");
    let test = |name, schemes: (&str, &str)| {
        let mut command = process::cargo();
        command
            .args(["test", "-Zbuild-std", "--target", TARGET])
            .args(["--package", "rmap", "--release", "--test", name])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=thread")
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", &library)
            .env("CARGO_TARGET_DIR", &folder)
            .env("TSAN_OPTIONS", "halt_on_error=1")
            .env(schemes.0, schemes.1);
        command
    };
    let (without, only) = (
        ("RMAPSCOPE_STRESS_WITHOUT", RELIES_ON_THE_MACHINE),
        ("RMAPSCOPE_STRESS_ONLY", RELIES_ON_THE_MACHINE),
    );
    let mut control = test("race_control", without);
    control.args(["--", "--ignored"]);
    let race = "ThreadSanitizer: data race";
    Ok(vec![
        Check::Reports(control, race),
        Check::Reports(test("stress", only), race),
        Check::Succeeds(test("stress", without)),
    ])
}

/// The unit tests of rmap's chains, head words and SPTEs under Miri.
fn miri() -> Result<Check> {
    let miri = |argument: &str| {
        let mut command = Command::new("cargo");
        command
            .current_dir(process::workspace())
            .args(["+nightly", "miri", argument]);
        command
    };
    let mut probe = miri("--version");
    probe.stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        let reason = "there is no nightly toolchain with Miri; `rustup +nightly component add \
                      miri rust-src` installs it";
        return Ok(Check::Skipped(reason.to_owned()));
    }
    let mut command = miri("test");
    command
        .args(["--package", "rmap", "--lib", "--"])
        .args(MIRI_TESTS)
        .env("PROPTEST_CASES", MIRI_CASES)
        .env(
            "MIRIFLAGS",
            "-Zmiri-strict-provenance -Zmiri-disable-isolation",
        )
        .env("CARGO_TARGET_DIR", target_folder()?.join("miri"));
    Ok(Check::Succeeds(command))
}
