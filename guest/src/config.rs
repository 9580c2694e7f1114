//! What guest to make, and whether such a guest can exist.
//!
//! Invariant: a [`GuestConfig`] that passed [`GuestConfig::validate`] fits the guest's address
//! spaces, so that the layout can be computed from it without overflow.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::layout::{self, PAGE_SIZE};

/// The longest chain KVM keeps: it zaps an rmap that grows beyond 1000 SPTEs.
pub const MAX_ALIASES: u64 = 1000;

/// Pages in a huge page.
const HUGE_PAGE_PAGES: u64 = 512;

/// Host memory that one SPTE of ours costs: the guest's own PTE, the shadow PTE with what KVM
/// remembers about it, and its share of a chain descriptor, rounded up. In bytes.
const BYTES_PER_SPTE: u64 = 40;

/// What the guest's data pages are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// A shared mapping of an unlinked file on a disk file system: can be reclaimed without swap.
    /// khugepaged does not collapse it, and reads bring it in as large folios where they exist.
    File,
    /// Private anonymous memory, kept at 4 KiB pages until a driver allows huge ones.
    Anonymous,
}

/// Who makes the kernel age the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// Nobody: whatever else runs on the host.
    None,
    /// Reclaim of a memory cgroup: `clear_flush_young`, mixed with eviction.
    Reclaim,
    /// khugepaged looking at ranges it may not collapse: `test_young`, chains stay as they are.
    Khugepaged,
    /// MGLRU making a new generation: `clear_young`, chains stay as they are.
    Mglru,
    /// DAMON watching the pages: `clear_young` and `test_young`, chains stay as they are.
    Damon,
}

impl Driver {
    /// The name used on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Reclaim => "reclaim",
            Self::Khugepaged => "khugepaged",
            Self::Mglru => "mglru",
            Self::Damon => "damon",
        }
    }

    /// The backing this driver works on where the caller does not choose.
    #[must_use]
    pub fn default_backing(self) -> Backing {
        match self {
            Self::Reclaim | Self::Mglru => Backing::File,
            Self::None | Self::Khugepaged | Self::Damon => Backing::Anonymous,
        }
    }

    /// The pause between two iterations that keeps chains filled.
    #[must_use]
    pub fn default_pause(self) -> Duration {
        match self {
            Self::None | Self::Reclaim => Duration::from_millis(150),
            Self::Khugepaged | Self::Mglru | Self::Damon => Duration::from_millis(20),
        }
    }
}

impl Backing {
    /// The name used on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Anonymous => "anonymous",
        }
    }
}

/// A guest to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// Data pages of 4 KiB.
    pub pages: u64,
    /// Virtual addresses for each data page, so SPTEs per gfn under shadow paging. 1 to
    /// [`MAX_ALIASES`].
    pub aliases: u64,
    /// Pages of a further memslot that the guest never touches, behind the data pages: rmap heads
    /// without SPTEs.
    pub spare_pages: u64,
    /// What the data pages are made of.
    pub backing: Backing,
    /// Whether the guest is an L1 that runs an L2 over a nested page table of its own. The aliases
    /// are then gpas of L2, each through a page-table page of its own, so SPTEs for each gfn in
    /// rmaps while L1's own accesses go through the TDP MMU.
    pub nested: bool,
    /// Whether the guest writes to each page (it reads otherwise).
    pub write: bool,
    /// Where a file backing is made; `None` tries the temporary directories.
    pub dir: Option<PathBuf>,
    /// How long the vCPU sleeps between two passes; zero for a guest that never leaves its loop.
    pub idle: Duration,
    /// Who ages the memory. Prepared at the start, put to work by
    /// [`Guest::drive_once`](crate::Guest::drive_once) or
    /// [`Guest::start_driving`](crate::Guest::start_driving).
    pub driver: Driver,
    /// Pause between two iterations of a driving loop.
    pub driver_pause: Duration,
    /// Whether a driving loop keeps the guest paused while it ages, and lets it touch everything
    /// again before the next iteration: every callback then finds the chain full, but nothing
    /// runs beside it.
    pub hold: bool,
    /// How long the first pass may take, and a pass that refills chains.
    pub pass_timeout: Duration,
}

