//! The tunnel as a process: `raftupd fabric`.
//!
//! It is given a socket that listens as its standard input, does what is asked there, and lives on when the daemon does
//! not. Only root can open the socket. Holds: once device and socket are there it has no rights, as it reads what anybody
//! sends. Rights belong to threads, so all others are started after that.

use std::{
    io::{BufRead, BufReader, Lines},
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Context;
use tracing::{info, warn};

use super::{
    TunnelSpec,
    engine::{Engine, Parts},
    spec::{Answer, Order},
    tun::Tun,
};
use crate::{
    apart::{self, VERSION},
    privileges,
};

/// The threads, and what they were told to be, once they were told.
type Running = (Arc<Engine>, Option<TunnelSpec>);

/// The one tunnel of this process.
#[derive(Default)]
struct Tunnel {
    running: Mutex<Option<Running>>,
}

/// A daemon, and the orders that it gives.
struct Orders {
    stream: UnixStream,
    lines: Lines<BufReader<UnixStream>>,
}

/// Answers on the socket that is the standard input, for ever. Errors: that is no socket.
pub fn run() -> anyhow::Result<()> {
    let listener = apart::listener().context("taking the socket over")?;
    let tunnel = Arc::new(Tunnel::default());
    let mut begun = false;
    loop {
        let (stream, _) = listener.accept().context("standard input is not a socket that listens")?;
        let mut orders = match Orders::begin(stream) {
            Ok(orders) => orders,
            Err(error) => {
                unanswered(&error);
                continue;
            }
        };
        // One daemon after the other, on this thread, until the tunnel runs.
        let mut more = true;
        while !begun && more {
            more = tunnel.next(&mut orders).inspect_err(unanswered).unwrap_or(false);
            begun = tunnel.runs();
        }
        if !more {
            continue;
        }
        let tunnel = Arc::clone(&tunnel);
        thread::Builder::new()
            .name("orders".to_owned())
            .spawn(move || while tunnel.next(&mut orders).inspect_err(unanswered).unwrap_or(false) {})?;
    }
}

fn unanswered(error: &anyhow::Error) {
    warn!(error = format!("{error:#}"), "a daemon was not answered");
}

impl Orders {
    fn begin(stream: UnixStream) -> anyhow::Result<Self> {
        apart::say(&stream, &Answer::Hello { version: VERSION.to_owned() })?;
        let lines = BufReader::new(stream.try_clone()?).lines();
        Ok(Self { stream, lines })
    }
}

impl Tunnel {
    /// Carries out the next order; false if there is none.
    fn next(&self, orders: &mut Orders) -> anyhow::Result<bool> {
        let Some(line) = orders.lines.next() else { return Ok(false) };
        let line = zeroize::Zeroizing::new(line?);
        let order: Order = serde_json::from_str(&line).context("an order that is not understood")?;
        if matches!(order, Order::HandOver) {
            self.hand_over(&orders.stream)?;
        } else {
            apart::say(&orders.stream, &self.carry_out(order))?;
        }
        Ok(true)
    }

    fn runs(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Helps whoever has asked until that one needs no help, and ends then. Errors: there is nothing to hand over.
    fn hand_over(&self, stream: &UnixStream) -> anyhow::Result<()> {
        let taken = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (engine, spec) = taken.context("nothing was set up yet")?;
        let Err(error) = engine.hand_over(stream);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((engine, spec));
        Err(error).context("handing device and socket over")
    }

    fn carry_out(&self, order: Order) -> Answer {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match order {
            Order::Set(spec) => match set(&mut running, spec) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(format!("{error:#}")),
            },
            Order::Status => {
                Answer::Links(running.as_ref().map(|(engine, _)| engine.status()).unwrap_or_default())
            }
            Order::TakeOver(path) => match take_over(&path) {
                Ok(engine) => {
                    *running = Some((engine, None));
                    Answer::Done
                }
                Err(error) => Answer::Failed(format!("{error:#}")),
            },
            // Answered by what it asks for, not by a word.
            Order::HandOver => Answer::Failed("not here".to_owned()),
            Order::Stop => {
                info!("the tunnel ends");
                std::process::exit(0)
            }
        }
    }
}

fn set(running: &mut Option<Running>, spec: TunnelSpec) -> anyhow::Result<()> {
    let engine = match running {
        Some((_, Some(known))) if *known == spec => return Ok(()),
        Some((_, Some(known))) if known.listen != spec.listen => {
            anyhow::bail!("it listens on {} and should on {}", known.listen, spec.listen)
        }
        Some((engine, _)) => Arc::clone(engine),
        None => {
            let tun = Tun::make().context("making the device (is there a `/dev/net/tun`?)")?;
            let segments = tun.segments;
            let parts =
                Parts::open(tun, spec.listen).with_context(|| format!("listening on UDP {}", spec.listen))?;
            let engine = start(parts)?;
            info!(listen = %spec.listen, segments, "the tunnel begins");
            engine
        }
    };
    engine.become_of(&spec);
    *running = Some((engine, Some(spec)));
    Ok(())
}

/// Device and socket of the process that answers at `path`. Errors: it does not, or has none.
fn take_over(path: &Path) -> anyhow::Result<Arc<Engine>> {
    let stream =
        apart::order(path, &Order::HandOver).with_context(|| format!("asking at `{}`", path.display()))?;
    let engine = start(Parts::take_over(&stream).context("device and socket are not handed over")?)?;
    info!("goes on where the older tunnel was");
    Ok(engine)
}

/// Begins to work on `parts`, without rights from now on.
fn start(parts: Parts) -> anyhow::Result<Arc<Engine>> {
    if let Err(error) = privileges::give_up() {
        warn!(%error, "the tunnel keeps rights that it does not need");
    }
    Engine::start(parts).context("starting the threads of the tunnel")
}
