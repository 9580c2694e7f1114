//! What every command that observes does before it can: check what it was
//! asked for and whether it may, start its event loop, describe the kernel and
//! choose the rung.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::sleep;

use super::{Observe, Signals};
use crate::{
    kernel::KernelError,
    ladder::{Ladder, Rung},
    logger,
    object::{Kernel, ObjectError},
    privileges,
};

/// Time between two looks for KVM.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Checks, then runs a command's `job` to its end.
pub(crate) fn run(
    observe: &Observe,
    job: impl Future<Output = Result<ExitCode>>,
) -> Result<ExitCode> {
    privileges::check()?;
    if observe.verbose {
        logger::install();
    }
    observe.check_process()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(job)
}

/// The kernel, what it offers, and what of that is used.
pub(crate) struct Ground {
    pub(crate) kernel: Kernel,
    pub(crate) ladder: Ladder,
    pub(crate) rung: Rung,
}

/// What looking for KVM ended with.
pub(crate) enum Look {
    /// It is there.
    Found(Box<Ground>),
    /// A signal with this number came first.
    Interrupted(u8),
}

impl Ground {
    /// Describes the kernel and tries what it offers.
    pub(crate) fn find(observe: &Observe) -> Result<Self> {
        Self::on(Kernel::read()?, observe)
    }

    /// As [`find`](Self::find), but waits until KVM is loaded.
    pub(crate) async fn wait(observe: &Observe, signals: &mut Signals) -> Result<Look> {
        let mut said = false;
        loop {
            match Kernel::read() {
                Err(ObjectError::Kernel(error @ KernelError::NoKvm)) => {
                    if !said {
                        report::say!("{error}; waiting for it");
                        said = true;
                    }
                }
                kernel => return Ok(Look::Found(Box::new(Self::on(kernel?, observe)?))),
            }
            tokio::select! {
                number = signals.next() => return Ok(Look::Interrupted(number)),
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn on(kernel: Kernel, observe: &Observe) -> Result<Self> {
        let ladder = Ladder::probe(&kernel)?;
        let rung = observe.choose(&ladder)?;
        Ok(Self {
            kernel,
            ladder,
            rung,
        })
    }
}
