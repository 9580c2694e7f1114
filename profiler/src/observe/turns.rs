//! Changing the sampling rate while a session lasts.
//!
//! A sample stands for the time between two, so counts of one rate end where
//! the next begins. Invariant: the caller settles before it changes the rate,
//! and so keeps what was counted even if the change fails.

use std::time::Instant;

use anyhow::Result;
use tokio::time::sleep_until;

use super::{
    Session,
    ceiling::{Above, Lowered},
    own_cost, period_ns,
    rates::Rates,
};
use crate::ladder::Rung;

/// Observing cost too much.
pub(crate) struct Excess {
    /// Its cost, in percent of all CPUs' time.
    overhead_pct: f64,
    /// Rates that cost less.
    lower: Rates,
}

impl Session<'_> {
    /// Waits until another rate's turn comes; for ever if there is none.
    pub(crate) fn turn(&self) -> impl Future<Output = ()> + use<> {
        let ends = self.turn_ends;
        async move {
            match ends {
                Some(end) => sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Goes on at the next rate. Only after [`settle`](Self::settle).
    pub(crate) fn next_turn(&mut self) -> Result<()> {
        let mut rates = self.rates.clone();
        rates.next();
        self.resample(rates)
    }

    /// Whether observing has cost too much since the last look, and what to
    /// [`lower`](Self::lower) the rates to then; nothing if that would not help, which
    /// [`above`](Self::above) tells.
    pub(crate) fn excess(&mut self) -> Option<Excess> {
        let spent = own_cost::spent(self.probes.as_ref()?.loaded())?;
        let ceiling = self.ceiling.as_mut()?;
        let cost = ceiling.exceeded(Instant::now(), spent)?;
        let lower = match self.rung {
            Rung::Sampled if ceiling.is_within_reach(cost) => self.rates.lowered(),
            Rung::Sampled | Rung::Exact => None,
        };
        if lower.is_none() && self.above.is_none() {
            self.above = Some(Above {
                at_s: self.start.at.elapsed().as_secs_f64(),
                most_pct: ceiling.most_pct(),
                cost,
                is_told: false,
            });
        }
        Some(Excess {
            overhead_pct: cost.all_pct,
            lower: lower?,
        })
    }

    /// That the limit cannot be kept, the first time it is asked for.
    pub(crate) fn news(&mut self) -> Option<String> {
        let above = self.above.as_mut()?;
        let known = std::mem::replace(&mut above.is_told, true);
        (!known).then(|| above.told())
    }

    /// Goes on at lower rates. Only after [`settle`](Self::settle).
    pub(crate) fn lower(&mut self, excess: Excess) -> Result<()> {
        let lowered = Lowered {
            at_s: self.start.at.elapsed().as_secs_f64(),
            from_hz: self.rates.highest_hz(),
            to_hz: excess.lower.highest_hz(),
            overhead_pct: excess.overhead_pct,
        };
        self.resample(excess.lower)?;
        self.lowered.push(lowered);
        Ok(())
    }

    /// The rates are the old ones until the kernel has taken the new ones.
    fn resample(&mut self, rates: Rates) -> Result<()> {
        if let Some(probes) = &mut self.probes {
            probes.resample(&mut self.ebpf, period_ns(rates.now_hz()))?;
        }
        self.rates = rates;
        self.begin_turn();
        Ok(())
    }

    /// This rate's time begins.
    pub(super) fn begin_turn(&mut self) {
        let turn = match self.rung {
            Rung::Sampled => self.rates.turn(),
            Rung::Exact => None,
        };
        self.turn_ends = turn.map(|turn| Instant::now() + turn);
    }
}
