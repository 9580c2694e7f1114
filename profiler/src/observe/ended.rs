//! What ends a recording.

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a recording early.
pub(crate) struct Signals([(u8, Signal); 3]);

impl Signals {
    /// From now on these signals end the recording instead of the process.
    pub(crate) fn catch() -> Result<Self> {
        let catch = |kind: SignalKind, number| signal(kind).map(|stream| (number, stream));
        Ok(Self([
            catch(SignalKind::interrupt(), 2)?,
            catch(SignalKind::terminate(), 15)?,
            catch(SignalKind::hangup(), 1)?,
        ]))
    }

    /// The number of the next signal.
    pub(crate) async fn next(&mut self) -> u8 {
        let [(a, interrupt), (b, terminate), (c, hangup)] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => *a,
            _ = terminate.recv() => *b,
            _ = hangup.recv() => *c,
        }
    }
}

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its time was over.
    Duration,
    /// The process it was about has no VM any more.
    VmsGone,
    /// KVM's module was unloaded.
    KvmGone,
    /// A signal with this number.
    Signal(u8),
}

impl Ended {
    /// Why the recording is not complete, if it is not.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::Duration => None,
            Self::VmsGone => Some("the recorded VM ended".to_owned()),
            Self::KvmGone => Some("KVM was unloaded".to_owned()),
            Self::Signal(number) => Some(format!("ended by signal {number}")),
        }
    }
}
