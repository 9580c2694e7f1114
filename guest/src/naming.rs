//! Names of what a guest leaves on the host for a while, and whose they are.
//!
//! Everything is called `rmapscope-guest-<pid>`, so that the next guest can tell and sweep what a
//! killed one left. What the kernel may still know after it was removed, such as a cgroup with
//! pages charged to it, is called `rmapscope-guest-<pid>.<number>`, and no name comes twice. Only
//! exactly these forms are ever swept.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "rmapscope-guest-";

/// The name of this process's things.
pub(crate) fn own() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// A name of this process's that was never used before.
pub(crate) fn own_new() -> String {
    new(PREFIX)
}

/// `prefix`, this process and a number that was never used before.
pub(crate) fn new(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}.{number}", std::process::id())
}

/// Whether `name` has the form of a guest's name and its process is dead.
pub(crate) fn is_leftover(name: &str) -> bool {
    is_dead(name, PREFIX)
}

/// Whether `name` is `prefix` followed by the id of a process that is dead, with or without a
/// number.
pub(crate) fn is_dead(name: &str, prefix: &str) -> bool {
    let Some(rest) = name.strip_prefix(prefix) else {
        return false;
    };
    let (pid, number) = rest.split_once('.').unwrap_or((rest, "0"));
    is_number(pid) && is_number(number) && !Path::new("/proc").join(pid).exists()
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_of_a_dead_process_is_a_leftover() {
        // Above the largest pid a 64-bit kernel gives out.
        assert!(is_leftover("rmapscope-guest-4294967295"));
        assert!(is_leftover("rmapscope-guest-4294967295.7"));
        assert!(!is_leftover(&own()), "our own process is alive");
        assert!(!is_leftover(&own_new()), "our own process is alive");
        for name in [
            "rmapscope-guest-",
            "rmapscope-guest-4294967295x",
            "rmapscope-guest-4294967295.",
            "rmapscope-guest-4294967295.x",
            "rmapscope-guest-4294967295.0.0",
            "rmapscope-guest-.0",
            "rmapscope-guest-+1",
            "rmapscope-guest-99999999999999999999",
            "xrmapscope-guest-4294967295",
            "rmapscope-guest",
            "",
        ] {
            assert!(!is_leftover(name), "{name:?}");
        }
    }

    #[test]
    fn no_name_comes_twice() {
        assert_ne!(own_new(), own_new());
    }
}
