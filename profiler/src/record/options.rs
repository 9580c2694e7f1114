//! What the user asked for.

use std::{path::PathBuf, time::Duration};

use crate::observe::{Observe, whole};

/// Options of `rmapscope record`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long to record, such as 10s, 500ms or 2m
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(super) duration: Duration,
    /// Wait until there is a VM to record
    #[arg(long)]
    pub(super) wait: bool,
    /// Result file [default: results/runs/profile-TIME.jsonl]
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) observe: Observe,
    /// Keep every N-th callback as a raw event; 0 keeps none
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = whole(0_u32.., "10000"))]
    pub(super) event_every: u32,
    /// Print the result's JSON lines instead of tables
    #[arg(long)]
    pub(super) json: bool,
    /// Print nothing but errors
    #[arg(long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
}

/// The longest time that is taken for one, ten years; the clock ends somewhere
/// beyond.
const MOST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A number above 0 and one of `ms`, `s`, `m`, `h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
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
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if time.is_zero() {
        return Err("it has to take some time".to_owned());
    }
    if time > MOST {
        return Err("ten years are the longest time".to_owned());
    }
    Ok(time)
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
        assert_eq!(parse_duration("87600h"), Ok(MOST));
        let too_long = ["87601h", "10000000000000000000s"];
        for wrong in too_long {
            let refused = parse_duration(wrong).expect_err(wrong);
            assert!(refused.contains("ten years"), "{refused}");
        }
        for wrong in ["10", "s", "-1s", "1d", "", "1e400s", "0s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
