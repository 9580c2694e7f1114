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

/// What people call a signal.
pub(crate) fn signal_name(number: u8) -> String {
    use nix::sys::signal::Signal;
    let name = Signal::try_from(i32::from(number)).map(Signal::as_str);
    name.map_or_else(|_| format!("signal {number}"), str::to_owned)
}

/// Why a recording ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its time was over.
    Duration,
    /// The process it was about has no VM any more.
    VmsGone,
    /// KVM's module was unloaded.
    KvmGone,
    /// A signal with this number.
    Signal(u8),
    /// Something that observing takes failed, for this reason.
    Failed(String),
}

impl Ended {
    /// An error ends a recording like anything else does: what was recorded
    /// until then is kept.
    pub(crate) fn failed(error: &anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }

    /// This end, or that of a later step that failed. The first failure is the
    /// reason.
    pub(crate) fn and(self, later: Result<()>) -> Self {
        match (self, later) {
            (failed @ Self::Failed(_), _) => failed,
            (_, Err(error)) => Self::failed(&error),
            (ended, Ok(())) => ended,
        }
    }

    /// Why the recording is not complete, if it is not.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::Duration => None,
            Self::VmsGone => Some("the recorded VM ended".to_owned()),
            Self::KvmGone => Some("KVM was unloaded".to_owned()),
            Self::Signal(number) => Some(format!("ended by {}", signal_name(*number))),
            Self::Failed(reason) => Some(reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_signal_is_called_by_its_name() {
        let names = [2, 15, 1].map(|number| Ended::Signal(number).reason());
        let expected = ["SIGINT", "SIGTERM", "SIGHUP"].map(|name| Some(format!("ended by {name}")));
        assert_eq!(names, expected);
    }

    #[test]
    fn the_first_failure_is_why_a_recording_ended() {
        let failed = |reason: &str| Err(anyhow!("{reason}").context("cannot go on"));
        let reason = |ended: Ended| ended.reason();
        assert_eq!(reason(Ended::Duration.and(Ok(()))), None);
        assert_eq!(Ended::Signal(2).and(Ok(())), Ended::Signal(2));
        let once = Ended::Duration.and(failed("EMFILE"));
        assert_eq!(
            reason(once.clone()),
            Some("cannot go on: EMFILE".to_owned())
        );
        assert_eq!(once.clone().and(failed("ENOMEM")), once);
    }
}
