//! `rmapscope exporter`: the signals for Prometheus.
//!
//! | module | what it does |
//! |---|---|
//! | `sums` | adds up what was seen, bounded by the VMs there are |
//! | `exposition` | turns sums into OpenMetrics |
//! | `server` | answers over HTTP |
//!
//! The counters are read on a timer, not on a scrape, so what scrapers do has
//! no influence on what observing costs.

mod exposition;
mod server;
mod sums;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, sleep_until},
};

use self::{server::serve, sums::Sums};
use crate::{
    observe::{Ground, Look, Observe, Session, Signals, Stretch, begin},
    privileges::Keep,
};

/// Time between two reads of the counters.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Options of `rmapscope exporter`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Address and port to answer at; not encrypted, so keep it local
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9847", value_parser = parse_address)]
    listen: SocketAddr,
    #[command(flatten)]
    observe: Observe,
}

/// Exports until interrupted.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    begin::run(&options.observe, export(options))
}

async fn export(options: &Options) -> Result<ExitCode> {
    let mut signals = Signals::catch()?;
    // First of all: a port in use is known before anything is attached.
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!(
            "cannot listen at {}; choose another --listen",
            options.listen
        )
    })?;
    // A host's exporter starts with the host, KVM perhaps later.
    let ground = match Ground::wait(&options.observe, &mut signals).await? {
        Look::Found(ground) => ground,
        Look::Interrupted(number) => return Ok(ExitCode::from(128 + number)),
    };
    let mut session = Session::prepare(&options.observe, 0, &ground)?;
    session.refresh()?;
    session.start(&ground.ladder, Keep::Observing)?;
    let _logging = session.forward_log()?;
    let address = listener.local_addr()?;
    report::say!("http://{address}/metrics: {}", session.manner());
    let mut first = Sums::default();
    first.add(&session.settle()?, &session);
    let sums = Arc::new(Mutex::new(first));
    tokio::select! {
        number = signals.next() => Ok(ExitCode::from(128 + number)),
        result = read(&mut session, &sums) => result.map(|()| ExitCode::SUCCESS),
        result = serve(listener, exposition::registry(Arc::clone(&sums))) => {
            result.map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Reads the counters and looks for VMs, for ever.
async fn read(session: &mut Session<'_>, sums: &Mutex<Sums>) -> Result<()> {
    let mut ticks = interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_refresh = Instant::now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                add(sums, &session.settle()?, session);
                if let Some(excess) = session.excess() {
                    add(sums, &session.settle()?, session);
                    session.lower(excess)?;
                }
                if let Some(news) = session.news() {
                    report::say!("{news}");
                }
            }
            () = session.turn() => {
                add(sums, &session.settle()?, session);
                session.next_turn()?;
            }
            () = sleep_until(next_refresh.into()) => {
                next_refresh = Instant::now() + session.refresh()?;
                session.forget_gone()?;
            }
        }
    }
}

/// A server that panicked ends the program; there is nothing to add to then.
fn add(sums: &Mutex<Sums>, stretch: &Stretch, session: &Session<'_>) {
    if let Ok(mut sums) = sums.lock() {
        sums.add(stretch, session);
    }
}

/// An address with its port.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let wrong =
        |_| format!("{text:?} is no address with a port; write 127.0.0.1:9847 or [::1]:9847");
    text.parse().map_err(wrong)
}
