//! What both rungs share: filing a callback under its cell, and raw events.

use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, PerCpuArray, PerCpuHashMap, RingBuf},
};
use profiler_common::{
    aging::{Cell, CellKey, Totals},
    event::Event,
};

/// One callback in this many goes into the ring buffer; 0 for none.
#[unsafe(no_mangle)]
static EVENT_EVERY: Global<u32> = Global::new(0);

#[map]
pub(crate) static TOTALS: PerCpuArray<Totals> = PerCpuArray::with_max_entries(1, 0);
/// Resized by user space; filled at most once per key and never emptied.
#[map]
static CELLS: PerCpuHashMap<CellKey, Cell> = PerCpuHashMap::with_max_entries(4096, 0);
/// Never written: the value of a new cell, because zeroing one on the stack
/// would be a loop over its bytes.
#[map]
static ZERO_CELL: Array<Cell> = Array::with_max_entries(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// The cell of `key`, made if it is new; `None`, and counted, if the map is full.
#[inline(always)]
pub(crate) fn cell(totals: &mut Totals, key: CellKey) -> Option<&'static mut Cell> {
    if let Some(cell) = CELLS.get_ptr_mut(key) {
        // SAFETY: a live map value of this CPU.
        return Some(unsafe { &mut *cell });
    }
    let _ = CELLS.insert(key, ZERO_CELL.get(0)?, u64::from(BPF_NOEXIST));
    match CELLS.get_ptr_mut(key) {
        // SAFETY: as above.
        Some(cell) => Some(unsafe { &mut *cell }),
        None => {
            totals.cells_full += 1;
            None
        }
    }
}

/// The cell of `key` if it exists.
#[inline(always)]
pub(crate) fn existing_cell(key: CellKey) -> Option<&'static mut Cell> {
    // SAFETY: a live map value of this CPU.
    CELLS.get_ptr_mut(key).map(|cell| unsafe { &mut *cell })
}

/// Whether this callback is one of those that become raw events.
#[inline(always)]
pub(crate) fn is_event_due(totals: &Totals) -> bool {
    let every = EVENT_EVERY.load();
    every != 0 && totals.callbacks % u64::from(every) == 0
}

/// Puts a raw event into the ring buffer, or counts it as lost.
#[inline(always)]
pub(crate) fn send(totals: &mut Totals, event: Event) {
    match EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
            totals.events += 1;
        }
        None => totals.events_lost += 1,
    }
}
