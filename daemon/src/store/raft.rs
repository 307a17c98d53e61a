//! The handle on the replicated state.
//!
//! Owns: the running Raft member, who leads, and the order of changes made here. Leaves alone: who should be a member
//! (`plan::quorum`), and what is changed.
//! Holds: one change is worked out at a time ([`Turn`]), from a state that has all that was begun before; `apply` refuses a
//! set that was made from another.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use openraft::{
    Config, Instant as _, Raft, ReadPolicy, ServerState, SnapshotPolicy,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, Fatal, ForwardReason, LinearizableReadError, RaftError},
};
use raftup_proto::{
    id::NodeId,
    refusal::{Code, Refusal},
    unit::UnixMillis,
    view::Revision,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Mutex, MutexGuard, broadcast, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    Rejected, desk,
    dir::{Dir, WAY_BACK},
    fatal, files,
    format::{self, Life},
    link::{Link, Links, Office, Transport},
    log::Log,
    machine::{Applied, Machine, Touched},
    peers::Peers,
    types::{Command, Site, TypeConfig},
    wire::{Ask, Pipe, Tell},
};
use crate::{
    compute,
    model::{ChangeSet, Cluster, Handled, RequestKey},
    net::{Caller, Peer, Stream},
};

/// Time between two heartbeats of a leader. Raft's own timer would tick twice as often, on every manager: it runs only
/// where an election may be due.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// Longest wait for the answer to a heartbeat: managers may be that far apart.
const ANSWER_LIMIT: Duration = Duration::from_millis(400);

/// A follower waits [`LEASE`] and then a random time in this range before it stands for election: 1.12 to 1.4 seconds
/// after the last heartbeat, four of which must have been lost. So a killed leader is replaced in 1.3 s at the median,
/// and a leader that stalls for less than 0.9 s goes on to lead.
const ELECTION: (Duration, Duration) = (Duration::from_millis(420), LEASE);

/// How long a leader may accept writes without an answer from a majority, and is not replaced after its last heartbeat.
const LEASE: Duration = Duration::from_millis(700);

/// Heartbeats in a row that no majority answered, after which a leader is silent for [`SILENCE`]: one that can only be
/// heard would otherwise hold its followers for ever.
const UNANSWERED: u32 = 5;

/// Longer than followers take to elect another leader.
const SILENCE: Duration = Duration::from_secs(3);

/// Entries between two snapshots.
const SNAPSHOT_AFTER: u64 = 4000;

/// Entries that are kept before a snapshot for members that are a little behind.
const KEEP: u64 = 1000;

/// Longest transfer of a snapshot.
pub(super) const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for a change or a read to be agreed upon; without a majority it is refused after that.
const AGREE_LIMIT: Duration = Duration::from_millis(1800);

/// Longest wait for the only member of a new cluster to lead: one sync, on whatever disk it is.
const BEGIN_LIMIT: Duration = Duration::from_secs(20);

/// A member that was not heard for that long is named as missing.
const MISSING: Duration = Duration::from_secs(1);

/// Longest answer to a client's request that is remembered, in bytes of JSON.
const ANSWER_MAX: usize = 16 << 10;

/// Largest change set, in bytes.
const CHANGE_MAX: u64 = 16 << 20;

type Written = openraft::raft::ClientWriteResponse<TypeConfig>;

thread_local! {
    static CHECKING: Cell<bool> = const { Cell::new(false) };
}

/// A panic on this thread would be caught: files are being checked. For the hook that ends the process on all others.
pub fn is_checking() -> bool {
    CHECKING.get()
}

/// What a store needs.
pub struct StoreConfig {
    /// State directory of the node; storage was made there by [`super::create`].
    pub dir: PathBuf,
    /// This node.
    pub node: NodeId,
    /// Way to the other managers; `Arc::new(net)`, or what a test makes of it.
    pub transport: Arc<dyn Transport>,
}

