//! Ending a run early without losing it.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// SIGINT, SIGTERM and SIGHUP end the run after the measurement in hand.
pub struct Signals {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// Starts watching.
    ///
    /// # Errors
    /// When the kernel refuses the handlers.
    pub fn watch() -> Result<Self> {
        let signals = Self {
            stop: Arc::default(),
            last: Arc::default(),
        };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, Arc::clone(&signals.last), signal as usize)
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&signals.stop)))
                .context("cannot watch for Ctrl-C")?;
        }
        Ok(signals)
    }

    /// Set once a signal came.
    #[must_use]
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// Whether a signal came.
    #[must_use]
    pub fn came(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The shell's status for a process ended by the signal that came.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        let signal = self.last.load(Ordering::Relaxed);
        u8::try_from(128 + signal).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}
