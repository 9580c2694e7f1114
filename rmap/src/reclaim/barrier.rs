//! A pair of barriers of which the frequent one costs nothing.
//!
//! A [`light_barrier`] and a [`heavy_barrier`] order a store before them and a load
//! after them as two full fences would. Two light ones order nothing.
//!
//! A heavy barrier says whether it took place: also a process that has registered may be
//! refused one (the kernel may be short of memory, a seccomp filter may have come). Light
//! ones have relied on it by then, so there is nothing to fall back to.

/// Under loom, which knows fences only.
#[cfg(loom)]
mod fences {
    use loom::sync::atomic::{Ordering::SeqCst, fence};

    #[inline]
    pub(crate) fn light_barrier() {
        fence(SeqCst);
    }

    pub(crate) fn heavy_barrier() -> bool {
        fence(SeqCst);
        true
    }
}

#[cfg(loom)]
pub(super) use fences::{heavy_barrier, light_barrier};

#[cfg(not(loom))]
mod membarrier {
    use std::sync::{
        OnceLock,
        atomic::{Ordering::SeqCst, compiler_fence, fence},
    };

    use rustix::thread::{MembarrierCommand, membarrier};

    /// Whether the kernel runs barriers for this process, as it was asked to.
    fn is_registered() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        // Miri knows no such system call.
        *REGISTERED.get_or_init(|| {
            !cfg!(miri) && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        })
    }

    #[inline]
    pub(crate) fn light_barrier() {
        if is_registered() {
            compiler_fence(SeqCst);
        } else {
            fence(SeqCst);
        }
    }

    pub(crate) fn heavy_barrier() -> bool {
        fence(SeqCst);
        !is_registered() || membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

#[cfg(not(loom))]
pub(super) use membarrier::{heavy_barrier, light_barrier};