/// The replicated state on a manager. Clones share it.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) raft: Raft<TypeConfig, Machine>,
    pub(super) machine: Machine,
    pub(super) office: Arc<Office>,
    node: NodeId,
    leadership: watch::Sender<Leadership>,
    /// Held while a change is worked out and made.
    changing: Mutex<()>,
    /// Sets that this leader has put into the log and that are not applied yet.
    pending: watch::Sender<Pending>,
    /// When this member last heard the leader that it follows.
    pub(super) led: watch::Sender<Option<Instant>>,
    /// Held while a snapshot comes in and is installed.
    pub(super) installing: Mutex<()>,
    /// The stream on which the leader is asked for the read index.
    reader: Mutex<Option<(u64, Site, Link)>>,
    /// No change is taken any more: leadership is being handed over.
    leaving: AtomicBool,
    watcher: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// Who leads, as far as is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Counted up by elections; a later leader never has a lower one.
    pub term: u64,
    /// The leader.
    pub leader: Option<NodeId>,
    /// Its control address.
    pub leader_addr: Option<SocketAddr>,
    /// This node leads, has applied all that was agreed before, and was answered by a majority lately.
    pub here: bool,
}

/// Change sets on their way, of one term: those of an earlier one are applied or gone before the next leader is `here`.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    term: u64,
    sets: usize,
}

impl Pending {
    fn add(&mut self, term: u64) {
        if self.term != term {
            *self = Self { term, sets: 0 };
        }
        self.sets += 1;
    }

    fn settle(&mut self, term: u64) {
        if self.term == term {
            self.sets = self.sets.saturating_sub(1);
        }
    }

    fn is_settled(&self, term: u64) -> bool {
        self.term != term || self.sets == 0
    }
}

/// The right to work out the next change, from the newest state. One at a time has it, and only once all that was put
/// into the log before is applied: so no two decisions are made from one state, also where one takes long to be agreed
/// upon. `apply` refuses such a set besides, by its base.
pub struct Turn<'a> {
    store: &'a Store,
    cluster: Cluster,
    now: UnixMillis,
    _only: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// The newest state.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The cluster's clock.
    pub fn now(&self) -> UnixMillis {
        self.now
    }

    /// Makes `set`, which was worked out from [`Turn::cluster`]. The state here has it when this returns.
    ///
    /// Errors: see [`ProposeError`].
    pub async fn propose(self, set: ChangeSet) -> Result<Revision, ProposeError> {
        self.store.propose(ChangeSet { base: Some(self.cluster.revision), ..set }).await
    }
}

/// Why a change set was not made.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was made from a state that is not the newest. Nothing was changed.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The client's request was carried out before. Nothing was changed.
    #[error("this was done before")]
    Repeated,
    /// Earlier changes are still being written; this one was not begun.
    #[error("earlier changes are still being written")]
    Busy,
    /// Another manager leads, or none. Nothing was changed.
    #[error("this manager does not lead")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// A majority of the managers does not answer.
    #[error("no majority of the managers answers")]
    NoQuorum {
        /// Those that were not heard.
        missing: Vec<NodeId>,
        /// It may be made yet, once they are back.
        pending: bool,
    },
    /// The leader changed meanwhile; whether it was made is not known.
    #[error("the leader changed meanwhile")]
    Unknown,
    /// It is too large to be made at once. Nothing was changed; parts of it can be made.
    #[error("a change of {bytes} bytes is too large, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The largest size.
        limit: u64,
    },
    /// It can never be made.
    #[error(transparent)]
    Refused(Refusal),
    /// The store was stopped.
    #[error("the replicated state is being closed")]
    Stopped,
}

