//! Aging in a loop, from a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{DriverError, SharedDriver};
use crate::error::GuestError;
use crate::vcpu::{Pauser, VcpuHandle};

/// How a loop goes about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Between two iterations.
    pub(crate) pause: Duration,
    /// Keep the guest paused during an iteration and let it refill its chains after.
    pub(crate) hold: bool,
    /// How long refilling may take.
    pub(crate) pass_timeout: Duration,
}

/// A thread that calls a driver again and again. Dropping it ends the thread.
pub(crate) struct DriverLoop {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), GuestError>>>,
}

impl DriverLoop {
    pub(crate) fn start(
        driver: SharedDriver,
        vcpu: VcpuHandle,
        plan: Plan,
    ) -> Result<Self, DriverError> {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            driver,
            vcpu,
            plan,
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new()
            .name("guest-driver".into())
            .spawn(move || worker.run())
            .map_err(|error| DriverError::Thread(error.to_string()))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Whether the loop ended by itself, which it does on an error only.
    pub(crate) fn has_failed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the loop after the iteration that runs.
    pub(crate) fn stop(&mut self) -> Result<(), GuestError> {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread.thread().unpark();
        let panicked = |_| Err(DriverError::Thread("it panicked".into()).into());
        thread.join().unwrap_or_else(panicked)
    }
}

impl Drop for DriverLoop {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.stop();
    }
}

/// Ages once while the guest stands still, lets it refill its chains and tells how long the aging
/// alone took.
pub(crate) fn age_held(
    driver: &SharedDriver,
    vcpu: &VcpuHandle,
    pass_timeout: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<Duration, GuestError> {
    vcpu.pause(Pauser::Driver)?;
    let began = Instant::now();
    let aged = driver.age_once();
    let took = began.elapsed();
    vcpu.resume(Pauser::Driver)?;
    aged?;
    // The pass that was interrupted, and one over everything.
    vcpu.wait_for_passes(vcpu.passes() + 2, pass_timeout, cancelled)?;
    Ok(took)
}

struct Worker {
    driver: SharedDriver,
    vcpu: VcpuHandle,
    plan: Plan,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(&self) -> Result<(), GuestError> {
        while !self.is_stopped() {
            if self.plan.hold {
                self.age_held()?;
            } else {
                self.driver.age_once()?;
            }
            if !self.is_stopped() {
                // Waking early, for no reason, only makes this pause shorter.
                thread::park_timeout(self.plan.pause);
            }
        }
        Ok(())
    }

    fn age_held(&self) -> Result<(), GuestError> {
        let stopped = || self.is_stopped();
        match age_held(&self.driver, &self.vcpu, self.plan.pass_timeout, &stopped) {
            Err(GuestError::Cancelled) => Ok(()),
            result => result.map(drop),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
