//! Reading kernel memory, and loops the verifier accepts.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    Global,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_loop, bpf_probe_read_kernel},
    },
};

macro_rules! globals {
    ($($global:ident = $of:literal, $path:literal;)*) => {
        $(
            #[doc = concat!("Offset of `", $path, "` in `struct ", $of, "`.")]
            #[unsafe(no_mangle)]
            pub(crate) static $global: Global<u32> = Global::new(0);
        )*
    };
}

profiler_common::kernel_members!(globals);
profiler_common::tdp_members!(globals);

/// The time, in ns since the host was booted.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper takes no argument.
    unsafe { bpf_ktime_get_ns() }
}

/// Reads a `T` at a kernel address; `None` if the address cannot be read.
#[inline(always)]
pub(crate) fn read<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` is writable for its size; the helper checks the source address itself.
    let failed = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        )
    };
    if failed != 0 {
        return None;
    }
    // SAFETY: the helper filled it; `T` is an integer or an array of them.
    Some(unsafe { value.assume_init() })
}

/// Reads the member whose offset is in `member` of the struct at `base`.
#[inline(always)]
pub(crate) fn read_member<T: Copy>(base: u64, member: &Global<u32>) -> Option<T> {
    read(base + offset(member))
}

/// The offset in a global, widened for address arithmetic.
#[inline(always)]
pub(crate) fn offset(member: &Global<u32>) -> u64 {
    u64::from(member.load())
}

/// Reads `bytes` of kernel memory straight into a map value.
///
/// # Safety
/// `to` points into a map value with room for `bytes`.
#[inline(always)]
pub(crate) unsafe fn read_into<T>(to: *mut T, bytes: u32, address: u64) -> bool {
    // SAFETY: the caller vouches for `to`; the helper checks the source.
    unsafe { bpf_probe_read_kernel(to.cast(), bytes, address as *const c_void) == 0 }
}

/// The index is `u64`: the kernel passes a whole register, and with `u32` LLVM
/// bounds one copy of it and indexes with another, which the verifier refuses.
#[inline(never)]
unsafe extern "C" fn trampoline<F: FnMut(u64) -> bool>(index: u64, body: *mut F) -> i64 {
    // SAFETY: `repeat` passes a pointer to its own live closure.
    i64::from(unsafe { (*body)(index) })
}

/// Calls `body(0)`, `body(1)`, … up to `times` calls, until it returns true.
#[inline(always)]
pub(crate) fn repeat<F: FnMut(u64) -> bool>(times: u32, mut body: F) {
    // SAFETY: the callback's type matches the context it gets, which lives on this stack
    // for the whole call.
    unsafe {
        bpf_loop(
            times,
            trampoline::<F> as *const () as *mut c_void,
            (&raw mut body).cast(),
            0,
        );
    }
}
