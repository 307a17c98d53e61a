//! Follows the engine: whether it answers, what is there, what happens.
//!
//! Owns: the list that is read anew after every gap in the events. Holds: news of what happens come only after a
//! list, and a gap is followed by one; so who keeps both knows everything.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use raftup_proto::{id::ClusterId, peer::Platform, unit::UnixMillis};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::now;
use crate::engine::{Condition, Container, Engine, EngineError, Event};

/// First and longest wait before an engine that does not answer is asked again.
pub(super) const RETRY: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// How often an engine that says nothing is asked whether it is still there.
const PING: Duration = Duration::from_secs(5);
/// Time for that answer.
const PONG: Duration = Duration::from_secs(10);
/// How often everything is looked at again, should an event have been missed without a gap.
const RELIST: Duration = Duration::from_secs(60);

/// What is known of the engine.
#[derive(Debug)]
pub(super) enum News {
    /// All containers of the cluster.
    List(Vec<Container>),
    /// Something happened.
    Event(Event),
}

/// The engine's stay before this one.
#[derive(Clone, Copy, Debug)]
struct Past {
    /// Containers went on while it was stopped.
    outlived: bool,
    /// It stopped answering.
    lost: bool,
}

impl Past {
    /// Marks the containers that ended because the engine stopped, or its host: an engine without `live-restore` stops all
    /// containers with itself, with whatever exit status they choose. Those that ended before were told of, and their
    /// owners hear no second word.
    fn mark(self, list: &mut [Container]) {
        let by_engine = self.lost && !self.outlived;
        let booted = booted();
        for container in list {
            let Condition::Exited(exit) = &mut container.condition else { continue };
            let by_host = booted.zip(exit.started).is_some_and(|(booted, started)| started < booted);
            exit.with_engine = by_engine || by_host;
        }
    }
}

/// When the host's kernel started, by the host's clock.
fn booted() -> Option<UnixMillis> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(UnixMillis(seconds.saturating_mul(1000)))
}

/// What is told.
pub(super) struct Follow {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) cluster: ClusterId,
    /// The engine answers.
    pub(super) up: watch::Sender<bool>,
    /// What it last said of itself; its version is gone while it does not answer.
    pub(super) platform: watch::Sender<Platform>,
    pub(super) news: mpsc::Sender<News>,
}

impl Follow {
    /// Follows until nobody listens.
    pub(super) async fn run(self) {
        let mut wait = RETRY;
        let mut past = Past { outlived: true, lost: false };
        while !self.news.is_closed() {
            match self.once(&mut past).await {
                // Nobody listens.
                Ok(()) => return,
                Err(error) if *self.up.borrow() => {
                    tracing::warn!(%error, "the engine does not answer");
                    self.platform.send_modify(|platform| platform.engine = None);
                    self.up.send_replace(false);
                    past.lost = true;
                    wait = RETRY;
                }
                Err(error) => {
                    tracing::debug!(%error, "the engine still does not answer");
                    sleep(wait).await;
                    wait = wait.saturating_mul(2).min(RETRY_MOST);
                }
            }
        }
    }

    /// Follows until the engine does not answer any more.
    async fn once(&self, past: &mut Past) -> Result<(), EngineError> {
        loop {
            // Events from before the list may come again; that does no harm, and none is missed.
            let mut events = self.engine.events(self.cluster, now());
            let listed = Instant::now();
            let mut list = self.engine.containers(self.cluster).await?;
            let up = *self.up.borrow();
            let outlived = if up { past.outlived } else { self.engine.outlived().await? };
            past.mark(&mut list);
            *past = Past { outlived, lost: false };
            if !up {
                let platform = self.engine.info().await?;
                tracing::info!(version = platform.engine, containers = list.len(), "the engine answers");
                self.platform.send_replace(platform);
            }
            if self.news.send(News::List(list)).await.is_err() {
                return Ok(());
            }
            self.up.send_if_modified(|up| !std::mem::replace(up, true));
            while listed.elapsed() < RELIST {
                match timeout(PING, events.next()).await {
                    Ok(Some(Ok(event))) => {
                        if self.news.send(News::Event(event)).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(Some(Err(error))) => return Err(error),
                    Ok(None) => return Err(EngineError::Down { reason: "its events ended".to_owned() }),
                    Err(_) => {
                        let late = || EngineError::Down { reason: "no answer to a ping".to_owned() };
                        timeout(PONG, self.engine.ping()).await.map_err(|_| late())??;
                    }
                }
            }
        }
    }
}
