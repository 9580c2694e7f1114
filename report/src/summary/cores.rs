//! What the looks at the cores said, in a few words.

use crate::schema::Disturbance;

/// A look is slow when it took this many times the fastest.
const SLOW: f64 = 1.25;

/// What the looks at the cores said, in one clause; none if nobody looked.
pub(crate) fn cores(disturbance: &Disturbance) -> Option<String> {
    let looks = disturbance.core_loop.value()?;
    let (fastest, _) = looks.recorded().next()?;
    let slow: Vec<(u64, u64)> = looks
        .recorded()
        .filter(|&(ns, _)| ns as f64 > fastest as f64 * SLOW)
        .collect();
    let (count, all) = (slow.iter().map(|(_, n)| n).sum::<u64>(), looks.count());
    let best = format!("{:.2} us at best", fastest as f64 / 1000.0);
    let share = 100.0 * count as f64 / all as f64;
    let Some(typical) = median(&slow, count) else {
        return Some(format!("none of {all} looks ({best}) found them slowed"));
    };
    Some(format!(
        "{share:.0} % of {all} looks ({best}) found them slowed, by {:.1} times",
        typical as f64 / fastest as f64
    ))
}

/// The median of counted values in ascending order.
fn median(counted: &[(u64, u64)], count: u64) -> Option<u64> {
    let mut below = 0;
    counted.iter().find_map(|&(value, n)| {
        below += n;
        (2 * below >= count).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Observed, latency::Latency};

    fn told(looks: &[u64]) -> Option<String> {
        let mut core_loop = Latency::new();
        looks.iter().for_each(|&ns| core_loop.record_ns(ns));
        let mut disturbance = Disturbance::unwatched("a test");
        disturbance.core_loop = Observed::Value(core_loop);
        cores(&disturbance)
    }

    #[test]
    fn the_share_of_slow_looks_is_told_and_how_slow_they_were() {
        assert_eq!(
            told(&[1000, 1000, 1200, 2000]).unwrap(),
            "25 % of 4 looks (1.00 us at best) found them slowed, by 2.0 times"
        );
        assert_eq!(
            told(&[1000, 1100]).unwrap(),
            "none of 2 looks (1.00 us at best) found them slowed"
        );
        assert_eq!(cores(&Disturbance::unwatched("a test")), None);
        assert_eq!(told(&[]), None);
    }
}
