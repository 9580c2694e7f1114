//! What the kernel stack of a callback means: its caller class, and which kind of clearing
//! it is.
//!
//! Reading a stack costs ten times the callback itself, so the meaning of a
//! task's stack is remembered per CPU and family of callbacks. It is read again
//! when another task is seen, then after a gap whose bound doubles while nothing
//! changes, up to `STACK_EVERY` callbacks, and starts anew when something did.
//! The gap is drawn at random below its bound, so that callbacks that alternate
//! are not always met in the same phase. Changes found so are counted: their
//! share of the re-reads estimates what remembering got wrong.

use aya_ebpf::{
    EbpfContext, Global,
    helpers::generated::{bpf_get_prandom_u32, bpf_get_stack},
    macros::map,
    maps::{Array, HashMap, PerCpuArray, StackTrace},
    programs::tracing::StackIdContext,
};
use profiler_common::{
    aging::{Caller, Totals},
    symbols::{MAX_RANGES, SEARCH_STEPS, STACK_DEPTH, TextRange, tag},
};

use crate::kernel::repeat;

/// Most callbacks of one task between two reads of its stack.
#[unsafe(no_mangle)]
static STACK_EVERY: Global<u32> = Global::new(1);
/// The first gap after a change.
const FIRST_GAP: u64 = 8;
/// Text ranges in use.
#[unsafe(no_mangle)]
static TEXT_RANGES: Global<u32> = Global::new(0);

/// Families of callbacks: one per program that reads stacks on a rung.
const FAMILIES: u32 = 3;

/// Who reads a stack. The sampler interrupts the others, and where the kernel preempts a
/// task between reading its stack and looking at it another program may run on the CPU,
/// so each has a buffer of its own. A program does not interrupt itself: the kernel sees
/// to that.
#[derive(Clone, Copy)]
pub(crate) struct Reader(u32);

impl Reader {
    pub(crate) const SAMPLER: Self = Self(FAMILIES);
    pub(crate) const LOCK: Self = Self(FAMILIES + 1);
    const COUNT: u32 = FAMILIES + 2;
}

/// One stack, innermost frame first.
#[repr(C)]
struct Stack {
    frames: [u64; STACK_DEPTH],
}

/// What is remembered of the task that last made a callback on this CPU.
#[repr(C)]
struct Remembered {
    task: u64,
    meaning: u64,
    /// Callbacks until the next read.
    left: u64,
    /// Bound of the gap that `left` counts down.
    gap: u64,
}

#[map]
static RANGES: Array<TextRange> = Array::with_max_entries(MAX_RANGES as u32, 0);
/// One entry per [`Reader`].
#[map]
static STACK: PerCpuArray<Stack> = PerCpuArray::with_max_entries(Reader::COUNT, 0);
/// One entry per family of callbacks: one per kind, or fewer where the hook
/// does not tell kinds apart.
#[map]
static REMEMBERED: PerCpuArray<Remembered> = PerCpuArray::with_max_entries(FAMILIES, 0);
#[map]
static OTHER_STACKS: StackTrace = StackTrace::with_max_entries(1024, 0);
#[map]
static OTHER_COUNTS: HashMap<u64, u64> = HashMap::with_max_entries(1024, 0);

/// Set in a meaning whose stack could not be read.
const UNREADABLE: u64 = 1 << 63;

/// The tag of the function that `address` lies in; 0 if it is none of interest.
#[inline(always)]
fn tag_of(address: u64) -> u64 {
    let (mut low, mut high) = (0u32, TEXT_RANGES.load());
    let mut step = 0;
    while step < SEARCH_STEPS {
        step += 1;
        if low >= high {
            return 0;
        }
        let middle = (low + high) / 2;
        let Some(range) = RANGES.get(middle) else {
            return 0;
        };
        if address < range.low {
            high = middle;
        } else if address >= range.high {
            low = middle + 1;
        } else {
            return range.tag;
        }
    }
    0
}

/// Tags of the current kernel stack: of the innermost tagged frame, and of all.
pub(crate) struct Tags {
    pub(crate) innermost: u64,
    pub(crate) all: u64,
}