impl GuestConfig {
    /// A guest of `pages` × `aliases` without a driver, other values at their defaults.
    #[must_use]
    pub fn new(pages: u64, aliases: u64) -> Self {
        Self {
            pages,
            aliases,
            ..Self::default()
        }
    }

    /// The same guest with `driver`, and the backing and pause that suit it.
    #[must_use]
    pub fn with_driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self.backing = driver.default_backing();
        self.driver_pause = driver.default_pause();
        self
    }

    /// Bytes of data memory.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.pages.saturating_mul(PAGE_SIZE)
    }

    /// The same guest as an L1 whose L2 touches the pages.
    #[must_use]
    pub fn nested(mut self) -> Self {
        self.nested = true;
        self
    }

    /// Times each data page is mapped in the guest's page tables; L1 maps it once for itself.
    pub(crate) fn mappings(&self) -> u64 {
        self.aliases + u64::from(self.nested)
    }

    /// SPTEs the data pages have when every alias of every page is mapped.
    #[must_use]
    pub fn data_sptes(&self) -> u64 {
        self.pages.saturating_mul(self.aliases)
    }

    /// Checks everything that does not depend on the host.
    ///
    /// # Errors
    /// The first rule the configuration breaks.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.pages == 0 {
            return Err(ConfigError::NoPages);
        }
        if self.aliases == 0 {
            return Err(ConfigError::NoAliases);
        }
        if self.aliases > MAX_ALIASES {
            return Err(ConfigError::TooManyAliases(self.aliases));
        }
        if self.driver == Driver::Khugepaged && self.backing != Backing::Anonymous {
            return Err(ConfigError::KhugepagedNeedsAnonymous);
        }
        if self.driver == Driver::Khugepaged && self.pages < HUGE_PAGE_PAGES {
            return Err(ConfigError::KhugepagedNeedsHugeRange(self.pages));
        }
        if self.spare_pages > layout::max_spare_pages(self.pages) {
            return Err(ConfigError::SparePages {
                spare: self.spare_pages,
                most: layout::max_spare_pages(self.pages),
            });
        }
        let most = layout::max_pages(self.aliases, self.nested);
        if self.pages > most {
            return Err(ConfigError::AddressSpace {
                pages: self.pages,
                aliases: self.aliases,
                most,
            });
        }
        Ok(())
    }

    /// Checks that the guest fits `available` bytes of host memory, leaving a tenth of it free.
    ///
    /// # Errors
    /// [`ConfigError::HostMemory`] with what would fit.
    pub fn validate_memory(&self, available: u64) -> Result<(), ConfigError> {
        let usable = available / 10 * 9;
        let per_page = PAGE_SIZE + BYTES_PER_SPTE * self.mappings();
        let needed = self.pages.saturating_mul(per_page);
        if needed <= usable {
            return Ok(());
        }
        Err(ConfigError::HostMemory {
            pages: self.pages,
            aliases: self.aliases,
            needed_mib: needed >> 20,
            usable_mib: usable >> 20,
            most: usable / per_page,
        })
    }
}

impl Default for GuestConfig {
    /// 2048 pages of one alias each: few enough that a chain is refilled between two reclaims.
    /// The vCPU sleeps a millisecond between passes, so that a sampler on a host with two CPUs
    /// sees more than the guest.
    fn default() -> Self {
        Self {
            pages: 2048,
            aliases: 1,
            spare_pages: 0,
            backing: Backing::Anonymous,
            nested: false,
            write: false,
            dir: None,
            idle: Duration::from_millis(1),
            driver: Driver::None,
            driver_pause: Driver::None.default_pause(),
            hold: false,
            pass_timeout: Duration::from_secs(60),
        }
    }
}