impl Leadership {
    /// The leader and where it is, if both are known.
    pub fn peer(&self) -> Option<Peer> {
        Some(Peer { node: self.leader?, addr: self.leader_addr? })
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Conflict => {
                Self::new(Code::Conflict, "the cluster's state has changed meanwhile").hint("try again")
            }
            ProposeError::Repeated => Self::new(Code::Conflict, "this was done before"),
            ProposeError::Busy => Self::new(
                Code::Unavailable,
                "earlier changes are still being written: a disk or a link of the managers is slow",
            )
            .hint("try again in a few seconds"),
            ProposeError::NotLeader { leader: Some(leader) } => {
                Self::new(Code::Unavailable, format!("manager {leader} leads, not this one"))
                    .hint("try again")
            }
            ProposeError::NotLeader { leader: None } => {
                Self::new(Code::Unavailable, "no manager leads at the moment")
                    .hint("try again in a few seconds")
            }
            ProposeError::NoQuorum { missing, pending } => no_quorum(&missing, pending),
            ProposeError::Unknown => Self::new(
                Code::Unavailable,
                "the leader changed meanwhile, the change may have been made or not",
            )
            .hint("look, and try again if it was not"),
            ProposeError::TooLarge { bytes, limit } => {
                Self::new(Code::Invalid, format!("a change of {bytes} bytes is too large"))
                    .hint(format!("at most {limit} bytes can be changed at once"))
            }
            ProposeError::Refused(refusal) => refusal,
            ProposeError::Stopped => {
                Self::new(Code::Unavailable, "this manager is shutting down").hint("try again")
            }
        }
    }
}

fn no_quorum(missing: &[NodeId], pending: bool) -> Refusal {
    let names: Vec<String> = missing.iter().map(NodeId::to_string).collect();
    let what = match names.as_slice() {
        [] => "no majority of the managers answers".to_owned(),
        names => format!("no majority of the managers answers: {} missing", names.join(", ")),
    };
    let hint = match pending {
        true => "running containers are not affected; the change may still be made once they are back",
        false => "running containers are not affected; bring the missing managers back",
    };
    Refusal::new(Code::Unavailable, what).hint(hint)
}

/// News of changes, in their order.
pub struct Changes {
    feed: broadcast::Receiver<Touched>,
    /// Not the whole machine, which would keep files open and the feed going.
    states: Arc<ArcSwap<Applied>>,
}

impl Changes {
    /// The next change set that was applied here; none once the store is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Touched> {
        match self.feed.recv().await {
            Ok(touched) => Some(touched),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                Some(Touched { revision: self.states.load().cluster.revision, keys: None })
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

fn config() -> anyhow::Result<Config> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        // The limit of time for answers, too. Heartbeats are sent by `follow`.
        heartbeat_interval: millis(ANSWER_LIMIT),
        election_timeout_min: millis(ELECTION.0),
        election_timeout_max: millis(ELECTION.1),
        enable_pre_vote: Some(true),
        // `Pulse` does this. Raft's own rule goes by the time since the last answer, so a leader whose thread was blocked
        // for longer than the lease would be silent although all its followers are there.
        quorum_loss_probe_interval: None,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
        max_in_snapshot_log_to_keep: KEEP,
        replication_lag_threshold: SNAPSHOT_AFTER + KEEP,
        purge_batch_size: 256,
        install_snapshot_timeout: millis(SNAPSHOT_LIMIT),
        // `Peers` turns away whoever lost acknowledged entries; should one slip through, the leader lives on.
        allow_log_reversion: Some(true),
        ..Config::default()
    };
    Ok(config.validate()?)
}

impl Store {
    /// Opens the storage in `config.dir`, checks all of it, and takes part in Raft.
    ///
    /// Errors: the storage is in use, gone, damaged, another node's, or written by a newer raftupd.
    pub async fn start(config: StoreConfig) -> anyhow::Result<Self> {
        let StoreConfig { dir, node, transport } = config;
        let dir = Dir::new(&dir);
        let (me, log, machine) = tokio::task::spawn_blocking(move || checked(&dir, node)).await??;
        let peers = Peers::new(log.lives()?);
        let office = Arc::new(Office { me, peers, log: log.clone(), transport });
        let raft =
            Raft::new(me.member, Arc::new(self::config()?), Links(office.clone()), log, machine.clone());
        let inner = Arc::new(Inner {
            raft: raft.await.context("starting Raft")?,
            machine,
            office,
            node,
            leadership: watch::Sender::default(),
            changing: Mutex::new(()),
            pending: watch::Sender::default(),
            led: watch::Sender::default(),
            installing: Mutex::new(()),
            reader: Mutex::new(None),
            leaving: AtomicBool::new(false),
            watcher: std::sync::Mutex::new(None),
        });
        let watcher = tokio::spawn(follow(inner.clone()));
        *inner.watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(watcher);
        info!(member = me.member, starts = me.starts, "the replicated state is open");
        Ok(Self { inner })
    }

