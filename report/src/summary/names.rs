//! Schemes by name, and how tables mark those that are not one of many.

/// Schemes that report pages old on whose chains they did not look.
const LOOK_AWAY: [&str; 2] = ["single-skip", "tiered-was-fast"];

/// What the mark at such a scheme means.
pub(crate) const LOOKS_AWAY: &str = "† is cheap because it does not look at the chains it should: \
    it reports pages old that are not. What it saves is no saving.";

/// Whether a scheme looks at every chain; one that does not is cheap for that alone.
pub(crate) fn looks_at_all(scheme: &str) -> bool {
    !LOOK_AWAY.contains(&scheme)
}

/// What follows a scheme's name: `*` for that of the kernel, `†` for one that looks away.
pub(crate) fn mark(scheme: &str, is_kernels_own: bool) -> &'static str {
    if is_kernels_own {
        " *"
    } else if looks_at_all(scheme) {
        ""
    } else {
        " †"
    }
}
