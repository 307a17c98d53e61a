//! The session with the leader: brings the view, takes reports away.
//!
//! Owns: finding the leader, the view that this node holds. Leaves alone: what is done about it. Holds: the view
//! never goes back to an older generation; each session tells everything once and then what is new; parts of a view
//! that have come are kept over the end of a session, and not sent again; no time limit counts a transfer that moves.
//!
//! ```text
//! looking --Accepted--> in session --silence, end, another leader--> looking
//! ```

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use raftup_proto::{
    id::NodeId,
    peer::{Down, Hello, NodeInfo, Role, SESSION_BEAT_MS, TaskReport, Up},
    refusal::Refusal,
    view::{Assembly, Digests, Key, Revision, View, ViewPart, ViewUpdate},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::report::Reports;
use crate::{
    net::{Net, NetError, Peer, Receiver, Sender, Stream},
    plan::{claims, nodes},
};

const BEAT: Duration = Duration::from_millis(SESSION_BEAT_MS);
/// A session in which no byte was heard for this long, or none was taken, is over.
const SILENCE: Duration = Duration::from_secs(2);
/// Time for a manager to say whether it leads.
const ANSWER: Duration = Duration::from_millis(1800);
/// Reports wait so long for others to come along.
const BATCH: Duration = Duration::from_millis(20);
/// First and longest wait between two rounds through the managers. Each wait is drawn between half of it and all of it, so
/// that the nodes of a cluster do not ask at the same moment.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// Most hints that are followed in one round: managers may point at each other while they elect.
const HINTS: u32 = 4;
/// Nodes besides the managers that are asked in one round who leads: all managers of a view that was saved long ago may be
/// gone.
const OTHERS: usize = 3;

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
    NotLeader(Option<Peer>),
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
        let mut parts = None;
        loop {
            if let Some((peer, stream)) = self.look(last, parts.as_ref()).await {
                let began = Instant::now();
                tracing::info!(node = %peer.node, addr = %peer.addr, "session with the leader");
                self.leader.send_replace(Some(peer));
                let end = self.session(stream, &mut parts).await;
                self.leader.send_replace(None);
                tracing::info!(node = %peer.node, why = %end, "session is over");
                // One that broke was with a manager that is gone or leads no more: others are asked first.
                last = Some(peer.node);
                if began.elapsed() > SILENCE {
                    wait = RETRY;
                }
            }
            sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
            wait = wait.saturating_mul(2).min(RETRY_MOST);
        }
    }

    /// Goes through those who may know the leader once, and after their hints. A hint needs no trust: whoever gives the
    /// session has to have a manager's certificate.
    async fn look(&self, last: Option<NodeId>, parts: Option<&Assembly>) -> Option<(Peer, Stream)> {
        let held = self.held(parts).await;
        let (mut hints, mut asked) = (0, BTreeSet::new());
        let mut next = self.candidates(last);
        while let Some(peer) = next.pop_front() {
            if !asked.insert(peer) {
                continue;
            }
            match self.ask(peer, &held).await {
                Ok(Said::Accepted(stream)) => {
                    self.refused.send_replace(None);
                    return Some((peer, stream));
                }
                Ok(Said::NotLeader(named)) => {
                    if let Some(leader) = named.filter(|_| hints < HINTS) {
                        hints += 1;
                        next.push_front(leader);
                    }
                }
                Ok(Said::Refused(refusal)) => {
                    self.refuse(peer, refusal);
                    return None;
                }
                Err(error) => {
                    tracing::debug!(node = %peer.node, addr = %peer.addr, "no session: {error:#}");
                    if let Some(error) = error.downcast_ref::<NetError>().filter(|error| error.is_final()) {
                        self.refuse(peer, error.refusal());
                    }
                }
            }
        }
        None
    }

    /// Keeps why this node is refused, and says it once.
    fn refuse(&self, peer: Peer, refusal: Refusal) {
        self.refused.send_if_modified(|refused| {
            let differs = refused.as_ref() != Some(&refusal);
            if differs {
                tracing::warn!(node = %peer.node, %refusal, "the cluster refuses this node");
                *refused = Some(refusal);
            }
            differs
        });
    }

    /// Digests of what this node holds, with the parts that have come.
    async fn held(&self, parts: Option<&Assembly>) -> Digests {
        let view = parts.map_or_else(|| View::clone(&self.view.borrow()), |parts| parts.view().clone());
        let digests = move || Digests::of(view.items.values().map(|item| &**item));
        tokio::task::spawn_blocking(digests).await.unwrap_or(Digests::UNKNOWN)
    }

    /// Managers as far as known, the one of the last session last; then a few others, who may know more.
    fn candidates(&self, last: Option<NodeId>) -> VecDeque<Peer> {
        let view = self.view.borrow();
        let place = |peer: &raftup_proto::view::PeerItem| Peer { node: peer.node, addr: peer.control };
        let mut managers: Vec<_> = view.peers().filter(|peer| peer.manager).map(place).collect();
        let seeds = self.seeds.iter().filter(|seed| managers.iter().all(|peer| peer.node != seed.node));
        let seeds: Vec<_> = seeds.copied().collect();
        managers.extend(seeds);
        // So that not all nodes ask the same one first.
        let start = usize::try_from(self.node.number()).unwrap_or_default() % managers.len().max(1);
        managers.rotate_left(start);
        managers.sort_by_key(|peer| Some(peer.node) == last);
        let mut others: Vec<_> =
            view.peers().filter(|peer| !peer.manager && peer.node != self.node).map(place).collect();
        if !others.is_empty() {
            let start = rand::random_range(0..others.len());
            others.rotate_left(start);
        }
        managers.into_iter().chain(others.into_iter().take(OTHERS)).collect()
    }

    async fn ask(&self, peer: Peer, held: &Digests) -> anyhow::Result<Said> {
        let ask = async {
            let mut stream = self.net.open(peer, Hello::Session).await?;
            let info = self.info.borrow().clone();
            let start = Up::Resume { info, process: self.process, held: held.clone() };
            stream.write_frame(&start, Hello::Session.cap()).await?;
            Ok(match stream.read_frame::<Down>(Hello::Session.cap()).await? {
                Down::Accepted => {
                    let role = self.net.role(peer.node);
                    ensure!(role == Some(Role::Manager), "it is no manager, and cannot lead");
                    Said::Accepted(stream)
                }
                Down::NotLeader(_) => Said::NotLeader(None),
                Down::Leader { node, addr } => Said::NotLeader(Some(Peer { node, addr })),
                Down::Refused(refusal) => Said::Refused(refusal),
                Down::Update(_) | Down::Alive | Down::Part(_) | Down::NotInForce(_) => {
                    bail!("it began with another frame than the first")
                }
            })
        };
        timeout(ANSWER, ask).await.context("no answer")?
    }

    /// Carries a session to its end.
    async fn session(&self, stream: Stream, parts: &mut Option<Assembly>) -> End {
        let (send, recv) = stream.split();
        let heard = watch::Sender::new(Instant::now());
        // Each owns its half, so that neither waits for the other; whichever ends first ends the session.
        tokio::select! {
            end = self.tell(send, &heard) => end,
            end = self.listen(recv, &heard, parts) => end,
        }
    }

    /// Says what there is to say, and asks whether the leader lives.
    async fn tell(&self, mut send: Sender, heard: &watch::Sender<Instant>) -> End {
        let (mut info, mut applied) = (self.info.clone(), self.applied.clone());
        let mut moved = self.reports.moved();
        let (mut sent, mut asked) = (Instant::now(), Instant::now());
        let mut flush = None;
        let mut say = status(&self.reports.take_all());
        say.push(Up::Applied(*applied.borrow_and_update()));
        loop {
            for up in say.drain(..) {
                match send.write_frame_while_it_moves(&up, Hello::Session.cap(), SILENCE).await {
                    Ok(()) => sent = Instant::now(),
                    Err(error) => return End::Broken(error.to_string()),
                }
            }
            let beat = (*heard.borrow()).min(sent).max(asked) + BEAT;
            // Cancel-safe: watched values stay in their channels.
            tokio::select! {
                _ = moved.changed(), if flush.is_none() => flush = Some(Instant::now() + BATCH),
                () = sleep_until(flush.unwrap_or(beat)), if flush.is_some() => {
                    flush = None;
                    // What comes after this look is seen by the next one.
                    moved.mark_unchanged();
                    say = status(&self.reports.take_news());
                }
                Ok(()) = applied.changed() => {
                    // What came to light while it was put in force is told before.
                    if info.has_changed().unwrap_or(false) {
                        say.push(Up::Info(info.borrow_and_update().clone()));
                    }
                    say.push(Up::Applied(*applied.borrow_and_update()));
                }
                Ok(()) = info.changed() => say.push(Up::Info(info.borrow_and_update().clone())),
                () = sleep_until(beat) => {
                    let now = Instant::now();
                    // Something may have been heard meanwhile.
                    if now >= (*heard.borrow()).min(sent).max(asked) + BEAT {
                        asked = now;
                        say.push(Up::Alive);
                    }
                }
            }
        }
    }

    /// Takes in what the leader says.
    async fn listen(
        &self,
        mut recv: Receiver,
        heard: &watch::Sender<Instant>,
        parts: &mut Option<Assembly>,
    ) -> End {
        loop {
            let until = *heard.borrow() + SILENCE;
            // Cancel-safe: a half-read frame stays in the receiver.
            let down = tokio::select! {
                biased;
                down = recv.read_frame::<Down>(Hello::Session.cap()) => down,
                () = sleep_until(until) => {
                    // A part of a frame is as good a sign of life as a frame.
                    if recv.heard() + SILENCE > until {
                        heard.send_replace(recv.heard());
                        continue;
                    }
                    return End::Silence;
                }
            };
            heard.send_replace(Instant::now());
            let taken = match down {
                Ok(Down::Update(update)) => {
                    *parts = None;
                    self.update(update)
                }
                Ok(Down::Part(part)) => self.part(part, parts),
                Ok(Down::Alive) => Ok(()),
                Ok(Down::NotInForce(reasons)) => {
                    match reasons.is_empty() {
                        true => tracing::info!("all that this node says of itself is in force"),
                        false => {
                            tracing::warn!(
                                ?reasons,
                                "parts of what this node says of itself are not in force"
                            );
                        }
                    }
                    Ok(())
                }
                Ok(Down::NotLeader(_) | Down::Leader { .. }) => {
                    Err(End::Broken("it leads no more".to_owned()))
                }
                Ok(Down::Refused(refusal)) => {
                    if refusal == nodes::was_removed(self.node) {
                        self.give_up();
                    }
                    self.refused.send_replace(Some(refusal.clone()));
                    Err(End::Broken(refusal.message))
                }
                Ok(Down::Accepted) => Err(End::Broken("it began twice".to_owned())),
                Err(error) => Err(End::Broken(error.to_string())),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    /// This node was removed, says the leader in a session: what it runs is run elsewhere by now, and goes from here. Only
    /// who is in the cluster stays known.
    fn give_up(&self) {
        tracing::warn!("this node was removed from the cluster; its tasks go");
        self.view.send_modify(|view| {
            let stays = view.items.iter().filter(|(key, _)| matches!(key, Key::Cluster | Key::Peer(_)));
            let items = stays.map(|(key, item)| (*key, Arc::clone(item))).collect();
            *view = Arc::new(View { generation: view.generation, items });
        });
    }

    /// Takes a part of a view, and the whole view with the last one.
    fn part(&self, part: ViewPart, parts: &mut Option<Assembly>) -> Result<(), End> {
        let held = self.view.borrow().generation;
        if part.generation < held {
            return Err(End::Old { sent: part.generation, held });
        }
        let last = part.last;
        let assembly = parts.get_or_insert_with(|| Assembly::of(View::clone(&self.view.borrow())));
        assembly.take(part);
        if let Some(whole) = parts.take_if(|_| last) {
            let whole = whole.into_view();
            // One that the node holds already is no news to whoever follows it.
            self.view.send_if_modified(|view| {
                let differs = **view != whole;
                if differs {
                    *view = Arc::new(whole);
                }
                differs
            });
            self.heard_a_leader();
        }
        Ok(())
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
        self.heard_a_leader();
        Ok(())
    }

    /// Only after the view was put there, so that nobody takes an old view for a fresh one.
    fn heard_a_leader(&self) {
        self.fresh.send_if_modified(|fresh| !std::mem::replace(fresh, true));
    }
}

/// Reports as frames that the leader reads, with texts as long as it keeps; on a slow link signs of life go out between
/// two frames.
fn status(reports: &[TaskReport]) -> Vec<Up> {
    let cut = |report: &TaskReport| {
        let mut report = report.clone();
        let message = report.status.message.take();
        report.status.message = message.map(|message| claims::clean(&message, claims::MESSAGE_MAX));
        report
    };
    reports.chunks(Up::REPORTS_MAX).map(|chunk| Up::Status(chunk.iter().map(cut).collect())).collect()
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("nothing was heard")]
    Silence,
    #[error("{0}")]
    Broken(String),
    #[error("an update does not fit the view; the next session begins with what differs")]
    Gap,
    #[error("the view of generation {held} is newer than generation {sent}")]
    Old { sent: Revision, held: Revision },
}
