//! The command line of the `guest` binary.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use guest::{Backing, Driver, GuestConfig};

const EXAMPLES: &str = "\
Examples:
  guest run --pages 2048 --aliases 16 --seconds 10
      2048 pages, each mapped at 16 addresses; nobody ages them but the host itself

  guest run --aliases 16 --driver reclaim --hold --seconds 10
      reclaim ages the pages while the guest stands still: chains are full at every callback

  guest run --nested --aliases 4 --seconds 10
      an L1 that maps each page at 4 addresses of its L2, whose accesses make rmaps

  guest run --driver khugepaged --json --until-stdin-closes
      khugepaged tests the pages until the parent goes; one JSON line when ready, one at the end

Exit codes: 0 the guest ran as asked, 1 something failed, 2 wrong usage.";

/// A tiny real KVM guest whose memory the kernel is made to age.
#[derive(Debug, Parser)]
#[command(name = "guest", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one guest until its time is over, a signal arrives or stdin closes.
    #[command(after_help = EXAMPLES)]
    Run(RunArgs),
}

/// Options of `guest run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Data pages of 4 KiB.
    #[arg(long, default_value_t = GuestConfig::default().pages)]
    pages: u64,

    /// Pages of a further memslot that the guest never touches: rmap heads without SPTEs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    spare_pages: u64,

    /// Addresses each page is mapped at: the SPTEs per gfn under shadow paging and for a nested
    /// guest, 1 to 1000.
    #[arg(long, default_value_t = 1)]
    aliases: u64,

    /// Be an L1 whose L2 touches the pages over a nested page table, at each alias: rmaps under
    /// two-dimensional paging. Needs SVM with kvm_amd nested=1.
    #[arg(long)]
    nested: bool,

    /// Who makes the kernel age the pages.
    #[arg(long, value_enum, default_value_t = Driver::None)]
    driver: Driver,

    /// Stop after this many seconds; without it only a signal or stdin ends the guest.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: Option<u64>,

    /// What the pages are made of [default: file for reclaim, anonymous otherwise].
    #[arg(long, value_enum)]
    backing: Option<Backing>,

    /// Write to the pages instead of reading them.
    #[arg(long)]
    write: bool,

    /// Pause between two iterations of the driver, in milliseconds [default: 0 with --hold, else
    /// 150 for reclaim and 20 for the others].
    #[arg(long, value_name = "MS")]
    pause_ms: Option<u64>,

    /// Keep the guest paused while the driver ages, and let it refill its chains after.
    #[arg(long)]
    hold: bool,

    /// Sleep of the vCPU between two passes, in microseconds; 0 keeps a whole CPU busy.
    #[arg(long, value_name = "US", default_value_t = 1000)]
    idle_us: u64,

    /// Directory on a disk for file-backed pages [default: a temporary directory].
    #[arg(long)]
    dir: Option<PathBuf>,

    /// Print one JSON line when the guest is ready and one when it has ended.
    #[arg(long)]
    pub(crate) json: bool,

    /// For every line on stdin age once, with the guest paused, and tell how long that took and how
    /// far the guest is, instead of aging in a loop.
    #[arg(long, requires = "until_stdin_closes", conflicts_with_all = ["hold", "pause_ms"])]
    pub(crate) on_request: bool,

    /// End when stdin closes or the parent dies, so that a killed parent leaves no guest behind.
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
}

impl RunArgs {
    /// The guest that was asked for.
    pub(crate) fn config(&self) -> GuestConfig {
        let mut config = GuestConfig::new(self.pages, self.aliases).with_driver(self.driver);
        config.nested = self.nested;
        config.write = self.write;
        config.hold = self.hold;
        config.spare_pages = self.spare_pages;
        config.dir.clone_from(&self.dir);
        config.idle = Duration::from_micros(self.idle_us);
        config.backing = self.backing.unwrap_or(config.backing);
        // A held guest refills its chains between iterations anyhow.
        let held = self.hold.then_some(0);
        if let Some(pause_ms) = self.pause_ms.or(held) {
            config.driver_pause = Duration::from_millis(pause_ms);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn config(line: &str) -> GuestConfig {
        let cli = Cli::try_parse_from(line.split(' ')).expect("parses");
        let Command::Run(args) = cli.command;
        args.config()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn backing_and_pause_follow_the_driver_unless_given() {
        let reclaim = config("guest run --driver reclaim");
        assert_eq!(reclaim.backing, Backing::File);
        assert_eq!(reclaim.driver_pause, Duration::from_millis(150));
        let other = config("guest run --driver reclaim --backing anonymous --pause-ms 0");
        assert_eq!(other.backing, Backing::Anonymous);
        assert_eq!(other.driver_pause, Duration::ZERO);
        assert_eq!(config("guest run").backing, Backing::Anonymous);
        let held = config("guest run --driver reclaim --hold");
        assert_eq!(held.driver_pause, Duration::ZERO);
    }

    #[test]
    fn what_is_not_a_number_or_no_time_at_all_is_refused() {
        for line in [
            "guest run --pages many",
            "guest run --pages -1",
            "guest run --seconds 0",
            "guest run --driver swap",
            "guest",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