/// A configuration that no guest, or no guest on this host, can satisfy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No data pages.
    #[error("a guest of 0 pages has nothing to age: ask for at least 1 page")]
    NoPages,
    /// No aliases.
    #[error("a guest with 0 aliases maps nothing: ask for at least 1 alias per page")]
    NoAliases,
    /// Chains longer than KVM keeps.
    #[error(
        "{0} aliases per page are too many: KVM zaps an rmap beyond {MAX_ALIASES} SPTEs, ask for \
         at most {MAX_ALIASES}"
    )]
    TooManyAliases(u64),
    /// khugepaged looks at anonymous memory only.
    #[error("the khugepaged driver works on anonymous memory only: leave --backing out")]
    KhugepagedNeedsAnonymous,
    /// khugepaged looks at whole huge page ranges only.
    #[error(
        "khugepaged looks at ranges of {HUGE_PAGE_PAGES} pages only and the guest has {0}: ask for \
         at least {HUGE_PAGE_PAGES} pages"
    )]
    KhugepagedNeedsHugeRange(u64),
    /// The spare memslot does not fit behind the data pages.
    #[error("{spare} spare pages do not fit the guest's address space: at most {most} do")]
    SparePages {
        /// Pages asked for.
        spare: u64,
        /// Pages that would fit.
        most: u64,
    },
    /// The guest's address spaces are too small.
    #[error(
        "{pages} pages with {aliases} aliases do not fit the guest's address space: at most {most} \
         pages fit with {aliases} aliases"
    )]
    AddressSpace {
        /// Pages asked for.
        pages: u64,
        /// Aliases asked for.
        aliases: u64,
        /// Pages that would fit.
        most: u64,
    },
    /// The host's memory is too small.
    #[error(
        "{pages} pages with {aliases} aliases need about {needed_mib} MiB and {usable_mib} MiB are \
         usable on this host: at most {most} pages fit with {aliases} aliases"
    )]
    HostMemory {
        /// Pages asked for.
        pages: u64,
        /// Aliases asked for.
        aliases: u64,
        /// Memory the guest needs.
        needed_mib: u64,
        /// Memory it may use.
        usable_mib: u64,
        /// Pages that would fit.
        most: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_own_error() {
        assert_eq!(GuestConfig::new(0, 1).validate(), Err(ConfigError::NoPages));
        assert_eq!(
            GuestConfig::new(1, 0).validate(),
            Err(ConfigError::NoAliases)
        );
        assert_eq!(
            GuestConfig::new(1, 1001).validate(),
            Err(ConfigError::TooManyAliases(1001))
        );
        let mut config = GuestConfig::new(511, 1).with_driver(Driver::Khugepaged);
        assert_eq!(
            config.validate(),
            Err(ConfigError::KhugepagedNeedsHugeRange(511))
        );
        config.pages = 512;
        assert_eq!(config.validate(), Ok(()));
        config.backing = Backing::File;
        assert_eq!(
            config.validate(),
            Err(ConfigError::KhugepagedNeedsAnonymous)
        );
    }

    #[test]
    fn too_large_a_guest_is_told_what_fits() {
        for aliases in [1, 64, MAX_ALIASES] {
            let Err(ConfigError::AddressSpace { most, .. }) =
                GuestConfig::new(u64::MAX, aliases).validate()
            else {
                panic!("u64::MAX pages were accepted");
            };
            assert_eq!(GuestConfig::new(most, aliases).validate(), Ok(()));
            assert!(GuestConfig::new(most + 1, aliases).validate().is_err());
            let nested = GuestConfig::new(most + 1, aliases).nested();
            assert!(nested.validate().is_err(), "{aliases} aliases, nested");
        }
    }

    #[test]
    fn what_is_said_to_fit_the_host_does_fit() {
        let available = 1 << 30;
        let Err(ConfigError::HostMemory { most, .. }) =
            GuestConfig::new(1 << 20, 64).validate_memory(available)
        else {
            panic!("4 GiB of data fitted 1 GiB");
        };
        assert_eq!(
            GuestConfig::new(most, 64).validate_memory(available),
            Ok(())
        );
        assert!(
            GuestConfig::new(most + 1, 64)
                .validate_memory(available)
                .is_err()
        );
    }
}
