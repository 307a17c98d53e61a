//! The session with the leader: brings the view, takes reports away.
//!
//! Owns: finding the leader, the view that this node holds. Leaves alone: what is done about it. Holds: the view
//! never goes back to an older generation; each session tells everything once and then what is new.
//!
//! ```text
//! looking --Accepted--> in session --silence, end, another leader--> looking
//! ```

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use raftup_proto::{
    id::NodeId,
    peer::{Down, Hello, NodeInfo, SESSION_BEAT_MS, Up},
    refusal::Refusal,
    view::{Revision, View, ViewUpdate},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::report::Reports;
use crate::net::{Net, NetError, Peer, Stream};

const BEAT: Duration = Duration::from_millis(SESSION_BEAT_MS);
/// A session in which nothing was heard for this long is over.
const SILENCE: Duration = Duration::from_secs(2);
/// Time for a manager to say whether it leads.
const ANSWER: Duration = Duration::from_millis(1800);
/// Reports wait so long for others to come along.
const BATCH: Duration = Duration::from_millis(20);
/// First and longest wait between two rounds through the managers.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// Most hints that are followed in one round: managers may point at each other while they elect.
const HINTS: u32 = 4;

/// What the session connects.
pub(super) struct Sync {
    pub(super) net: Net,
    pub(super) node: NodeId,
    /// Managers to ask while the view names none.
    pub(super) seeds: Vec<Peer>,
    /// Drawn at random by this process.
    pub(super) process: u64,
    pub(super) info: watch::Receiver<NodeInfo>,
    pub(super) applied: watch::Receiver<Revision>,
    pub(super) reports: Arc<Reports>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) fresh: watch::Sender<bool>,
    /// The leader while a session with it stands.
    pub(super) leader: watch::Sender<Option<Peer>>,
    /// Why the leader does not want this node.
    pub(super) refused: watch::Sender<Option<Refusal>>,
    pub(super) stop: CancellationToken,
}

/// What a manager that was asked for a session said.
enum Said {
    Accepted(Stream),
    NotLeader(Option<SocketAddr>),
    Refused(Refusal),
}

impl Sync {
    /// Keeps a session until told to stop.
    pub(super) async fn run(self) {
        self.stop.clone().run_until_cancelled(self.keep()).await;
        self.leader.send_replace(None);
    }

    async fn keep(&self) {
        let mut wait = RETRY;
        let mut last = None;
        loop {
            if let Some((peer, stream)) = self.look(last).await {
                let began = Instant::now();
                tracing::info!(node = %peer.node, addr = %peer.addr, "session with the leader");
                self.leader.send_replace(Some(peer));
                let end = self.session(stream).await;
                self.leader.send_replace(None);
                tracing::info!(node = %peer.node, why = %end, "session is over");
                // One that broke was with a manager that is gone or leads no more: others are asked first.
                last = Some(peer.node);
                if began.elapsed() > SILENCE {
                    wait = RETRY;
                }
            }
            sleep(wait).await;
            wait = wait.saturating_mul(2).min(RETRY_MOST);
        }
    }

    /// Goes through the managers once, and after their hints.
    async fn look(&self, last: Option<NodeId>) -> Option<(Peer, Stream)> {
        let mut hints = 0;
        let mut next = self.managers(last);
        while let Some(peer) = next.pop_front() {
            match self.ask(peer).await {
                Ok(Said::Accepted(stream)) => {
                    self.refused.send_replace(None);
                    return Some((peer, stream));
                }
                Ok(Said::NotLeader(hint)) => {
                    let known = hint.filter(|_| hints < HINTS).and_then(|addr| self.at(addr));
                    if let Some(leader) = known {
                        hints += 1;
                        next.retain(|other| *other != leader);
                        next.push_front(leader);
                    }
                }
                Ok(Said::Refused(refusal)) => {
                    tracing::warn!(node = %peer.node, %refusal, "the leader refuses this node");
                    self.refused.send_replace(Some(refusal));
                    return None;
                }
                Err(error) => {
                    tracing::debug!(node = %peer.node, addr = %peer.addr, "no session: {error:#}");
                    if let Some(error) = error.downcast_ref::<NetError>().filter(|error| error.is_final()) {
                        self.refused.send_replace(Some(error.refusal()));
                    }
                }
            }
        }
        None
    }

    /// Managers as far as known; the one of the last session comes last.
    fn managers(&self, last: Option<NodeId>) -> VecDeque<Peer> {
        let view = self.view.borrow();
        let managers = view.peers().filter(|peer| peer.manager);
        let mut known: Vec<_> = managers.map(|peer| Peer { node: peer.node, addr: peer.control }).collect();
        let missing = self.seeds.iter().filter(|seed| known.iter().all(|peer| peer.node != seed.node));
        let missing: Vec<_> = missing.copied().collect();
        known.extend(missing);
        // So that not all nodes ask the same one first.
        let start = usize::try_from(self.node.number()).unwrap_or_default() % known.len().max(1);
        known.rotate_left(start);
        known.sort_by_key(|peer| Some(peer.node) == last);
        known.into()
    }

