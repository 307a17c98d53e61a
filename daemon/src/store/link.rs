//! The caller's end of the streams between managers.
//!
//! Owns: one stream for each use that Raft makes of a member (entries, heartbeats, snapshots), opened when needed. Leaves
//! alone: how a stream reaches a node ([`Transport`]).
//! Holds: no answer is believed before the other end has said who it is. The answer to a question that was given up is
//! read and dropped before the next one, so that it cannot be taken for another's. Entries and snapshots have no limit of
//! time while their bytes arrive, and what has arrived is not sent again (`parts`).

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use openraft::{
    RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use raftup_proto::{id::NodeId, peer::Hello, spec::OPTIONS};
use tokio::{io::AsyncWriteExt, time::timeout};
use tracing::warn;

use super::{
    format::{self, Life},
    log::Log,
    machine::Applied,
    parts::Transfers,
    peers::{Declined, Extent, Peers},
    types::{LogId, Site, Snapshot, TypeConfig, Vote, with_entries},
    wire::{self, Appended, Ask, Candidate, Greeting, Inbox, NotTransferred, Pipe, Tell, Welcome},
};
use crate::net::{Net, Peer};

/// Longest wait for a stream to be opened and greeted: a dial and three round trips over a slow link.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// Bytes of entries that are sent at once, a larger single entry aside. So a member that is behind acknowledges often.
const APPEND_BYTES: usize = 256 << 10;

/// Answers that may be outstanding on a stream before it counts as stuck.
const OWED_MAX: u32 = 4;

/// How streams to other managers come about.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// A new stream of kind `raft` to the node, whose certificate must name it.
    async fn open(&self, node: NodeId, addr: SocketAddr) -> io::Result<Box<dyn Pipe>>;
}

#[async_trait]
impl Transport for Net {
    async fn open(&self, node: NodeId, addr: SocketAddr) -> io::Result<Box<dyn Pipe>> {
        let net = self.clone();
        // A task of its own: questions are given up sooner than a dial takes on a slow link, and the next would start afresh.
        let open = tokio::spawn(async move { Net::open(&net, Peer { node, addr }, Hello::Raft).await });
        let stream = open.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(Box::new(stream))
    }
}

/// What all streams of this process share.
pub(super) struct Office {
    pub(super) me: Life,
    pub(super) peers: Peers,
    pub(super) log: Log,
    pub(super) transport: Arc<dyn Transport>,
    /// The state, for the cluster's level.
    pub(super) states: Arc<ArcSwap<Applied>>,
    /// How far entries and snapshots are on their way to others.
    pub(super) transfers: Transfers,
}

impl Office {
    /// All managers understand contents that are sent in parts.
    pub(super) fn sends_parts(&self) -> bool {
        self.states.load().cluster.info.as_deref().is_some_and(|info| info.level >= OPTIONS)
    }

    /// Says whether `life` may speak for its member. What is new is on disk before that.
    pub(super) async fn admit(&self, life: Life, extent: Option<Extent>) -> Result<(), String> {
        match self.peers.admit(life, extent, Instant::now()) {
            Ok(false) => Ok(()),
            Ok(true) => {
                // A task of its own: whoever asks may give up, and the process counts as known from now on.
                let log = self.log.clone();
                let kept = tokio::spawn(async move { log.keep_life(life).await }).await;
                kept.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            }
            Err(declined) => Err(declined.to_string()),
        }
    }

    /// Notes that `member` has told the leader of `vote` that its log holds `last`.
    fn acknowledged(&self, member: u64, vote: &Vote, last: LogId) {
        self.peers.acknowledged(member, vote, last);
        self.log.acknowledged(member, last);
    }

    /// Where the log of `member` must end at least: what it acknowledged to this leader, or what it acknowledged earlier
    /// and was agreed on.
    fn floor(&self, member: u64) -> Option<u64> {
        let of_this_term = self.log.vote().and_then(|vote| self.peers.floor(member, &vote));
        of_this_term.max(self.log.floor(member))
    }