    /// Makes a cluster whose only member is this one, at `addr`, and whose first entry is `first`.
    ///
    /// Goes on where it was cut off before. Errors: there is a cluster already, or the set is refused.
    pub async fn initialize(&self, addr: SocketAddr, first: ChangeSet) -> anyhow::Result<Revision> {
        let site = Site { node: self.inner.node, addr };
        if !self.inner.raft.is_initialized().await? {
            self.inner.raft.initialize(BTreeMap::from([(self.inner.office.me.member, site)])).await?;
        }
        let mut leadership = self.leadership();
        timeout(BEGIN_LIMIT, leadership.wait_for(|leadership| leadership.here)).await??;
        Ok(self.propose(first).await?)
    }

    /// Answers another manager's stream of kind `raft` until it ends.
    pub async fn serve(&self, caller: Caller, stream: Stream) {
        self.answer(caller.node, Box::new(stream)).await;
    }

    pub(super) async fn answer(&self, caller: NodeId, pipe: Box<dyn Pipe>) {
        desk::serve(&self.inner, caller, pipe).await;
    }

    /// The state as it is here. Cheap; stale on a manager that is cut off or behind.
    pub fn snapshot(&self) -> Cluster {
        self.inner.machine.current().cluster.clone()
    }

    /// The state, with all that was acknowledged anywhere before the call.
    ///
    /// Errors: no majority answers, or no leader is found, within two seconds.
    pub async fn read(&self) -> Result<Cluster, Refusal> {
        let deadline = tokio::time::Instant::now() + AGREE_LIMIT;
        let mut last = None;
        let read = async {
            loop {
                match self.inner.read_anywhere().await {
                    Ok(index) => break index,
                    Err(refusal) => last = Some(refusal),
                }
                // A leader may be found meanwhile.
                sleep(HEARTBEAT).await;
            }
        };
        let Ok(index) = timeout_at(deadline, read).await else {
            return Err(last.unwrap_or_else(|| no_quorum(&self.inner.missing(), false)));
        };
        let mut applied = self.inner.machine.watch_last();
        let caught_up = applied.wait_for(|last| last.is_some_and(|last| last.index >= index));
        match timeout_at(deadline, caught_up).await {
            Ok(Ok(_)) => Ok(self.snapshot()),
            Ok(Err(_)) => Err(ProposeError::Stopped.into()),
            Err(_) => {
                Err(Refusal::new(Code::Unavailable, "this manager is behind the leader").hint("try again"))
            }
        }
    }

    /// Has `see` called with each state and the one after it, as they are applied here.
    #[cfg(test)]
    pub(crate) fn observe(&self, see: super::machine::Observer) {
        self.inner.machine.observe(see);
    }

    /// The revision of the state here; moves with each applied change set.
    pub fn watch(&self) -> watch::Receiver<Revision> {
        self.inner.machine.watch_revision()
    }

    /// What changes from now on.
    pub fn changes(&self) -> Changes {
        Changes { feed: self.inner.machine.subscribe(), states: self.inner.machine.states() }
    }