    /// The node whose control port has this address.
    fn at(&self, addr: SocketAddr) -> Option<Peer> {
        let view = self.view.borrow();
        let known = view.peers().find(|peer| peer.control == addr);
        let known = known.map(|peer| Peer { node: peer.node, addr });
        known.or_else(|| self.seeds.iter().find(|seed| seed.addr == addr).copied())
    }

    async fn ask(&self, peer: Peer) -> anyhow::Result<Said> {
        let ask = async {
            let mut stream = self.net.open(peer, Hello::Session).await?;
            let info = self.info.borrow().clone();
            let start = Up::Start { info, process: self.process };
            stream.write_frame(&start, Hello::Session.cap()).await?;
            Ok(match stream.read_frame::<Down>(Hello::Session.cap()).await? {
                Down::Accepted => Said::Accepted(stream),
                Down::NotLeader(hint) => Said::NotLeader(hint),
                Down::Refused(refusal) => Said::Refused(refusal),
                Down::Update(_) | Down::Alive => bail!("it began with another frame than the first"),
            })
        };
        timeout(ANSWER, ask).await.context("no answer")?
    }

    /// Carries a session to its end.
    async fn session(&self, stream: Stream) -> End {
        let (mut send, mut recv) = stream.split();
        let (mut info, mut applied) = (self.info.clone(), self.applied.clone());
        let mut moved = self.reports.moved();
        let (mut heard, mut sent, mut asked) = (Instant::now(), Instant::now(), Instant::now());
        let mut flush = None;
        let mut say: Vec<Up> =
            vec![Up::Status(self.reports.take_all()), Up::Applied(*applied.borrow_and_update())];
        loop {
            for up in say.drain(..) {
                match timeout(SILENCE, send.write_frame(&up, Hello::Session.cap())).await {
                    Ok(Ok(())) => sent = Instant::now(),
                    Ok(Err(error)) => return End::Broken(error.to_string()),
                    Err(_) => return End::Silence,
                }
            }
            // Cancel-safe: a half-read frame stays in the receiver, watched values in their channels.
            tokio::select! {
                down = recv.read_frame::<Down>(Hello::Session.cap()) => {
                    heard = Instant::now();
                    match down {
                        Ok(Down::Update(update)) => if let Err(end) = self.update(update) { return end },
                        Ok(Down::Alive) => {}
                        Ok(Down::NotLeader(_)) => return End::Broken("it leads no more".to_owned()),
                        Ok(Down::Refused(refusal)) => {
                            self.refused.send_replace(Some(refusal.clone()));
                            return End::Broken(refusal.message);
                        }
                        Ok(Down::Accepted) => return End::Broken("it began twice".to_owned()),
                        Err(error) => return End::Broken(error.to_string()),
                    }
                }
                _ = moved.changed(), if flush.is_none() => flush = Some(Instant::now() + BATCH),
                () = sleep_until(flush.unwrap_or(heard)), if flush.is_some() => {
                    flush = None;
                    // What comes after this look is seen by the next one.
                    moved.mark_unchanged();
                    say.push(Up::Status(self.reports.take_news()));
                }
                Ok(()) = applied.changed() => {
                    // What came to light while it was put in force is told before.
                    if info.has_changed().unwrap_or(false) {
                        say.push(Up::Info(info.borrow_and_update().clone()));
                    }
                    say.push(Up::Applied(*applied.borrow_and_update()));
                }
                Ok(()) = info.changed() => say.push(Up::Info(info.borrow_and_update().clone())),
                () = sleep_until(heard.min(sent).max(asked) + BEAT) => {
                    asked = Instant::now();
                    say.push(Up::Alive);
                }
                () = sleep_until(heard + SILENCE) => return End::Silence,
            }
            say.retain(|up| !matches!(up, Up::Status(reports) if reports.is_empty()));
        }
    }

    /// Takes an update into the view.
    fn update(&self, update: ViewUpdate) -> Result<(), End> {
        let held = self.view.borrow().generation;
        if update.generation < held {
            return Err(End::Old { sent: update.generation, held });
        }
        let mut fits = true;
        self.view.send_if_modified(|view| {
            fits = Arc::make_mut(view).update(update).is_ok();
            fits
        });
        if !fits {
            return Err(End::Gap);
        }
        // Only now, so that nobody takes an old view for a fresh one.
        self.fresh.send_if_modified(|fresh| !std::mem::replace(fresh, true));
        Ok(())
    }
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("nothing was heard")]
    Silence,
    #[error("{0}")]
    Broken(String),
    #[error("an update does not fit the view; the next session begins with all of it")]
    Gap,
    #[error("the view of generation {held} is newer than generation {sent}")]
    Old { sent: Revision, held: Revision },
}
