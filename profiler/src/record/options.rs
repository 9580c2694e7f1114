//! What the user asked for.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use crate::ladder::Rung;

/// Above this rate sampling changes what it measures by too much.
const MAX_RATE_HZ: u32 = 4000;

/// Options of `rmapscope record`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long to record, such as 10s, 500ms or 2m
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(super) duration: Duration,
    /// Record only the VMs of this process
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// Wait until there is a VM to record
    #[arg(long)]
    pub(super) wait: bool,
    /// Result file [default: results/runs/profile-TIME.jsonl]
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Timer samples per second and CPU, at most 4000
    #[arg(long, default_value_t = 3989, value_name = "HZ")]
    pub(super) rate: u32,
    /// Read a task's kernel stack again after at most this many callbacks
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(super) stack_every: u32,
    /// Keep every N-th callback as a raw event; 0 keeps none
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(super) event_every: u32,
    /// Use this rung of the ladder instead of the best one
    #[arg(long, value_enum, value_name = "RUNG")]
    pub(super) mechanism: Option<Rung>,
    /// Print the result's JSON lines instead of tables
    #[arg(long)]
    pub(super) json: bool,
    /// Print nothing but errors
    #[arg(long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Show the log of the kernel side
    #[arg(long)]
    pub(super) verbose: bool,
}

impl Options {
    /// Checks what clap cannot.
    pub(super) fn check(&self) -> Result<()> {
        if self.rate == 0 || self.rate > MAX_RATE_HZ {
            bail!(
                "--rate {}: the sampling rate lies between 1 and {MAX_RATE_HZ} Hz",
                self.rate
            );
        }
        if self.stack_every == 0 {
            bail!("--stack-every 0: a stack is read at least every 1 callbacks");
        }
        if self.duration.is_zero() {
            bail!("--duration 0: a recording takes some time");
        }
        Ok(())
    }

    /// CPU time between two samples; never more samples than asked for.
    pub(super) fn period_ns(&self) -> u64 {
        1_000_000_000_u64.div_ceil(u64::from(self.rate))
    }
}

/// A number and one of `ms`, `s`, `m`, `h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write 10s, 500ms, 2m or 1h");
    let unit = text
        .find(|c: char| c.is_ascii_alphabetic())
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["10", "s", "-1s", "1d", "", "1e400s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
