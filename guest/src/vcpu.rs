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
use crate::memory::Mapping;
use crate::program::Word;
use crate::vm::Machine;

/// How long a vCPU may take to answer; a touch can wait for a busy disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Who wants the guest paused; it runs when nobody does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pauser {
    /// The owner of the guest.
    Caller,
    /// A driving loop that holds the guest while it ages its memory.
    Driver,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    /// One for each [`Pauser`].
    paused: [bool; 2],
    /// Outside KVM_RUN, because a pause was asked for.
    parked: bool,
    /// Why the thread ended.
    ended: Option<String>,
}

impl State {
    fn wants_pause(&self) -> bool {
        !self.stop && self.paused.contains(&true)
    }

    fn wants_run(&self) -> bool {
        !self.stop && !self.wants_pause()
    }
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

    /// Changes what is wanted and tells the guest and its thread.
    fn ask(&self, change: impl FnOnce(&mut State)) -> MutexGuard<'_, State> {
        let mut state = self.state();
        change(&mut state);
        let leave = u64::from(!state.wants_run());
        Word::Pause.store(self.machine.low(), leave);
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
        let running = |state: &mut State| state.wants_run();
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, idle, running)
            .unwrap_or_else(PoisonError::into_inner);
        while state.wants_pause() {
            state.parked = true;
            self.changed.notify_all();
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.parked = false;
        state.wants_run()
    }
}

/// A handle to steer the vCPU, for as many owners as like.
#[derive(Clone)]
pub(crate) struct VcpuHandle(Arc<Shared>);

impl VcpuHandle {
    /// Full passes done.
    pub(crate) fn passes(&self) -> u64 {
        Word::Passes.load(self.0.machine.low())
    }

    /// Why the vCPU ended, if it did.
    fn ended(&self) -> Option<String> {
        self.0.state().ended.clone()
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
    pub(crate) fn pause(&self, pauser: Pauser) -> Result<(), GuestError> {
        let state = self.0.ask(|state| state.paused[pauser as usize] = true);
        if !self.0.wait_until(state, |state| state.parked) {
            return Err(stuck("pause"));
        }
        self.check()
    }

    /// Takes a pause back.
    pub(crate) fn resume(&self, pauser: Pauser) -> Result<(), GuestError> {
        drop(self.0.ask(|state| state.paused[pauser as usize] = false));
        self.check()
    }

    /// Waits until `passes` passes are done, `cancelled`, the vCPU's end or the timeout.
    pub(crate) fn wait_for_passes(
        &self,
        passes: u64,
        timeout: Duration,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), GuestError> {
        let started = Instant::now();
        while self.passes() < passes {
            self.check()?;
            if cancelled() {
                return Err(GuestError::Cancelled);
            }
            if started.elapsed() >= timeout {
                return Err(GuestError::PassTimeout { waited: timeout });
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// The owner of the vCPU's thread. Dropping it stops the vCPU.
pub(crate) struct Vcpu {
    handle: VcpuHandle,
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
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("guest-vcpu".into())
            .spawn(move || run(&for_thread, vcpu, idle))
            .map_err(GuestError::Thread)?;
        Ok(Self {
            handle: VcpuHandle(shared),
            thread: Some(thread),
        })
    }

    /// A handle to steer the vCPU.
    pub(crate) fn handle(&self) -> &VcpuHandle {
        &self.handle
    }

    /// Ends the thread and says why it ended.
    pub(crate) fn stop(&mut self) -> Result<String, GuestError> {
        let shared = &self.handle.0;
        let state = shared.ask(|state| state.stop = true);
        if !shared.wait_until(state, |_| false) {
            // The thread keeps its own share of the machine, so its memory stays mapped.
            self.thread = None;
            return Err(stuck("stop"));
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is reported as the reason it ended.
            let _ = thread.join();
        }
        Ok(self.handle.ended().unwrap_or_default())
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
        match step(&mut vcpu, shared.machine.low()) {
            Ok(()) if shared.pass_gate(idle) => {}
            Ok(()) => break "stopped by the host".into(),
            Err(reason) => break reason,
        }
    };
}

/// Runs until the guest leaves through the exit page; any other exit is an error.
fn step(vcpu: &mut VcpuFd, low: &Mapping) -> Result<(), String> {
    match vcpu.run() {
        Ok(VcpuExit::MmioWrite(EXIT_GPA, _)) => Ok(()),
        Ok(exit) => {
            let exit = format!("{exit:?}");
            let l2 = match Word::L2Exit.load(low) {
                0 => String::new(),
                code => format!(", because L2 left with SVM's code {code:#x}"),
            };
            Err(format!("KVM exit {exit} at {}{l2}", position(vcpu)))
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
