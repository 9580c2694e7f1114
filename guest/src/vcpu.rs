//! The vCPU's thread: runs the guest, parks it, lets it go.
//!
//! The guest looks at the control page before each touch and leaves through the exit page when
//! the host asks it to; the thread then waits outside KVM_RUN. No signals are involved.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::error::GuestError;
use crate::layout::EXIT_GPA;
use crate::program::Word;
use crate::vm::Machine;

/// How long a vCPU may take to answer; a touch can wait for a busy disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the vCPU is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Run,
    Pause,
    Stop,
}

#[derive(Debug)]
struct State {
    want: Want,
    /// Outside KVM_RUN, because a pause was asked for.
    parked: bool,
    /// Why the thread ended.
    ended: Option<String>,
}

struct Shared {
    machine: Arc<Machine>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets `want` and tells the guest and its thread.
    fn ask(&self, want: Want) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.want = want;
        let pause = u64::from(want != Want::Run);
        Word::Pause.store(self.machine.low(), pause);
        self.changed.notify_all();
        state
    }

    /// Waits until `done` holds or the thread ended; false on a timeout.
    fn wait_until(&self, state: MutexGuard<'_, State>, done: fn(&State) -> bool) -> bool {
        let pending = |state: &mut State| !done(state) && state.ended.is_none();
        let (_state, result) = self
            .changed
            .wait_timeout_while(state, ANSWER_TIMEOUT, pending)
            .unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }

    /// Called outside KVM_RUN: idles or parks; false when the thread is to end.
    fn pass_gate(&self, idle: Duration) -> bool {
        let state = self.state();
        let running = |state: &mut State| state.want == Want::Run;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, idle, running)
            .unwrap_or_else(PoisonError::into_inner);
        while state.want == Want::Pause {
            state.parked = true;
            self.changed.notify_all();
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.parked = false;
        state.want == Want::Run
    }
}

/// The host's hand on the vCPU's thread. Dropping it stops the vCPU.
pub(crate) struct Vcpu {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Vcpu {
    /// Starts running the guest, with `idle` between passes.
    pub(crate) fn start(
        machine: Arc<Machine>,
        vcpu: VcpuFd,
        idle: Duration,
    ) -> Result<Self, GuestError> {
        let shared = Arc::new(Shared {
            machine,
            state: Mutex::new(State {
                want: Want::Run,
                parked: false,
                ended: None,
            }),
            changed: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("guest-vcpu".into())
            .spawn(move || run(&for_thread, vcpu, idle))
            .map_err(GuestError::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Full passes done.
    pub(crate) fn passes(&self) -> u64 {
        Word::Passes.load(self.shared.machine.low())
    }

    /// Why the vCPU ended, if it did.
    pub(crate) fn ended(&self) -> Option<String> {
        self.shared.state().ended.clone()
    }

    /// The error for a vCPU that ended by itself, if it did.
    pub(crate) fn check(&self) -> Result<(), GuestError> {
        match self.ended() {
            None => Ok(()),
            Some(reason) => Err(GuestError::Exited {
                passes: self.passes(),
                reason,
            }),
        }
    }

    /// Returns once the vCPU is outside the guest.
    pub(crate) fn pause(&self) -> Result<(), GuestError> {
        let state = self.shared.ask(Want::Pause);
        if !self.shared.wait_until(state, |state| state.parked) {
            return Err(stuck("pause"));
        }
        self.check()
    }

    /// Lets a paused vCPU run again.
    pub(crate) fn resume(&self) -> Result<(), GuestError> {
        drop(self.shared.ask(Want::Run));
        self.check()
    }

    /// Ends the thread and says why it ended.
    pub(crate) fn stop(&mut self) -> Result<String, GuestError> {
        let state = self.shared.ask(Want::Stop);
        if !self.shared.wait_until(state, |_| false) {
            // The thread keeps its own share of the machine, so its memory stays mapped.
            self.thread = None;
            return Err(stuck("stop"));
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is reported as the reason it ended.
            let _ = thread.join();
        }
        Ok(self.ended().unwrap_or_default())
    }

    /// Waits for the first pass, `cancelled`, the vCPU's end or the timeout.
    pub(crate) fn wait_for_pass(
        &self,
        timeout: Duration,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), GuestError> {
        let started = Instant::now();
        while self.passes() == 0 {
            self.check()?;
            if cancelled() {
                return Err(GuestError::Cancelled);
            }
            if started.elapsed() >= timeout {
                return Err(GuestError::FirstPassTimeout { waited: timeout });
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Nobody is left to be told.
            let _ = self.stop();
        }
    }
}

fn stuck(asked: &'static str) -> GuestError {
    GuestError::Stuck {
        asked,
        waited: ANSWER_TIMEOUT,
    }
}

/// Sets the reason even if the thread panics, so that nobody waits for it.
struct Farewell<'a> {
    shared: &'a Shared,
    reason: String,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        self.shared.state().ended = Some(std::mem::take(&mut self.reason));
        self.shared.changed.notify_all();
    }
}

fn run(shared: &Shared, mut vcpu: VcpuFd, idle: Duration) {
    let mut farewell = Farewell {
        shared,
        reason: "the vCPU thread panicked".into(),
    };
    farewell.reason = loop {
        match step(&mut vcpu) {
            Ok(()) if shared.pass_gate(idle) => {}
            Ok(()) => break "stopped by the host".into(),
            Err(reason) => break reason,
        }
    };
}

/// Runs until the guest leaves through the exit page; any other exit is an error.
fn step(vcpu: &mut VcpuFd) -> Result<(), String> {
    match vcpu.run() {
        Ok(VcpuExit::MmioWrite(EXIT_GPA, _)) => Ok(()),
        Ok(exit) => {
            let exit = format!("{exit:?}");
            Err(format!("KVM exit {exit} at {}", position(vcpu)))
        }
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Ok(()),
        Err(error) => Err(format!("KVM_RUN failed: {error} at {}", position(vcpu))),
    }
}

fn position(vcpu: &VcpuFd) -> String {
    match vcpu.get_regs() {
        Ok(regs) => format!("rip {:#x}, rsi {:#x}", regs.rip, regs.rsi),
        Err(error) => format!("an unknown place ({error})"),
    }
}
