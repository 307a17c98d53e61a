//! The resolver as a process: `raftupd names`.
//!
//! It does what is asked at its socket, and answers on when the daemon does not. Orders are carried out beside the
//! thread that answers, so that no question waits for them. Holds: it has no rights from its start on, as it reads what
//! containers and the host's resolvers send; the daemon opens its sockets and hands them over.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::Context;
use raftup_proto::view::View;
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::{
    Names, handover,
    orders::{Answer, Change, Order},
    server::Dns,
};
use crate::{
    apart::{self, VERSION},
    privileges,
};

/// The one resolver of this process.
struct Resolver {
    runtime: Handle,
    state: Mutex<State>,
}

/// What it was told, and the sockets.
#[derive(Default)]
struct State {
    /// Networks and services alone; none before the first order.
    view: Option<View>,
    dns: Dns,
}

/// Answers questions, and orders on the socket that is the standard input, for ever. Errors: that is no socket.
pub fn run() -> anyhow::Result<()> {
    let listener = apart::listener().context("taking the socket over")?;
    if let Err(error) = privileges::give_up() {
        warn!(%error, "the resolver keeps rights that it does not need");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let resolver = Arc::new(Resolver { runtime: runtime.handle().clone(), state: Mutex::default() });
    let (ended, end) = tokio::sync::oneshot::channel();
    thread::Builder::new().name("orders".to_owned()).spawn(move || {
        // Whoever waits for it is gone only with the process.
        let _ = ended.send(listen(&listener, &resolver));
    })?;
    runtime.block_on(end).context("no thread takes orders")?
}

fn listen(listener: &std::os::unix::net::UnixListener, resolver: &Arc<Resolver>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().context("standard input is not a socket that listens")?;
        let resolver = Arc::clone(resolver);
        thread::Builder::new().name("order".to_owned()).spawn(move || {
            if let Err(error) = resolver.serve(&stream) {
                warn!(error = format!("{error:#}"), "a daemon was not answered");
            }
        })?;
    }
}

impl Resolver {
    fn serve(&self, stream: &UnixStream) -> anyhow::Result<()> {
        // Sockets and tasks belong to the runtime, whichever thread makes them.
        let _inside = self.runtime.enter();
        let generation = self.state().view.as_ref().map(|view| view.generation);
        apart::say(stream, &Answer::Hello { version: VERSION.to_owned(), generation })?;
        for line in BufReader::new(stream).lines() {
            match serde_json::from_str(&line?).context("an order that is not understood")? {
                Order::Set(change) => {
                    let done = self.state().set(change);
                    let failed = |error| Answer::Failed(format!("{error:#}"));
                    apart::say(stream, &done.map_or_else(failed, Answer::Done))?;
                }
                Order::Adopt => {
                    apart::say(stream, &Answer::Ready)?;
                    let taken = handover::take(stream).context("the sockets do not come")?;
                    let adopted = taken.into_iter().try_for_each(|sockets| self.state().dns.adopt(sockets));
                    let failed = |error| Answer::Failed(format!("the sockets cannot be used: {error}"));
                    apart::say(stream, &adopted.map_or_else(failed, |()| Answer::Done(BTreeSet::new())))?;
                }
                Order::HandOver => self.hand_over(stream)?,
                Order::Stop => {
                    info!("names are answered no more");
                    std::process::exit(0)
                }
            }
        }
        Ok(())
    }

    /// Hands the sockets over and ends once the questions that came before have their answers.
    fn hand_over(&self, stream: &UnixStream) -> anyhow::Result<()> {
        let mut state = self.state();
        let sockets = state.dns.sockets().context("copying the sockets")?;
        handover::give(stream, &sockets).context("handing the sockets over")?;
        info!("another one goes on with the sockets");
        self.runtime.block_on(state.dns.drain());
        std::process::exit(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Answers the gateways that there are no sockets of.
    fn set(&mut self, change: Change) -> anyhow::Result<BTreeSet<Ipv4Addr>> {
        let mut view = self.view.take().unwrap_or_default();
        let fits = view.update(change.update);
        // Names first: whoever asks at a new socket finds them.
        self.dns.set_names(Names::of(&view, change.own), change.pool);
        self.view = Some(view);
        fits?;
        Ok(self.dns.keep(&change.gateways))
    }
}