    /// The newest term in which this manager has voted or followed a leader.
    pub fn term(&self) -> u64 {
        self.inner.office.log.vote().map_or(0, |vote| vote.leader_id.term)
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Makes `set`, on the leader. The state here has it when this returns.
    ///
    /// Errors: see [`ProposeError`]; without a majority within two seconds. Not to be dropped half-way where it matters
    /// whether the set was made.
    pub(super) async fn propose(&self, set: ChangeSet) -> Result<Revision, ProposeError> {
        let inner = &self.inner;
        if inner.leaving.load(Ordering::Relaxed) {
            return Err(ProposeError::NotLeader { leader: None });
        }
        let size = format::size(&set);
        if size > CHANGE_MAX {
            return Err(ProposeError::TooLarge { bytes: size, limit: CHANGE_MAX });
        }
        match timeout(AGREE_LIMIT, self.write(set)).await {
            Ok(Ok(written)) => written.data.map_err(|rejected| match rejected {
                Rejected::Conflict { .. } | Rejected::Stale { .. } => ProposeError::Conflict,
                Rejected::Repeated => ProposeError::Repeated,
                invalid @ Rejected::Invalid { .. } => ProposeError::Refused(Refusal::new(
                    Code::Internal,
                    format!("a change was refused: {invalid}"),
                )),
            }),
            Ok(Err(error)) => Err(inner.not_written(error)),
            Err(_) => Err(ProposeError::NoQuorum { missing: inner.missing(), pending: true }),
        }
    }

    /// Puts `set` into the log. That goes on when nobody waits for it any more; until then it counts as pending.
    async fn write(&self, set: ChangeSet) -> Result<Written, WriteError> {
        let (inner, term) = (self.inner.clone(), self.inner.leadership.borrow().term);
        inner.pending.send_modify(|pending| pending.add(term));
        let written = tokio::spawn(async move {
            let written = inner.write(Command(Arc::new(set))).await;
            inner.pending.send_modify(|pending| pending.settle(term));
            written
        });
        written.await.unwrap_or(Err(RaftError::Fatal(Fatal::Stopped)))
    }

    /// Waits for the turn to change something, on the leader.
    ///
    /// Errors: this manager does not lead, or what was begun before is not agreed upon within two seconds.
    pub async fn turn(&self) -> Result<Turn<'_>, ProposeError> {
        let inner = &self.inner;
        let mut leadership = inner.leadership.subscribe();
        let free = async {
            let only = inner.changing.lock().await;
            let term = inner.leadership.borrow().term;
            // Lasts as long as the store.
            let _ = inner.pending.subscribe().wait_for(|pending| pending.is_settled(term)).await;
            only
        };
        // What the wait gives is a lock on the channel, which must not last into the answer: that reads the channel again,
        // and a writer that waits in between would stop both for ever.
        let lost = async { drop(leadership.wait_for(|now| !now.here).await) };
        // Nothing is lost when one of these is dropped: a lock, a time-out, and watch channels.
        let only = tokio::select! {
            biased;
            () = lost => return Err(inner.not_leader()),
            only = timeout(AGREE_LIMIT, free) => only,
        };
        let Ok(only) = only else {
            let missing = inner.missing();
            return Err(match missing.is_empty() {
                true => ProposeError::Busy,
                false => ProposeError::NoQuorum { missing, pending: false },
            });
        };
        // It may have changed with the last step.
        if !inner.leadership.borrow().here {
            return Err(inner.not_leader());
        }
        let applied = inner.machine.current();
        Ok(Turn { store: self, now: applied.now(), cluster: applied.cluster.clone(), _only: only })
    }

    /// The cluster's clock, as it runs on this manager. It moves forwards only; between managers it differs by what an
    /// entry takes from one to the other.
    pub fn now(&self) -> UnixMillis {
        self.inner.machine.current().now()
    }

    /// Moves the cluster's clock in the state on, if nothing else has for `period`: a manager that begins after that
    /// knows how late it is.
    pub async fn tick(&self, period: Duration) -> Result<(), ProposeError> {
        let turn = self.turn().await?;
        if turn.now.since(turn.cluster.clock) >= period {
            let now = turn.now;
            turn.propose(ChangeSet::new(now)).await?;
        }
        Ok(())
    }

    /// Works out a change set from the newest state and the cluster's clock, and makes it, on the leader; one at a time.
    ///
    /// An empty set is not proposed. Errors: what `work` refuses, and what [`Store::turn`] and [`Turn::propose`] do.
    pub async fn change<T>(
        &self,
        work: impl FnOnce(&Cluster, UnixMillis) -> Result<(ChangeSet, T), Refusal> + Send,
    ) -> Result<(Revision, T), Refusal> {
        let turn = self.turn().await?;
        let (set, answer) = compute::in_place(|| work(&turn.cluster, turn.now))?;
        if set.is_empty() {
            return Ok((turn.cluster.revision, answer));
        }
        Ok((turn.propose(set).await?, answer))
    }

