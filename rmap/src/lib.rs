//! KVM's reverse map under competing lock schemes, as a library.
//!
//! The reverse map (rmap) answers "which SPTEs map this gfn?". Page aging asks it
//! thousands of times a second while vCPU faults and zaps change it, and the
//! question this crate exists for is what has to be held while aging walks it.
//! Every answer that was ever proposed is a [scheme](schemes()); all of them run
//! over the same head words, descriptors, SPTEs and mutators, so that they differ
//! in their locking and in nothing else.
//!
//! The layers, from the bottom:
//!
//! | module | what it is |
//! |---|---|
//! | [`spte`] | one shadow page table entry: Present, Accessed, Dirty, access tracking |
//! | [`head`] | the 8-byte head word of one rmap, with its MANY and LOCKED bits |
//! | [`desc`] | the 128-byte chain descriptor and the per-vCPU cache of them |
//! | [`pte_list`] | add, remove, zap all, count and walk one chain |
//! | [`memslot`] | heads per level and the shadow pages of one memslot |
//! | [`scheme`](mod@scheme) | the trait a lock scheme implements |
//! | [`schemes`](mod@schemes) | one module per scheme, and the registry |
//! | [`shadow_mmu`] | the MMU around them: faults, zaps, unmaps, aging |
//! | [`tdp_mmu`] | the MMU without rmaps: page tables walked without a lock |
//! | [`tiered_mmu`] | both behind one notifier, as a host of nested guests has them |
//! | [`lookaround()`] | what MGLRU does around a young page |
//!
//! Users need [`scheme()`], [`MmuConfig`], [`Vcpu`] and the [`Mmu`] trait:
//!
//! ```
//! use rmap::{Access, Gfn, GfnRange, Level, Mapping, MmuConfig, Vcpu};
//!
//! # fn main() -> Result<(), rmap::RmapError> {
//! # #[cfg(not(any(loom, shuttle)))] {
//! let bitlock = rmap::scheme("bitlock").ok_or(rmap::RmapError::NoAliases)?;
//! let mmu = (bitlock.build)(&MmuConfig::new(Gfn(0), 512, 2))?;
//! let mut vcpu = Vcpu::new();
//! mmu.fault(&mut vcpu, Mapping::new(Gfn(7), Level::Size4K, 1), Access::Read)?;
//! assert!(mmu.age(GfnRange::single(Gfn(7))).young);
//! assert!(!mmu.test_age(GfnRange::single(Gfn(7))).young);
//! # }
//! # Ok(()) }
//! ```
//!
//! The protocol, the invariants (I-chain, I-bit, I-life, I-young, I-zap,
//! I-progress) and the reason for every memory ordering are in `docs/rmap.md`.

#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod config;
pub mod desc;
pub mod error;
pub mod gfn;
pub mod head;
#[expect(unsafe_code, reason = "heads are read several at a time")]
#[expect(
    clippy::indexing_slicing,
    reason = "positions come from the very heads they are used for"
)]
mod heads;
mod lookaround;
pub mod memslot;
pub mod mmu;
pub mod mmu_lock;
#[allow(unsafe_code, reason = "a prefetch instruction, where there is one")]
mod prefetch;
#[expect(unsafe_code, reason = "chains are pointers")]
pub mod pte_list;
mod ranges;
#[expect(unsafe_code, reason = "what left a chain is freed")]
pub mod reclaim;
#[expect(
    unsafe_code,
    reason = "what schemes promise of the pointers they follow"
)]
pub mod scheme;
#[expect(unsafe_code, reason = "each keeps the promise of `Scheme`")]
pub mod schemes;
#[expect(unsafe_code, reason = "chains are pointers")]
pub mod shadow_mmu;
pub mod spte;
#[cfg_attr(
    loom,
    expect(unsafe_code, reason = "the canaries of a model are shared")
)]
pub mod sync;
#[expect(unsafe_code, reason = "tables are pointers")]
pub mod tdp_mmu;
pub mod tiered_mmu;
pub mod vcpu;
#[expect(unsafe_code, reason = "chains are pointers")]
mod verify;

pub use config::{AccessedBits, LockKind, MemslotConfig, MmuConfig};
pub use error::{PteListError, RmapError, Violation};
pub use gfn::{Gfn, GfnRange, Level, Mapping};
pub use lookaround::{LOOKAROUND_PAGES, Lookaround, lookaround};
pub use mmu::{Access, Aging, FaultOutcome, GivenPage, Mmu, Zapped};
pub use schemes::{Mmus, SchemeInfo, ablations, scheme, schemes};
pub use vcpu::Vcpu;