    /// Errors: the log of the candidate `member`, which ends with `last`, lacks what the member acknowledged.
    pub(super) fn check_candidate(&self, member: u64, last: Option<u64>) -> Result<(), Declined> {
        // The question may be older than an acknowledgement, so nothing is concluded but this answer.
        if last < self.log.floor(member) { Err(Declined::Backwards { member }) } else { Ok(()) }
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// No stream could be opened, or the member at its end is not to be talked to.
    #[error("{0}")]
    Unreachable(String),
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// A stream to one member, opened again whenever it was lost.
pub(super) struct Link {
    pub(super) office: Arc<Office>,
    pub(super) member: u64,
    pub(super) site: Site,
    pub(super) stream: Option<Open>,
    /// The last complaint, so that each is logged once.
    complaint: Option<String>,
}

pub(super) struct Open {
    pub(super) pipe: Box<dyn Pipe>,
    pub(super) inbox: Inbox,
    /// Who answers; none before its welcome has come.
    pub(super) life: Option<Life>,
    /// Where its log must end at least. Taken before the greeting was sent: its answer may be older than what is
    /// acknowledged on another stream.
    floor: Option<u64>,
    /// Answers that nobody waits for any more.
    owed: u32,
    /// A frame may have been written in part.
    torn: bool,
}

impl Open {
    async fn write(&mut self, ask: &Ask, bare: &[u8]) -> io::Result<()> {
        self.torn = true;
        wire::write(&mut *self.pipe, ask).await?;
        if !bare.is_empty() {
            self.pipe.write_all(bare).await?;
            self.pipe.flush().await?;
        }
        self.torn = false;
        self.owed += 1;
        Ok(())
    }

    /// The answer to what was written last.
    async fn answer(&mut self) -> io::Result<Tell> {
        loop {
            let tell = self.inbox.read(&mut *self.pipe).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.owed -= 1;
            if self.owed == 0 {
                return Ok(tell);
            }
        }
    }
}

impl Link {
    pub(super) fn new(office: Arc<Office>, member: u64, site: Site) -> Self {
        Self { office, member, site, stream: None, complaint: None }
    }

    /// The answer to `ask`. `bare` follows the question. Cancel-safe.
    pub(super) async fn ask(&mut self, ask: &Ask, bare: &[u8], limit: Duration) -> Result<Tell, LinkError> {
        match timeout(limit, self.exchange(ask, bare)).await {
            Ok(answer) => answer,
            Err(_) => Err(LinkError::Late(limit)),
        }
    }

    /// Sends the question and reads its answer. A stream that breaks is lost.
    pub(super) async fn exchange(&mut self, ask: &Ask, bare: &[u8]) -> Result<Tell, LinkError> {
        self.ready().await?;
        let stream = self.stream.as_mut().ok_or_else(unopened)?;
        let tell = match stream.write(ask, bare).await {
            Ok(()) if stream.life.is_some() => stream.answer().await,
            // The question follows the greeting at once, which saves a round trip.
            Ok(()) => match self.welcome().await {
                Ok(()) => self.stream.as_mut().ok_or_else(unopened)?.answer().await,
                Err(error) => {
                    self.stream = None;
                    return Err(error);
                }
            },
            Err(error) => Err(error),
        };
        let life = self.stream.as_ref().and_then(|stream| stream.life);
        match tell {
            Ok(tell) if life.is_some_and(|life| self.office.peers.heard(life, Instant::now())) => {
                self.complaint = None;
                Ok(tell)
            }
            Ok(_) => {
                self.stream = None;
                Err(LinkError::Broken("another process speaks for the member by now".to_owned()))
            }
            Err(error) => {
                self.stream = None;
                Err(LinkError::Broken(error.to_string()))
            }
        }
    }

    /// Opens a stream and writes the greeting, unless there is a stream that can be used.
    async fn ready(&mut self) -> Result<(), LinkError> {
        if self.stream.as_ref().is_some_and(|stream| !stream.torn && stream.owed < OWED_MAX) {
            return Ok(());
        }
        self.stream = None;
        let (office, member, site) = (self.office.clone(), self.member, self.site);
        let open = async {
            let mut pipe =
                office.transport.open(site.node, site.addr).await.map_err(|error| error.to_string())?;
            let floor = office.floor(member);
            let greeting = Greeting { from: office.me, to: member };
            wire::write(&mut *pipe, &greeting).await.map_err(|error| error.to_string())?;
            Ok(Open { pipe, inbox: Inbox::default(), life: None, floor, owed: 0, torn: false })
        };
        self.stream = match timeout(OPEN_LIMIT, open).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(reason)) => return Err(self.complain(reason)),
            Err(_) => return Err(self.complain("it does not answer".to_owned())),
        };
        Ok(())
    }

