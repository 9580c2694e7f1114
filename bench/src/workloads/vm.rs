//! A modelled VM whose pages all have chains of one length.
//!
//! SPTEs lie as the kernel lays them out: one 4 KiB shadow page of 512 SPTEs
//! per alias, the SPTEs of one page at the same index of different shadow
//! pages. Aliases are mapped one after another over all pages, as one guest
//! process after another would map them, so the descriptors of a chain are not
//! neighbours in memory.

use anyhow::{Context as _, Result};
use rmap::{Access, Gfn, GfnRange, Level, Mapping, Mmu, Vcpu};

use crate::{mmu_lock, subject};

/// Bytes of a head word and of an SPTE.
const WORD_BYTES: u64 = 8;
/// Bytes of a chain descriptor and the SPTEs it holds.
const DESC: (u64, u64) = (128, 14);
/// Bytes of a shadow page and the SPTEs it holds.
const SHADOW_PAGE: (u64, u64) = (4096, 512);

/// Bytes that a walk over one page's chain may read: head, descriptors, SPTEs.
#[must_use]
pub fn walked_bytes_per_gfn(chain_len: u32) -> u64 {
    let sptes = u64::from(chain_len);
    let descs = if sptes > 1 { sptes.div_ceil(DESC.1) } else { 0 };
    WORD_BYTES + sptes * WORD_BYTES + descs * DESC.0
}

/// Memory a VM takes, whole shadow pages included.
#[must_use]
pub fn resident_bytes(gfns: u64, chain_len: u32) -> u64 {
    let columns = u64::from(chain_len.max(1));
    let sptes = u64::from(chain_len);
    let walked = walked_bytes_per_gfn(chain_len) - sptes * WORD_BYTES;
    gfns * walked + columns * gfns.div_ceil(SHADOW_PAGE.1) * SHADOW_PAGE.0
}

/// A VM under one scheme, all of its pages mapped equally often unless said otherwise.
pub struct Vm {
    mmu: Box<dyn Mmu>,
}

impl Vm {
    /// Maps all pages `chain_len` times at 4 KiB; every SPTE is young afterwards.
    ///
    /// # Errors
    /// When there is no such scheme, or the model refuses a mapping.
    pub fn build(scheme: &str, gfns: u64, chain_len: u32) -> Result<Self> {
        Self::build_mixed(scheme, gfns, chain_len, |_| chain_len)
    }

    /// The same with a chain length for each page, none above `longest`.
    ///
    /// # Errors
    /// As for [`build`](Self::build).
    pub fn build_mixed(
        scheme: &str,
        gfns: u64,
        longest: u32,
        chain_len: impl Fn(u64) -> u32,
    ) -> Result<Self> {
        let vm = Self::unmapped(scheme, gfns, longest)?;
        let mut vcpu = Vcpu::new();
        for alias in 0..longest {
            for gfn in (0..gfns).filter(|&gfn| alias < chain_len(gfn)) {
                vm.mmu.fault(&mut vcpu, mapping(gfn, alias), Access::Read)?;
            }
        }
        Ok(vm)
    }

    /// [`build`](Self::build) with pages of this level, which divide `gfns`.
    ///
    /// # Errors
    /// As for [`build`](Self::build).
    pub fn build_at(level: Level, scheme: &str, gfns: u64, chain_len: u32) -> Result<Self> {
        let vm = Self::unmapped(scheme, gfns, chain_len)?;
        let mut vcpu = Vcpu::new();
        for alias in 0..chain_len {
            for gfn in (0..gfns).step_by(level.npages() as usize) {
                let page = Mapping::new(Gfn(gfn), level, alias);
                vm.mmu.fault(&mut vcpu, page, Access::Read)?;
            }
        }
        Ok(vm)
    }

    fn unmapped(scheme: &str, gfns: u64, longest: u32) -> Result<Self> {
        let subject =
            subject::subject(scheme).with_context(|| format!("there is no scheme '{scheme}'"))?;
        let mmu = subject.build(&mmu_lock::config(gfns, longest.max(1)))?;
        Ok(Self { mmu })
    }

    /// The MMU, to be shared between threads.
    #[must_use]
    pub fn mmu(&self) -> &dyn Mmu {
        &*self.mmu
    }

