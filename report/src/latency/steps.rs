//! What was recorded, as the steps of a distribution that are not empty: what a latency
//! that was read or added up takes of memory follows what is in it.
//!
//! A step is what an HDR histogram of the schema's bounds cannot tell apart: up to 2047 ns
//! one nanosecond, above as many as leave [`DIGITS`](super::DIGITS) digits.

use super::{DIGITS, MAX_NS};

/// Values of one nanosecond each, and half of them: the steps per power of two above.
const HALF: usize = 1024;
/// Steps of a histogram of the schema's bounds.
const ALL: usize = 32 * HALF;
/// How HDR's V2 encoding begins, uncompressed.
const COOKIE: u32 = 0x1c84_9313;
/// Bytes before its counts.
const HEADER: usize = 40;

/// Steps that are not empty, ascending: the longest latency of each, and how often it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps(Vec<(u64, u64)>);

/// The shortest and the longest latency of a step.
fn step(index: usize) -> (u64, u64) {
    let (power, within) = match index / HALF {
        0 => (0, index),
        half => (half - 1, index % HALF + HALF),
    };
    let shortest = (within as u64) << power;
    (shortest, shortest + (1 << power) - 1)
}

/// The shortest and the longest latency of the step that a latency is in.
fn step_of(ns: u64) -> (u64, u64) {
    let most = 2 * HALF as u64 - 1;
    let power = (ns | most).ilog2() - most.ilog2();
    let shortest = ns >> power << power;
    (shortest, shortest + (1 << power) - 1)
}

impl Steps {
    pub(super) fn of(recorded: impl Iterator<Item = (u64, u64)>) -> Self {
        Self(recorded.collect())
    }

    /// Reads HDR's V2 encoding. Nothing is allocated that the bytes do not hold, and the
    /// compressed encoding, which no version has written, is not taken.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_at_checked(HEADER)?;
        let word = |at| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let long = |at| Some(u64::from_be_bytes(header.get(at..at + 8)?.try_into().ok()?));
        let is_ours = word(0)? == COOKIE
            && word(4)? as usize == rest.len()
            && word(8)? == 0
            && word(12)? == u32::from(DIGITS)
            && long(16)? == 1
            && long(24)? <= MAX_NS
            && f64::from_bits(long(32)?) == 1.0;
        if !is_ours {
            return None;
        }
        let (mut steps, mut index) = (Vec::new(), 0_usize);
        while !rest.is_empty() {
            let number = next_number(&mut rest)?;
            if number > 0 {
                let (_, longest) = step(index);
                steps.push((longest, number.unsigned_abs()));
            }
            // A negative number is so many empty steps.
            let passed = if number < 0 { number.unsigned_abs() } else { 1 };
            index = index.checked_add(usize::try_from(passed).ok()?)?;
            if index > ALL {
                return None;
            }
        }
        steps.shrink_to_fit();
        Some(Self(steps))
    }

    pub(super) fn record(&mut self, ns: u64, count: u64) {
        if count == 0 {
            return;
        }
        let (_, longest) = step_of(ns.min(MAX_NS));
        match self.0.binary_search_by_key(&longest, |(ns, _)| *ns) {
            Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(count),
            Err(at) => self.0.insert(at, (longest, count)),
        }
    }

    pub(super) fn merge(&mut self, more: impl Iterator<Item = (u64, u64)>) {
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        let mut mine = self.0.iter().copied().peekable();
        for (ns, count) in more {
            while let Some(before) = mine.next_if(|(of_mine, _)| *of_mine < ns) {
                merged.push(before);
            }
            let same = mine.next_if(|(of_mine, _)| *of_mine == ns);
            merged.push((ns, count.saturating_add(same.map_or(0, |(_, count)| count))));
        }
        merged.extend(mine);
        self.0 = merged;
    }

    pub(super) fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub(super) fn count(&self) -> u64 {
        let counts = self.0.iter().map(|(_, count)| *count);
        counts.fold(0, u64::saturating_add)
    }

    pub(super) fn max_ns(&self) -> u64 {
        self.0.last().map_or(0, |(longest, _)| *longest)
    }

    /// As an HDR histogram has it: the first step to reach so many, its shortest latency
    /// for quantile 0 and else its longest.
    pub(super) fn quantile_ns(&self, quantile: f64) -> u64 {
        let wanted = (quantile.min(1.0) * self.count() as f64).ceil() as u64;
        let mut seen = 0_u64;
        let found = self.0.iter().find(|(_, count)| {
            seen = seen.saturating_add(*count);
            seen >= wanted.max(1)
        });
        match found {
            Some((longest, _)) if quantile == 0.0 => step_of(*longest).0,
            Some((longest, _)) => *longest,
            None => self.max_ns(),
        }
    }

    pub(super) fn mean_ns(&self) -> f64 {
        let all = self.count() as f64;
        let terms = self.middles().map(|(ns, count)| ns * count / all);
        terms.fold(0.0, |sum, term| sum + term)
    }

    pub(super) fn stdev_ns(&self) -> f64 {
        let (mean, all) = (self.mean_ns(), self.count() as f64);
        if self.0.is_empty() {
            return 0.0;
        }
        let squares = self.middles().map(|(ns, count)| {
            let off = ns - mean;
            off * off * count
        });
        (squares.fold(0.0, |sum, square| sum + square) / all).sqrt()
    }

    /// The middle of every step, and how often it was.
    fn middles(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.0.iter().map(|(longest, count)| {
            let (shortest, longest) = step_of(*longest);
            let middle = shortest + (longest - shortest).div_ceil(2);
            (middle as f64, *count as f64)
        })
    }
}

/// The next number of the encoding: little-endian groups of seven bits, of which the
/// ninth byte has eight, and the sign in the lowest bit.
fn next_number(rest: &mut &[u8]) -> Option<i64> {
    let mut bits = 0_u64;
    for place in 0..9 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        let goes_on = byte & 0x80 != 0 && place < 8;
        let value = if goes_on { byte & 0x7f } else { *byte };
        bits |= u64::from(value) << (7 * place);
        if !goes_on {
            break;
        }
    }
    Some((bits >> 1) as i64 ^ -((bits & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_meet_and_hold_what_is_in_them() {
        for index in 0..ALL {
            let (shortest, longest) = step(index);
            assert_eq!(step_of(shortest), (shortest, longest));
            assert_eq!(step_of(longest), (shortest, longest));
            if index + 1 < ALL {
                assert_eq!(step(index + 1).0, longest + 1);
            }
        }
    }
}
