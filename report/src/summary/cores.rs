//! What the looks at the cores said, in a few words.

use crate::{latency::Latency, schema::Disturbance};

/// A look is slow when it took this many times the fastest.
const SLOW: f64 = 1.25;

/// What the looks at the cores said, in one clause; none if nobody looked.
pub(crate) fn cores(disturbance: &Disturbance) -> Option<String> {
    let looks = disturbance.core_loop.value()?;
    let (fastest, _) = looks.recorded().next()?;
    let mut slow = Latency::new();
    for (ns, count) in looks.recorded() {
        if ns as f64 > fastest as f64 * SLOW {
            slow.record_many_ns(ns, count);
        }
    }
    let (all, best) = (
        looks.count(),
        format!("{:.2} us at best", fastest as f64 / 1e3),
    );
    if slow.count() == 0 {
        return Some(format!(
            "a fixed loop, timed {all} times beside the measurement ({best}), was never slowed"
        ));
    }
    Some(format!(
        "a fixed loop, timed {all} times beside the measurement ({best}), was slowed in {:.0} % of \
         them, by {:.1} times; no figure is corrected for that",
        100.0 * slow.count() as f64 / all as f64,
        slow.quantile_ns(0.5) as f64 / fastest as f64
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Observed;

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
            "a fixed loop, timed 4 times beside the measurement (1.00 us at best), was slowed in \
                 25 % of them, by 2.0 times; no figure is corrected for that"
        );
        assert_eq!(
            told(&[1000, 1100]).unwrap(),
            "a fixed loop, timed 2 times beside the measurement (1.00 us at best), was never slowed"
        );
        assert_eq!(cores(&Disturbance::unwatched("a test")), None);
        assert_eq!(told(&[]), None);
    }
}