    /// Who answers on the stream, which is opened if there is none.
    pub(super) async fn greeted(&mut self) -> Result<Life, LinkError> {
        self.ready().await?;
        if self.stream.as_ref().is_some_and(|stream| stream.life.is_none()) {
            let welcomed = self.welcome().await;
            if welcomed.is_err() {
                self.stream = None;
            }
            welcomed?;
        }
        self.stream.as_ref().and_then(|stream| stream.life).ok_or_else(unopened)
    }

    /// Reads who answers, and says whether it may.
    async fn welcome(&mut self) -> Result<(), LinkError> {
        let (office, member) = (self.office.clone(), self.member);
        let Some(stream) = self.stream.as_mut() else { return Err(unopened()) };
        let read = timeout(OPEN_LIMIT, stream.inbox.read::<Welcome>(&mut *stream.pipe)).await;
        let floor = stream.floor;
        let admitted = async {
            let welcome = read.map_err(|_| "it does not answer".to_owned())?;
            let welcome = welcome.map_err(|error| error.to_string())?.ok_or("it hung up")?;
            let welcomed = welcome.map_err(|reason| format!("it declines: {reason}"))?;
            if welcomed.life.member != member {
                return Err(format!("member {} answered", welcomed.life.member));
            }
            office.admit(welcomed.life, Some(Extent { last: welcomed.last, floor })).await?;
            Ok(welcomed.life)
        };
        match admitted.await {
            Ok(life) => {
                stream.life = Some(life);
                Ok(())
            }
            Err(reason) => Err(self.complain(reason)),
        }
    }

    fn complain(&mut self, reason: String) -> LinkError {
        let complaint = format!("manager {} at {}: {reason}", self.site.node, self.site.addr);
        if self.complaint.as_ref() != Some(&complaint) {
            warn!(node = %self.site.node, member = self.member, reason, "a manager cannot be reached");
            self.complaint = Some(complaint.clone());
        }
        LinkError::Unreachable(complaint)
    }

    fn rpc_error(&self, error: LinkError, action: RPCTypes) -> RPCError<TypeConfig> {
        match error {
            LinkError::Unreachable(reason) => RPCError::Unreachable(Unreachable::from_string(reason)),
            LinkError::Broken(reason) => RPCError::Network(NetworkError::from_string(reason)),
            LinkError::Late(timeout) => {
                RPCError::Timeout(Timeout { action, id: self.office.me.member, target: self.member, timeout })
            }
        }
    }

    fn confused(&self, tell: &Tell) -> RPCError<TypeConfig> {
        RPCError::Unreachable(Unreachable::from_string(answered(tell)))
    }

    async fn campaign(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        ask: impl FnOnce(Candidate) -> Ask,
        limit: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ask = ask(Candidate {
            vote: rpc.vote.into(),
            last: rpc.last_log_id.map(Into::into),
            transfer: rpc.leadership_transfer,
        });
        match self.ask(&ask, &[], limit).await {
            Ok(Tell::Voted { vote, granted, last }) => Ok(VoteResponse {
                vote: vote.into(),
                vote_granted: granted,
                last_log_id: last.map(Into::into),
            }),
            Ok(other) => Err(self.confused(&other)),
            Err(error) => Err(self.rpc_error(error, RPCTypes::Vote)),
        }
    }
}

pub(super) fn unopened() -> LinkError {
    LinkError::Broken("it was not opened".to_owned())
}