    /// The same for what a client asks: asked again, at this leader or a later one, it takes effect once and is answered
    /// alike. The last 512 requests are remembered.
    pub async fn change_once<T: Serialize + DeserializeOwned + Default>(
        &self,
        request: RequestKey,
        work: impl FnOnce(&Cluster, UnixMillis) -> Result<(ChangeSet, T), Refusal> + Send,
    ) -> Result<(Revision, T), Refusal> {
        let turn = self.turn().await?;
        if let Some((revision, handled)) = turn.cluster.handled(request) {
            return Ok((revision, serde_json::from_str(&handled.answer).unwrap_or_default()));
        }
        let (mut set, answer) = compute::in_place(|| work(&turn.cluster, turn.now))?;
        if set.is_empty() {
            return Ok((turn.cluster.revision, answer));
        }
        let text = serde_json::to_string(&answer).unwrap_or_default();
        let text = if text.len() > ANSWER_MAX { String::new() } else { text };
        set.handled = Some(Handled { request, answer: text });
        Ok((turn.propose(set).await?, answer))
    }

    /// Hands leadership over to another manager, if this one leads and another is there. Takes no change any more.
    pub async fn step_down(&self) {
        self.inner.leaving.store(true, Ordering::Relaxed);
        let turn = timeout(AGREE_LIMIT, self.inner.changing.lock()).await;
        if let Err(error) = self.hand_over(None).await {
            warn!(error = format!("{error:#}"), "leadership could not be handed over");
        }
        drop(turn);
    }

    /// Holds the next commit of this manager's log up by `time`, as a disk that stalls does.
    #[cfg(test)]
    pub(crate) fn stall_disk(&self, time: Duration) {
        self.inner.office.log.stall(time);
    }

    /// Ends this member's part in Raft and closes its files. The store is of no use afterwards.
    pub async fn stop(&self) {
        if let Some(watcher) =
            self.inner.watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
        {
            watcher.abort();
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            warn!(error = error.to_string(), "raft did not end well");
        }
        self.inner.leadership.send_replace(Leadership::default());
        self.inner.office.log.close().await;
    }
}

/// [`files::open`], with a panic of the database turned into a refusal: it trusts its own pages, and damage may fool it.
fn checked(dir: &Dir, node: NodeId) -> anyhow::Result<(Life, Log, Machine)> {
    CHECKING.set(true);
    let opened = catch_unwind(AssertUnwindSafe(|| files::open(dir, node)));
    CHECKING.set(false);
    match opened {
        Ok(opened) => opened,
        Err(_) => bail!("{} is damaged and cannot be used ({WAY_BACK})", dir.log().display()),
    }
}

impl Inner {
    /// Up to where a read that begins now must see. Errors: this member does not lead, or no majority says so.
    pub(super) async fn read_index(&self) -> Result<u64, Refusal> {
        match timeout(AGREE_LIMIT, self.raft.get_read_log_id(ReadPolicy::ReadIndex)).await {
            Ok(Ok((id, _))) => Ok(id.index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => {
                Err(self.not_leader().into())
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                Err(no_quorum(&self.missing(), false))
            }
            Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped.into()),
        }
    }

