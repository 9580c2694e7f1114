//! Walking a chain with suspicion.

use std::ptr::NonNull;

use super::{EXT, checked_count};
use crate::{
    desc::PteListDesc,
    error::PteListError,
    head::{Chain, HeadWord},
    spte::Spte,
    sync::Ordering::Relaxed,
};

/// Checks a whole chain and returns its length.
///
/// # Errors
/// What does not add up.
///
/// # Safety
/// As for [`add_absent`](super::add_absent), or nobody changes the chain meanwhile.
pub unsafe fn check(word: HeadWord, mut visit: impl FnMut(&Spte)) -> Result<u32, PteListError> {
    match word.chain() {
        Chain::Empty => Ok(0),
        Chain::One(spte) => {
            // SAFETY: I-life, from the caller.
            visit(unsafe { spte.as_ref() });
            Ok(1)
        }
        // SAFETY: I-life, from the caller.
        Chain::Many(first) => unsafe { for_each_checked(first, &mut visit) },
    }
}

/// Visits every entry and holds each descriptor's counts against the next one's.
///
/// # Safety
/// As for [`check`].
pub(super) unsafe fn for_each_checked(
    first: NonNull<PteListDesc>,
    visit: &mut impl FnMut(&Spte),
) -> Result<u32, PteListError> {
    let mut expected: Option<u32> = None;
    let mut total = 0;
    let mut next = Some(first);
    while let Some(desc) = next {
        // SAFETY: I-life, from the caller.
        let desc = unsafe { desc.as_ref() };
        desc.life.read();
        let used = checked_count(desc)?;
        let len = desc.tail_count.load(Relaxed).saturating_add(used);
        match expected {
            None => total = len,
            Some(_) if used != EXT => {
                return Err(PteListError::CorruptChain("a tail descriptor is not full"));
            }
            Some(expected) if expected != len => {
                return Err(PteListError::CorruptChain("a tail count is wrong"));
            }
            Some(_) => {}
        }
        for entry in desc.sptes.iter().take(used as usize) {
            let Some(spte) = NonNull::new(entry.load(Relaxed)) else {
                return Err(PteListError::CorruptChain("an entry is null"));
            };
            // SAFETY: I-life, from the caller.
            visit(unsafe { spte.as_ref() });
        }
        expected = Some(len - used);
        next = NonNull::new(desc.more.load(Relaxed));
    }
    match expected {
        Some(0) => Ok(total),
        _ => Err(PteListError::CorruptChain("a tail count is wrong")),
    }
}