/// What an answer says that is not the one that was wanted.
pub(super) fn answered(tell: &Tell) -> String {
    match tell {
        Tell::Not(reason) => reason.clone(),
        Tell::Appended(_)
        | Tell::Voted { .. }
        | Tell::Snapshot { .. }
        | Tell::Transferred(_)
        | Tell::ReadIndex(_)
        | Tell::Part(_)
        | Tell::Missing => format!("it answered something else: {tell:?}"),
    }
}

/// As many records of `entries` as go into one frame, at least one, and the last of them if some are left out.
fn pack(entries: &[super::types::Entry]) -> (Vec<Vec<u8>>, Option<LogId>) {
    let mut records = Vec::with_capacity(entries.len());
    let mut bytes = 0;
    let mut last = None;
    for entry in entries {
        let record = format::entry(entry);
        bytes += record.len();
        if bytes > APPEND_BYTES && !records.is_empty() {
            return (records, last);
        }
        records.push(record);
        last = Some(entry.log_id);
    }
    (records, None)
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Arc<[u8]>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (records, cut) = with_entries(&rpc.entries, || pack(&rpc.entries));
        let last = cut.or(rpc.entries.last().map(|entry| entry.log_id)).or(rpc.prev_log_id);
        let is_heartbeat = records.is_empty();
        let tell = if is_heartbeat {
            let ask = Ask::Append {
                vote: rpc.vote.into(),
                before: rpc.prev_log_id.map(Into::into),
                entries: records,
                committed: rpc.leader_commit.map(Into::into),
            };
            self.ask(&ask, &[], option.hard_ttl()).await
        } else {
            self.append(&rpc.vote, rpc.prev_log_id, records, rpc.leader_commit).await
        };
        let appended = match tell {
            Ok(Tell::Appended(appended)) => appended,
            Ok(other) => return Err(self.confused(&other)),
            Err(error) => return Err(self.rpc_error(error, RPCTypes::AppendEntries)),
        };
        if !is_heartbeat {
            self.office.transfers.arrived(self.member, Instant::now());
        }
        Ok(match appended {
            Appended::Success => {
                if let Some(last) = last {
                    self.office.acknowledged(self.member, &rpc.vote, last);
                }
                match cut {
                    Some(cut) => AppendEntriesResponse::PartialSuccess(Some(cut)),
                    None => AppendEntriesResponse::Success,
                }
            }
            Appended::Partial(last) => AppendEntriesResponse::PartialSuccess(last.map(Into::into)),
            Appended::Conflict => AppendEntriesResponse::Conflict,
            Appended::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.campaign(rpc, Ask::Vote, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.campaign(rpc, Ask::PreVote, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let answer = tokio::select! {
            // Either end is final: what was not sent is sent again on another stream.
            closed = cancel => return Err(closed.into()),
            answer = self.snapshot(&vote, snapshot.snapshot) => answer,
        };
        self.office.transfers.arrived(self.member, Instant::now());
        match answer {
            Ok(Tell::Snapshot { vote }) => Ok(SnapshotResponse::new(vote.into())),
            Ok(other) => Err(self.confused(&other).into()),
            Err(error) => Err(self.rpc_error(error, RPCTypes::InstallSnapshot).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ask = Ask::TransferLeader {
            vote: (*req.from_leader()).into(),
            to: *req.to_node_id(),
            last: req.last_log_id().copied().map(Into::into),
        };
        match self.ask(&ask, &[], option.hard_ttl()).await {
            Ok(Tell::Transferred(result)) => Ok(result.map_err(|not| match not {
                NotTransferred::VoteChanged { expected, actual } => {
                    TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() }
                }
                NotTransferred::LogNotFlushed { expected, actual } => TransferLeaderError::LogNotFlushed {
                    expected: expected.map(Into::into),
                    actual: actual.map(Into::into),
                },
            })),
            Ok(other) => Err(self.confused(&other)),
            Err(error) => Err(self.rpc_error(error, RPCTypes::TransferLeader)),
        }
    }
}

/// Makes a [`Link`] for each use.
pub(super) struct Links(pub(super) Arc<Office>);

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, site: &Site) -> Link {
        Link::new(self.0.clone(), target, *site)
    }
}