    async fn read_anywhere(&self) -> Result<u64, Refusal> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        if metrics.state == ServerState::Leader {
            return self.read_index().await;
        }
        let site =
            metrics.current_leader.and_then(|id| Some((id, *metrics.membership_config.get_node(&id)?)));
        let Some((member, site)) = site else {
            return Err(no_quorum(&self.missing(), false));
        };
        let mut reader = self.reader.lock().await;
        let link = match &mut *reader {
            Some((known, at, link)) if (*known, *at) == (member, site) => link,
            stale => &mut stale.insert((member, site, Link::new(self.office.clone(), member, site))).2,
        };
        match link.ask(&Ask::ReadIndex, &[], AGREE_LIMIT).await {
            Ok(Tell::ReadIndex(index)) => Ok(index),
            Ok(Tell::Not(reason)) => Err(Refusal::new(Code::Unavailable, reason)),
            Ok(other) => {
                Err(Refusal::new(Code::Internal, format!("the leader answered something else: {other:?}")))
            }
            Err(error) => Err(Refusal::new(Code::Unavailable, error).hint("try again in a few seconds")),
        }
    }

    /// Nodes of voters, this one aside, that were not heard lately.
    pub(super) fn missing(&self) -> Vec<NodeId> {
        let now = Instant::now();
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let silent = |member: u64| {
            let silence = self.office.peers.silence(member, now);
            member != self.office.me.member && silence.is_none_or(|silence| silence > MISSING)
        };
        let members = metrics.membership_config.membership();
        let sites =
            members.voter_ids().filter(|member| silent(*member)).filter_map(|id| members.get_node(&id));
        sites.map(|site| site.node).collect()
    }

    fn not_leader(&self) -> ProposeError {
        let leader = self.leadership.borrow().leader.filter(|leader| *leader != self.node);
        match (leader, self.missing()) {
            (None, missing) if !missing.is_empty() => ProposeError::NoQuorum { missing, pending: false },
            (leader, _) => ProposeError::NotLeader { leader },
        }
    }

    fn not_written(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => match forward.reason {
                ForwardReason::LeaseExpired => {
                    ProposeError::NoQuorum { missing: self.missing(), pending: false }
                }
                ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => self.not_leader(),
            },
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ProposeError::Unknown,
            RaftError::APIError(other) => {
                ProposeError::Refused(Refusal::new(Code::Internal, format!("a change was refused: {other}")))
            }
            RaftError::Fatal(_) => ProposeError::Stopped,
        }
    }

    /// Makes the entry on the leader. The lease of a leader that stalled has run out: it sends a heartbeat then, and goes on
    /// once a majority has answered.
    async fn write(&self, command: Command) -> Result<Written, WriteError> {
        let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
        let mut data = self.raft.data_metrics();
        loop {
            data.borrow_watched();
            let written = self.raft.client_write(command.clone()).await;
            match &written {
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))
                    if matches!(forward.reason, ForwardReason::LeaseExpired) => {}
                Ok(_) | Err(_) => return written,
            }
            // Why Raft has ended, the next attempt tells.
            let _ = self.raft.trigger().heartbeat().await;
            if timeout_at(deadline, data.changed()).await.is_err() {
                return written;
            }
        }
    }

    /// Whether a majority has answered this leader, and when it did last.
    fn answered(&self) -> Option<AnsweredAt> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        if metrics.membership_config.voter_ids().count() == 1 {
            return Some(AnsweredAt::now());
        }
        let answered = self.raft.data_metrics().borrow_watched().last_quorum_acked;
        answered.map(|at| *at)
    }

    /// Who leads now. `here` holds back until the leader's first own entry is applied, and ends when no majority answers.
    fn look(&self, pulse: &Pulse) -> Leadership {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let members = metrics.membership_config.membership();
        let site = metrics.current_leader.and_then(|id| members.get_node(&id));
        let leads = metrics.state == ServerState::Leader;
        let applied = self.machine.current().last;
        let caught_up = applied.is_some_and(|last| last.leader_id == metrics.vote.leader_id);
        Leadership {
            term: metrics.vote.leader_id.term,
            leader: site.map(|site| site.node),
            leader_addr: site.map(|site| site.addr),
            here: leads && caught_up && pulse.is_answered() && !self.leaving.load(Ordering::Relaxed),
        }
    }
}

type AnsweredAt = openraft::alias::InstantOf<TypeConfig>;
type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// When a leader sends heartbeats: always, but for a silence after each [`UNANSWERED`] that no majority answered.
///
/// Counts heartbeats and not time, so the time in which this process stood still does not matter.
#[derive(Debug, Default)]
struct Pulse {
    answered: Option<AnsweredAt>,
    unanswered: u32,
    silent_until: Option<Instant>,
}

impl Pulse {
    /// Notes when a majority answered last.
    fn hear(&mut self, answered: Option<AnsweredAt>) {
        if answered > self.answered {
            *self = Self { answered, ..Self::default() };
        }
    }

    /// Whether to send a heartbeat now.
    fn beat(&mut self, now: Instant) -> bool {
        match self.silent_until {
            Some(until) if now < until => return false,
            Some(_) => self.silent_until = None,
            None if self.unanswered > 0 && self.unanswered.is_multiple_of(UNANSWERED) => {
                self.silent_until = Some(now + SILENCE);
                return false;
            }
            None => {}
        }
        self.unanswered += 1;
        true
    }

