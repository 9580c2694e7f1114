//! Schemes' names in tables, with the marks of those that are not one of many.

/// What the mark at a scheme that passes over chains means.
const PASSES_OVER: &str = "† is cheap because it passes over chains that it should look at: \
    pages are reported old that are not, or stay young that were to be made old. What it saves \
    is no saving.";

/// Which schemes of a result are marked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks<'a> {
    /// The one that the recorded kernel uses, marked `*`.
    pub(crate) kernels_own: Option<&'a str>,
    /// Those that pass over chains, as the result's context says, marked `†`.
    pub(crate) pass_over: &'a [String],
}

impl Marks<'_> {
    /// The scheme's name and its mark.
    pub(crate) fn named(&self, scheme: &str) -> String {
        let mark = if self.kernels_own == Some(scheme) {
            " *"
        } else if self.passes_over(scheme) {
            " †"
        } else {
            ""
        };
        format!("{scheme}{mark}")
    }

    /// What `†` means, where one of these schemes has it.
    pub(crate) fn note<'s>(
        &self,
        mut schemes: impl Iterator<Item = &'s str>,
    ) -> Option<&'static str> {
        schemes
            .any(|scheme| self.passes_over(scheme))
            .then_some(PASSES_OVER)
    }

    fn passes_over(&self, scheme: &str) -> bool {
        self.pass_over.iter().any(|own| own == scheme)
    }
}