/// Reads and interprets the current kernel stack; `None` if it cannot be read.
///
/// `until` stops at the first frame with one of these tags.
#[inline(always)]
pub(crate) fn stack_tags<C: EbpfContext>(context: &C, reader: Reader, until: u64) -> Option<Tags> {
    let stack = STACK.get_ptr_mut(reader.0)?;
    // SAFETY: a live per-CPU map value of exactly this size, used by this reader only.
    let bytes =
        unsafe { bpf_get_stack(context.as_ptr(), stack.cast(), size_of::<Stack>() as u32, 0) };
    if bytes <= 0 {
        return None;
    }
    let frames = bytes as u64 / 8;
    let mut tags = Tags {
        innermost: 0,
        all: 0,
    };
    repeat(STACK_DEPTH as u32, |frame| {
        if frame >= frames || frame >= STACK_DEPTH as u64 {
            return true;
        }
        // SAFETY: `frame` is below STACK_DEPTH; the value is live.
        let address = unsafe {
            (&raw const (*stack).frames)
                .cast::<u64>()
                .add(frame as usize)
                .read()
        };
        let tag = tag_of(address);
        if tags.innermost == 0 {
            tags.innermost = tag;
        }
        tags.all |= tag;
        tag & until != 0
    });
    Some(tags)
}

/// The caller class that a meaning says. The order matters: DAMON, collapse and
/// MGLRU run inside tasks that may also be reclaiming.
#[inline(always)]
pub(crate) fn caller(meaning: u64) -> Caller {
    const ORDER: [(u64, Caller); 10] = [
        (UNREADABLE, Caller::Unknown),
        (tag::DAMON, Caller::Damon),
        (tag::KHUGEPAGED, Caller::Khugepaged),
        (tag::PAGE_IDLE, Caller::PageIdle),
        (tag::LOOKAROUND, Caller::MglruLookaround),
        (tag::MGLRU, Caller::MglruAging),
        (tag::MEMCG, Caller::Memcg),
        (tag::KSWAPD, Caller::Kswapd),
        (tag::DIRECT, Caller::Direct),
        (tag::RECLAIM, Caller::Reclaim),
    ];
    let mut position = 0;
    while position < ORDER.len() {
        if meaning & ORDER[position].0 != 0 {
            return ORDER[position].1;
        }
        position += 1;
    }
    Caller::Other
}

/// Counts the stack of a callback that no class explains.
#[inline(always)]
fn count_other<C: StackIdContext>(context: &C) {
    let Ok(id) = context.get_stackid(&OTHER_STACKS, 0) else {
        return;
    };
    let id = id as u64;
    match OTHER_COUNTS.get_ptr_mut(id) {
        // SAFETY: a live map value; a lost increment between CPUs only changes a ranking.
        Some(count) => unsafe { *count += 1 },
        None => {
            let _ = OTHER_COUNTS.insert(id, 1, 0);
        }
    }
}

/// What the stack of the callback that `task` makes now means: [`tag`] bits,
/// or [`UNREADABLE`].
#[inline(always)]
pub(crate) fn meaning<C: StackIdContext>(
    context: &C,
    totals: &mut Totals,
    family: u32,
    task: u64,
) -> u64 {
    let Some(remembered) = REMEMBERED.get_ptr_mut(family) else {
        return UNREADABLE;
    };
    // SAFETY: a live per-CPU map value.
    let remembered = unsafe { &mut *remembered };
    let same_task = remembered.task == task;
    if same_task && remembered.left > 0 {
        remembered.left -= 1;
        return remembered.meaning;
    }
    totals.stacks += 1;
    let meaning = match stack_tags(context, Reader(family), 0) {
        Some(tags) => tags.all,
        None => {
            totals.stacks_failed += 1;
            UNREADABLE
        }
    };
    let is_settled = same_task && remembered.meaning == meaning;
    totals.stacks_changed += u64::from(same_task && !is_settled);
    if caller(meaning) as u8 == Caller::Other as u8 {
        count_other(context);
    }
    let most = u64::from(STACK_EVERY.load());
    let gap = if is_settled {
        remembered.gap * 2
    } else {
        FIRST_GAP
    };
    remembered.task = task;
    remembered.meaning = meaning;
    remembered.gap = if gap > most { most } else { gap };
    // SAFETY: a helper without arguments.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    remembered.left = random.checked_rem(remembered.gap).unwrap_or(0);
    meaning
}