    /// A majority answers.
    fn is_answered(&self) -> bool {
        self.answered.is_some() && self.silent_until.is_none() && self.unanswered <= UNANSWERED
    }
}

/// Keeps [`Leadership`] current, sends the leader's heartbeats, has Raft's timer run where no leader was heard for
/// [`LEASE`], and ends the process when Raft has ended by itself.
async fn follow(inner: Arc<Inner>) {
    let mut servers = inner.raft.server_metrics();
    let mut applied = inner.machine.watch_last();
    let mut led = inner.led.subscribe();
    let mut beat = interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut data = inner.raft.data_metrics();
    let mut pulse = Pulse::default();
    loop {
        data.borrow_watched();
        // Not held over the next look: Raft waits to write there, and further readers wait behind it.
        let state = servers.borrow_watched().state;
        match state {
            ServerState::Leader => pulse.hear(inner.answered()),
            ServerState::Learner | ServerState::Follower | ServerState::Candidate | ServerState::Shutdown => {
                pulse = Pulse::default();
            }
        }
        let seen = inner.look(&pulse);
        inner.leadership.send_if_modified(|known| std::mem::replace(known, seen) != seen);
        if let Err(error) = &inner.raft.metrics().borrow_watched().running_state
            && !matches!(error, Fatal::Stopped)
        {
            fatal("running Raft", &anyhow::anyhow!("{error}"));
        }
        let leads = servers.borrow_watched().state == ServerState::Leader;
        let until = led.borrow_and_update().map(|heard| heard + LEASE);
        let calm = until.filter(|until| !leads && *until > Instant::now());
        inner.raft.runtime_config().tick(!leads && calm.is_none());
        // Cancel-safe: watch channels lose no value, and all of them are read again above.
        tokio::select! {
            changed = servers.changed() => if changed.is_err() { return },
            changed = applied.changed(), if leads && !seen.here => if changed.is_err() { return },
            changed = data.changed(), if leads && !seen.here => if changed.is_err() { return },
            _ = beat.tick(), if leads => {
                if pulse.beat(Instant::now()) {
                    // Why Raft has ended is looked at above.
                    let _ = inner.raft.trigger().heartbeat().await;
                }
            }
            changed = led.changed(), if !leads => if changed.is_err() { return },
            () = sleep_until(calm.unwrap_or_else(Instant::now).into()), if calm.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heartbeats that are sent within `time`, when none is answered.
    fn beats(pulse: &mut Pulse, start: Instant, time: Duration) -> usize {
        let ticks = u32::try_from(time.as_millis() / HEARTBEAT.as_millis()).unwrap();
        (1..=ticks).filter(|tick| pulse.beat(start + HEARTBEAT * *tick)).count()
    }

    #[test]
    fn a_leader_that_nobody_answers_is_silent_for_longer_than_an_election_takes() {
        let start = Instant::now();
        let mut pulse = Pulse::default();
        assert!(!pulse.is_answered());
        pulse.hear(Some(AnsweredAt::now()));
        assert!(pulse.is_answered());
        let until_silent = HEARTBEAT * (UNANSWERED + 1);
        assert_eq!(beats(&mut pulse, start, until_silent), UNANSWERED as usize);
        assert!(!pulse.is_answered());
        assert_eq!(beats(&mut pulse, start + until_silent, SILENCE - HEARTBEAT), 0);
        assert!(SILENCE > LEASE + ELECTION.1 + ANSWER_LIMIT);
        // It is heard again, but does not lead before it is answered.
        assert!(pulse.beat(start + until_silent + SILENCE));
        assert!(!pulse.is_answered());
        pulse.hear(Some(AnsweredAt::now() + SILENCE));
        assert!(pulse.is_answered());
    }

    #[test]
    fn time_in_which_a_leader_stood_still_is_no_silence_of_its_followers() {
        let start = Instant::now();
        let mut pulse = Pulse::default();
        pulse.hear(Some(AnsweredAt::now()));
        assert!(pulse.beat(start + HEARTBEAT));
        assert!(pulse.beat(start + Duration::from_secs(60)));
        assert!(pulse.is_answered());
    }
}