    /// Makes this share of the range's SPTEs young and the others old.
    pub fn set_young(&self, start: u64, pages: u64, share: f64) {
        let permille = (share.clamp(0.0, 1.0) * 1000.0).round() as u16;
        self.mmu
            .set_young_share(range(start, pages), permille, start);
    }
}

/// A range of `pages` pages.
#[inline(always)]
#[must_use]
pub fn range(start: u64, pages: u64) -> GfnRange {
    GfnRange::pages(Gfn(start), pages)
}

/// One of a page's SPTEs.
#[inline(always)]
#[must_use]
pub fn mapping(gfn: u64, alias: u32) -> Mapping {
    Mapping::new(Gfn(gfn), Level::Size4K, alias)
}

#[cfg(test)]
mod tests {
    use rmap::memslot::Memslots;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_kernels_layout() {
        let walked: Vec<_> = [0, 1, 2, 14, 15, 64].map(walked_bytes_per_gfn).to_vec();
        assert_eq!(
            walked,
            [
                8,
                16,
                8 + 16 + 128,
                8 + 112 + 128,
                8 + 120 + 256,
                8 + 512 + 640
            ]
        );
        assert_eq!(resident_bytes(512, 1), 512 * 8 + 4096);
        assert_eq!(resident_bytes(513, 2), 513 * 136 + 4 * 4096);
    }

    #[test]
    fn a_chains_sptes_lie_at_one_index_of_different_shadow_pages() {
        let slots = Memslots::without_heads(&mmu_lock::config(1024, 3)).unwrap();
        let place = |gfn, alias| {
            let spte = slots.slot(Gfn(gfn)).unwrap().spte(mapping(gfn, alias));
            let address = spte.unwrap().addr().get() as u64;
            (
                address / SHADOW_PAGE.0,
                address % SHADOW_PAGE.0 / WORD_BYTES,
            )
        };
        for gfn in [0, 1, 511, 512, 1023] {
            let [one, two, three] = [0, 1, 2].map(|alias| place(gfn, alias));
            assert!([one, two, three].iter().all(|p| p.1 == gfn % SHADOW_PAGE.1));
            assert!(one.0 != two.0 && two.0 != three.0 && three.0 != one.0);
        }
        // And the SPTEs of 512 pages in one.
        assert_eq!(place(0, 1).0, place(511, 1).0);
        assert_ne!(place(511, 1).0, place(512, 1).0);
    }

    #[test]
    fn every_page_of_every_scheme_gets_the_chain_asked_for() {
        for scheme in subject::subjects() {
            for chain_len in [0, 1, 15].map(|n: u32| n.min(scheme.max_aliases)) {
                let vm = Vm::build(scheme.name, 96, chain_len).unwrap();
                for gfn in [0, 63, 95] {
                    let len = vm.mmu().chain_len(Gfn(gfn), Level::Size4K).unwrap();
                    assert_eq!(len, chain_len, "{}", scheme.name);
                }
                vm.mmu().verify().unwrap();
            }
        }
    }

    #[test]
    fn pages_of_every_level_get_the_chain_asked_for() {
        for level in Level::ALL {
            let gfns = 2 * level.npages();
            let vm = Vm::build_at(level, "bitlock", gfns, 3).unwrap();
            for other in Level::ALL {
                let expected = if other == level { 3 } else { 0 };
                for gfn in [0, gfns - 1] {
                    let len = vm.mmu().chain_len(Gfn(gfn), other).unwrap();
                    assert_eq!(len, expected, "{level:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_scheme_is_an_error() {
        assert!(Vm::build("no-such-scheme", 64, 1).is_err());
    }

    #[test]
    fn the_young_share_is_what_was_set() {
        let vm = Vm::build("rwlock-write", 64, 4).unwrap();
        let young = || {
            (0..64)
                .filter(|&g| vm.mmu().test_age(range(g, 1)).young)
                .count()
        };
        assert_eq!(young(), 64);
        vm.set_young(0, 64, 0.0);
        assert_eq!(young(), 0);
        vm.set_young(0, 32, 1.0);
        assert_eq!(young(), 32);
    }
}
