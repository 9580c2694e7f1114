//! How many threads a scaling workload uses: `1..all`, `2`, `1,2,4,all`.

use std::str::FromStr;

use crate::cpus::CpuList;
use crate::plan::PlanError;

/// One end of a range: a number, or all CPUs there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Threads(usize),
    All,
}

/// Thread counts as asked for, before the CPUs are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadCounts(Vec<(Count, Count)>);

impl FromStr for ThreadCounts {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let refuse = || PlanError::Threads(text.to_owned());
        let count = |part: &str| match part.trim() {
            "all" => Ok(Count::All),
            number => match number.parse() {
                Ok(threads) if threads > 0 => Ok(Count::Threads(threads)),
                _ => Err(refuse()),
            },
        };
        let part = |part: &str| match part.split_once("..") {
            Some((first, last)) => Ok((count(first)?, count(last)?)),
            None => count(part).map(|count| (count, count)),
        };
        text.split(',')
            .map(part)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl ThreadCounts {
    /// The counts on these CPUs, ascending and each once.
    ///
    /// # Errors
    /// When a count is larger than the number of CPUs, or a range is empty.
    pub fn resolve(&self, cpus: &CpuList) -> Result<Vec<usize>, anyhow::Error> {
        let number = |count: Count| match count {
            Count::Threads(threads) => threads,
            Count::All => cpus.as_slice().len(),
        };
        let mut counts = Vec::new();
        for &(first, last) in &self.0 {
            let (first, last) = (number(first), number(last));
            cpus.first(first.max(last))?;
            if first > last {
                return Err(PlanError::Threads(format!("{first}..{last}")).into());
            }
            counts.extend(first..=last);
        }
        counts.sort_unstable();
        counts.dedup();
        Ok(counts)
    }

    /// Powers of two up to all CPUs, and all CPUs.
    #[must_use]
    pub fn doubling(cpus: &CpuList) -> Vec<usize> {
        let all = cpus.as_slice().len();
        let mut counts: Vec<usize> = std::iter::successors(Some(1), |n| Some(n * 2))
            .take_while(|&n| n < all)
            .collect();
        counts.push(all);
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpus::CpuError;

    fn cpus(all: usize) -> CpuList {
        CpuList::from_cpus((0..all).collect()).unwrap()
    }

    fn resolve(text: &str, all: usize) -> Vec<usize> {
        let counts: ThreadCounts = text.parse().unwrap();
        counts.resolve(&cpus(all)).unwrap()
    }

    #[test]
    fn counts_are_numbers_ranges_and_all() {
        assert_eq!(resolve("1..all", 4), [1, 2, 3, 4]);
        assert_eq!(resolve("4,1,1..2", 8), [1, 2, 4]);
        assert_eq!(resolve("all", 3), [3]);
    }

    #[test]
    fn the_default_doubles_up_to_all() {
        assert_eq!(ThreadCounts::doubling(&cpus(1)), [1]);
        assert_eq!(ThreadCounts::doubling(&cpus(2)), [1, 2]);
        assert_eq!(ThreadCounts::doubling(&cpus(6)), [1, 2, 4, 6]);
        assert_eq!(ThreadCounts::doubling(&cpus(8)), [1, 2, 4, 8]);
    }

    #[test]
    fn nonsense_and_more_threads_than_cpus_are_refused() {
        for text in ["", "0", "x", "1..", "..2", "1-2", "1,,2"] {
            assert!(text.parse::<ThreadCounts>().is_err(), "{text}");
        }
        let refused = |text: &str| {
            let counts: ThreadCounts = text.parse().unwrap();
            counts.resolve(&cpus(2)).unwrap_err()
        };
        let too_many = refused("1..3");
        assert!(too_many.is::<CpuError>(), "{too_many}");
        assert!(refused("all..1").is::<PlanError>());
    }
}
