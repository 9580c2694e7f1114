//! Names of what a guest leaves on the host for a while, and whose they are.
//!
//! Everything is called `rmapscope-guest-<pid>`, so that the next guest can tell and sweep what a
//! killed one left. Only exactly this form is ever swept.

use std::path::Path;

const PREFIX: &str = "rmapscope-guest-";

/// The name of this process's things.
pub(crate) fn own() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Whether `name` has the form of a guest's name and its process is dead.
pub(crate) fn is_leftover(name: &str) -> bool {
    is_dead(name, PREFIX)
}

/// Whether `name` is `prefix` followed by the id of a process that is dead.
pub(crate) fn is_dead(name: &str, prefix: &str) -> bool {
    let Some(pid) = name.strip_prefix(prefix) else {
        return false;
    };
    let plain = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    plain && pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_of_a_dead_process_is_a_leftover() {
        // Above the largest pid a 64-bit kernel gives out.
        assert!(is_leftover("rmapscope-guest-4294967295"));
        assert!(!is_leftover(&own()), "our own process is alive");
        for name in [
            "rmapscope-guest-",
            "rmapscope-guest-4294967295x",
            "rmapscope-guest-+1",
            "rmapscope-guest-99999999999999999999",
            "xrmapscope-guest-4294967295",
            "rmapscope-guest",
            "",
        ] {
            assert!(!is_leftover(name), "{name:?}");
        }
    }
}
