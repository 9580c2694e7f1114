//! In which order KVM asks its two MMUs about a memslot.

use super::Symbols;

/// The order, and what it takes to tell the two MMUs' parts of a walk apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WalkOrder<'a> {
    /// Up to Linux 6.14: the entry of the TDP MMU's function divides the walk.
    RmapsFirst,
    /// From 6.15 on: the TDP MMU's part ends where this function, that ages the rmaps,
    /// begins.
    TdpFirst(&'a str),
}

impl Symbols {
    /// The running kernel's order, from the functions it has.
    ///
    /// # Errors
    /// Why the parts cannot be told apart.
    pub(crate) fn walk_order(&self) -> Result<WalkOrder<'_>, String> {
        // Passed by its address, so never inlined, for as long as there was one.
        if self.has("kvm_age_rmap") {
            return Ok(WalkOrder::RmapsFirst);
        }
        let rmaps = self.entered_as("kvm_rmap_age_gfn_range");
        let inlined = "kvm_rmap_age_gfn_range, where the TDP MMU's part ends, was inlined away";
        rmaps
            .map(WalkOrder::TdpFirst)
            .ok_or_else(|| inlined.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_told_by_the_functions_there_are() {
        let with = |name: &str| {
            let text = format!("ffffffff81000100 T kvm_age_gfn\nffffffff81000200 t {name}\n");
            Symbols::parse(&text).expect("symbols")
        };
        assert_eq!(with("kvm_age_rmap").walk_order(), Ok(WalkOrder::RmapsFirst));
        let clone = "kvm_rmap_age_gfn_range.isra.0";
        let cloned = with(clone);
        assert_eq!(cloned.walk_order(), Ok(WalkOrder::TdpFirst(clone)));
        for none in ["something", "kvm_rmap_age_gfn_range.cold"] {
            let error = with(none).walk_order().expect_err("no entry");
            assert!(error.contains("inlined away"), "{error}");
        }
    }
}
