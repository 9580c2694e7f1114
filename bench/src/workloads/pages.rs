//! Sharing pages out to threads, and going over them again and again.

use rmap::Mmu;

use crate::workloads::vm;

/// A thread's share of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// First gfn.
    pub first: u64,
    /// Pages.
    pub count: u64,
}

impl Pages {
    /// The pages of thread `index` of `of` threads that share `all` pages out.
    #[must_use]
    pub fn share(all: u64, index: usize, of: usize) -> Self {
        let bound = |i: usize| all * i as u64 / of as u64;
        Self {
            first: bound(index),
            count: bound(index + 1) - bound(index),
        }
    }
}

/// An ager's way: page by page, one callback each, over and over.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    pages: Pages,
    at: u64,
}

impl Sweep {
    /// Begins `start` pages after the first.
    #[must_use]
    pub fn new(pages: Pages, start: u64) -> Self {
        Self {
            pages,
            at: start % pages.count.max(1),
        }
    }

    /// Ages the next pages.
    #[inline(always)]
    pub fn age(&mut self, mmu: &dyn Mmu, callbacks: u64) {
        let (first, count) = (self.pages.first, self.pages.count);
        for _ in 0..callbacks {
            std::hint::black_box(mmu.age(vm::range(first + self.at, 1)));
            self.at = if self.at + 1 == count { 0 } else { self.at + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::vm::Vm;

    #[test]
    fn the_pages_are_shared_out_without_gap_or_overlap() {
        for of in 1..7 {
            let mut next = 0;
            for index in 0..of {
                let pages = Pages::share(4096, index, of);
                assert_eq!(pages.first, next);
                next += pages.count;
            }
            assert_eq!(next, 4096);
        }
    }

    #[test]
    fn a_sweep_reaches_each_of_its_pages_once_and_no_other() {
        let vm = Vm::build("rwlock-write", 64, 1).unwrap();
        let pages = Pages {
            first: 16,
            count: 8,
        };
        let young = || -> Vec<u64> {
            let young = |gfn: &u64| vm.mmu().test_age(vm::range(*gfn, 1)).young;
            (0..64).filter(young).collect()
        };
        let mut sweep = Sweep::new(pages, 6);
        sweep.age(vm.mmu(), 3);
        assert_eq!(
            (0..64).filter(|g| !young().contains(g)).collect::<Vec<_>>(),
            [16, 22, 23]
        );
        sweep.age(vm.mmu(), 5);
        assert_eq!(young().len(), 56);
        assert!((16..24).all(|gfn| !young().contains(&gfn)));
    }
}
