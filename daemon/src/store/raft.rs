//! The handle on the replicated state.
//!
//! Owns: the running Raft member, reads, and entries on their way into the log. Leaves alone: who should be a member
//! (`plan::quorum`), the order of changes (`turn`), and heartbeats (`pulse`).

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
    Config, Raft, ReadPolicy, ServerState, SnapshotPolicy,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, ForwardReason, LinearizableReadError, RaftError},
};
use raftup_proto::{
    id::NodeId,
    refusal::{Code, Refusal},
    unit::UnixMillis,
    view::Revision,
};
use tokio::{
    sync::{Mutex, broadcast, watch},
    task::JoinHandle,
    time::{sleep, timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    desk,
    dir::{Dir, WAY_BACK},
    files,
    format::Life,
    link::{Link, Links, Office, Transport},
    log::Log,
    machine::{Applied, Machine, Touched},
    parts::{Parts, Transfers},
    peers::Peers,
    pulse::{HEARTBEAT, Timing, follow},
    turn::{Pending, ProposeError, Written, no_quorum},
    types::{Command, Site, TypeConfig},
    wire::{Ask, Pipe, Tell},
};
use crate::{
    model::{ChangeSet, Cluster},
    net::{Caller, Peer, Stream},
};

/// Longest wait for the answer to a heartbeat: managers may be that far apart.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_millis(600);

/// Entries between two snapshots.
const SNAPSHOT_AFTER: u64 = 4000;

/// Entries that are kept before a snapshot for members that are a little behind.
const KEEP: u64 = 1000;

/// Longest transfer of a snapshot.
pub(super) const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for a change or a read to be agreed upon; without a majority it is refused after that.
pub(super) const AGREE_LIMIT: Duration = Duration::from_millis(1800);

/// Longest wait for the only member of a new cluster to lead: one sync, on whatever disk it is.
const BEGIN_LIMIT: Duration = Duration::from_secs(20);

/// A member that was not heard for that long is named as missing.
const MISSING: Duration = Duration::from_secs(1);

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
    pub(super) timing: Timing,
    node: NodeId,
    pub(super) leadership: watch::Sender<Leadership>,
    /// Held while a change is worked out and made.
    pub(super) changing: Mutex<()>,
    /// Sets that this leader has put into the log and that are not applied yet.
    pub(super) pending: watch::Sender<Pending>,
    /// When this member last heard the leader that it follows.
    pub(super) led: watch::Sender<Option<Instant>>,
    /// Held while a snapshot comes in and is installed.
    pub(super) installing: Mutex<()>,
    /// Large records and snapshots that come in.
    pub(super) parts: Arc<Parts>,
    /// The stream on which the leader is asked for the read index.
    reader: Mutex<Option<(u64, Site, Link)>>,
    /// No change is taken any more: leadership is being handed over.
    pub(super) leaving: AtomicBool,
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

impl Leadership {
    /// The leader and where it is, if both are known.
    pub fn peer(&self) -> Option<Peer> {
        Some(Peer { node: self.leader?, addr: self.leader_addr? })
    }
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

fn config(timing: Timing) -> anyhow::Result<Config> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        // The limit of time for answers, too. Heartbeats are sent by `follow`.
        heartbeat_interval: millis(ANSWER_LIMIT),
        election_timeout_min: millis(timing.election.0),
        election_timeout_max: millis(timing.election.1),
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
        let timing = Timing::for_disk(log.synced());
        let peers = Peers::new(log.lives()?);
        let (states, transfers) = (machine.states(), Transfers::default());
        let office = Arc::new(Office { me, peers, log: log.clone(), transport, states, transfers });
        let raft = Raft::new(
            me.member,
            Arc::new(self::config(timing)?),
            Links(office.clone()),
            log,
            machine.clone(),
        );
        let inner = Arc::new(Inner {
            raft: raft.await.context("starting Raft")?,
            machine,
            office,
            timing,
            node,
            leadership: watch::Sender::default(),
            changing: Mutex::new(()),
            pending: watch::Sender::default(),
            led: watch::Sender::default(),
            installing: Mutex::new(()),
            parts: Arc::default(),
            reader: Mutex::new(None),
            leaving: AtomicBool::new(false),
            watcher: std::sync::Mutex::new(None),
        });
        let watcher = tokio::spawn(follow(inner.clone()));
        *inner.watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(watcher);
        info!(member = me.member, starts = me.starts, ?timing, "the replicated state is open");
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

    /// The cluster's clock, as it runs on this manager. It moves forwards only; between managers it differs by what an
    /// entry takes from one to the other.
    pub fn now(&self) -> UnixMillis {
        self.inner.machine.current().now()
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

    /// Each commit of this manager's log takes `time` longer from now on, as on a slow disk.
    #[cfg(test)]
    pub(crate) fn slow_disk(&self, time: Duration) {
        self.inner.office.log.slow(time);
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
        self.silent(MISSING)
    }

    /// Nodes of voters, this one aside, that were not heard for `limit`.
    fn silent(&self, limit: Duration) -> Vec<NodeId> {
        let now = Instant::now();
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let silent = |member: u64| {
            let silence = self.office.peers.silence(member, now);
            member != self.office.me.member && silence.is_none_or(|silence| silence > limit)
        };
        let members = metrics.membership_config.membership();
        let sites =
            members.voter_ids().filter(|member| silent(*member)).filter_map(|id| members.get_node(&id));
        sites.map(|site| site.node).collect()
    }

    /// The voters that have been silent for [`AGREE_LIMIT`], if the others are no majority.
    pub(super) fn lost_majority(&self) -> Option<Vec<NodeId>> {
        let missing = self.silent(AGREE_LIMIT);
        let voters = self.raft.server_metrics().borrow_watched().membership_config.voter_ids().count();
        (2 * (voters - missing.len().min(voters)) <= voters).then_some(missing)
    }

    pub(super) fn not_leader(&self) -> ProposeError {
        let leader = self.leadership.borrow().leader.filter(|leader| *leader != self.node);
        match (leader, self.missing()) {
            (None, missing) if !missing.is_empty() => ProposeError::NoQuorum { missing, pending: false },
            (leader, _) => ProposeError::NotLeader { leader },
        }
    }

    pub(super) fn not_written(
        &self,
        error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    ) -> ProposeError {
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
    pub(super) async fn write(&self, command: Command) -> Result<Written, WriteError> {
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
}

pub(super) type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;
