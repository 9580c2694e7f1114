//! A small seeded generator, so that a run can be repeated from its printed seed.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): every seed is good, one multiplication
//! chain per number, no allocation. Statistics never depend on its quality
//! beyond an even shuffle.

/// A repeatable stream of numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream that belongs to a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed taken from the wall clock, for runs where none was given.
    #[must_use]
    pub fn fresh_seed() -> u64 {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64);
        Self::new(now).next_u64()
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Puts a slice into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// Does two things to a subject, each order as likely as the other, so that neither
    /// is always the one that comes first; their results in the order named here.
    ///
    /// # Errors
    /// The first error; the other thing may not have been done.
    pub fn in_either_order<S, A, B, E>(
        &mut self,
        subject: &mut S,
        one: impl FnOnce(&mut S) -> Result<A, E>,
        other: impl FnOnce(&mut S) -> Result<B, E>,
    ) -> Result<(A, B), E> {
        if self.below(2) == 0 {
            let one = one(subject)?;
            return Ok((one, other(subject)?));
        }
        let other = other(subject)?;
        Ok((one(subject)?, other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_order() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..100).collect();
            Rng::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_favours_no_place() {
        let mut rng = Rng::new(1);
        let mut first_place = [0_u32; 6];
        for _ in 0..60_000 {
            let mut items = [0, 1, 2, 3, 4, 5];
            rng.shuffle(&mut items);
            first_place[items[0]] += 1;
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3, 4, 5]);
        }
        for count in first_place {
            assert!((9_500..10_500).contains(&count), "{first_place:?}");
        }
    }

    #[test]
    fn either_of_two_things_is_as_likely_to_be_the_first() {
        let mut rng = Rng::new(5);
        let mut one_first = 0;
        for _ in 0..10_000 {
            let mut done = Vec::new();
            let say = |what| {
                move |done: &mut Vec<char>| {
                    done.push(what);
                    Ok::<_, ()>(what)
                }
            };
            let results = rng.in_either_order(&mut done, say('a'), say('b'));
            assert_eq!(results, Ok(('a', 'b')));
            one_first += u32::from(done == ['a', 'b']);
            done.sort_unstable();
            assert_eq!(done, ['a', 'b']);
        }
        assert!((4_500..5_500).contains(&one_first), "{one_first}");
    }

    #[test]
    fn below_stays_below() {
        let mut rng = Rng::new(3);
        assert!((0..1000).all(|_| rng.below(7) < 7));
        assert_eq!(rng.below(0), 0);
    }
}
