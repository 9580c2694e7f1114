//! What `record`, `top` and `exporter` let a user ask for: which VMs are
//! observed, and how closely.

use std::{
    fmt::Display,
    ops::{Bound, RangeBounds},
    str::FromStr,
};

use anyhow::{Result, bail};

use crate::{
    census_command::check_process,
    ladder::{Interference, Ladder, Rung},
};

/// Above this rate sampling changes what it measures by too much.
const MAX_RATE_HZ: u32 = 4000;

/// Options of every command that observes callbacks.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Observe {
    /// Observe only the VMs of this process
    #[arg(long, value_parser = whole(1_u32.., "4711"))]
    pub(crate) pid: Option<u32>,
    /// Timer samples per second and CPU, at most 4000; several rates take
    /// turns, and tell what costs are without samples
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "997,3989",
        value_name = "HZ,…",
        value_parser = whole(1..=MAX_RATE_HZ, "997")
    )]
    pub(crate) rate: Vec<u32>,
    /// Read a task's kernel stack again after at most this many callbacks
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = whole(1_u32.., "256"))]
    pub(crate) stack_every: u32,
    /// Use this rung of the ladder instead of the best one
    #[arg(long, value_enum, value_name = "RUNG")]
    pub(crate) mechanism: Option<Rung>,
    /// Lower the sampling rate when rmapscope's eBPF programs take more than
    /// this share of all CPUs' time, in percent
    ///
    /// Counted is the run time of the programs, as the kernel keeps it: of those at every
    /// callback, fault and wait, which go on, and of samples. Not counted are the interrupt
    /// around a sample, the trampolines and probes that call a program, the kernel's own count
    /// of its run time, and this process, which looks for VMs and reads counters and chain
    /// lengths. It is said if the programs that go on take more by themselves.
    #[arg(long, value_name = "PCT", value_parser = parse_share)]
    pub(crate) max_overhead: Option<f64>,
    /// Leave out vCPU faults and waits for mmu_lock
    #[arg(long)]
    pub(crate) no_interference: bool,
    /// Log VMs that come and go, and where `record` samples the callbacks kept as raw events
    #[arg(long)]
    pub(crate) verbose: bool,
}

impl Observe {
    /// Fails if the process to observe does not exist.
    pub(crate) fn check_process(&self) -> Result<()> {
        self.pid.map_or(Ok(()), check_process)
    }

    /// What is observed beside callbacks, and why not what is not.
    pub(crate) fn interference(&self, ladder: &Ladder) -> Interference {
        if self.no_interference {
            let left_out = || Err("left out by --no-interference".to_owned());
            return Interference {
                faults: left_out(),
                waits: left_out(),
            };
        }
        ladder.interference.clone()
    }

    /// The rung to use: the one asked for, or the best.
    pub(crate) fn choose(&self, ladder: &Ladder) -> Result<Rung> {
        let Some(best) = ladder.rung else {
            bail!(
                "no profile can be recorded on this host; `rmapscope doctor` says what is missing"
            );
        };
        let rung = self.mechanism.unwrap_or(best);
        if !ladder.offers(rung) {
            let name = clap::ValueEnum::to_possible_value(&rung);
            let name = name.map_or_else(String::new, |value| value.get_name().to_owned());
            bail!("this host does not offer --mechanism {name}; `rmapscope doctor` says why");
        }
        Ok(rung)
    }
}

/// Parses a whole number in a range; `example` is one that is taken.
pub(crate) fn whole<T>(
    range: impl RangeBounds<T> + Clone,
    example: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display,
{
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let least = match range.start_bound() {
                Bound::Included(least) | Bound::Excluded(least) => least.to_string(),
                Bound::Unbounded => String::new(),
            };
            let range = match range.end_bound() {
                Bound::Included(most) | Bound::Excluded(most) => format!("from {least} to {most}"),
                Bound::Unbounded => format!("of at least {least}"),
            };
            Err(format!(
                "{text:?} is no whole number {range}; write one like {example}"
            ))
        }
    }
}

/// A share in percent, above 0.
fn parse_share(text: &str) -> Result<f64, String> {
    let wrong = |_| format!("{text:?} is no number; write a share in percent, like 0.5");
    let share: f64 = text.parse().map_err(wrong)?;
    if share > 0.0 && share <= 100.0 {
        return Ok(share);
    }
    Err("a share lies above 0 and is at most 100 percent".to_owned())
}

/// CPU time between two samples at a rate; never more samples than asked for.
pub(crate) fn period_ns(rate_hz: u32) -> u64 {
    1_000_000_000_u64.div_ceil(u64::from(rate_hz.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_or_out_of_range_is_answered_with_one_that_is() {
        let parse = whole(1..=MAX_RATE_HZ, "997");
        assert_eq!(parse("4000"), Ok(4000));
        let said = whole::<u32>(1.., "7")("0").expect_err("0");
        assert!(said.contains("of at least 1; write one like 7"), "{said}");
        for wrong in ["0", "4001", "many", "", "-1", "1.5"] {
            let said = parse(wrong).expect_err(wrong);
            assert!(
                said.contains("from 1 to 4000; write one like 997"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_share_is_above_nothing_and_at_most_all() {
        assert_eq!(parse_share("0.5"), Ok(0.5));
        assert_eq!(parse_share("100"), Ok(100.0));
        for wrong in ["0", "-1", "101", "NaN", "much"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
