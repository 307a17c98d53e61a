//! The caller's end of the streams between managers.
//!
//! Owns: one stream for each use that Raft makes of a member (entries, heartbeats, snapshots), opened when needed. Leaves
//! alone: how a stream reaches a node ([`Transport`]).
//! Holds: no answer is believed before the other end has said who it is. A question that was given up takes its stream
//! with it, so that its late answer cannot be taken for another's.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

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
use raftup_proto::{id::NodeId, peer::Hello};
use tokio::io::AsyncWriteExt;
use tracing::warn;

use super::{
    format::{self, Life},
    log::Log,
    peers::{Declined, Extent, Peers},
    types::{LogId, Site, Snapshot, TypeConfig, Vote, with_entries},
    wire::{self, Appended, Ask, Candidate, Greeting, NotTransferred, Pipe, Tell, Welcome},
};
use crate::net::{Net, Peer};

/// Longest wait for an answer to entries: the other end syncs them first, and its disk may be slow. Entries of many bytes
/// have a second more for each of [`SLOWEST`].
const APPEND_LIMIT: Duration = Duration::from_secs(1);

/// Bytes in a second over the slowest link between managers.
const SLOWEST: usize = 1 << 20;

/// Longest wait for a stream to be opened and greeted.
const OPEN_LIMIT: Duration = Duration::from_millis(700);

/// Bytes of entries that are sent at once, a larger single entry aside.
const APPEND_BYTES: usize = 4 << 20;

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
}

impl Office {
    /// Says whether `life` may speak for its member. What is new is on disk before that.
    pub(super) async fn admit(&self, life: Life, extent: Option<Extent>) -> Result<(), String> {
        match self.peers.admit(life, extent, Instant::now()) {
            Ok(false) => Ok(()),
            Ok(true) => self.log.keep_life(life).await.map_err(|error| error.to_string()),
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
    office: Arc<Office>,
    member: u64,
    site: Site,
    stream: Option<Greeted>,
    /// The last complaint, so that each is logged once.
    complaint: Option<String>,
}

struct Greeted {
    pipe: Box<dyn Pipe>,
    life: Life,
}

impl Link {
    pub(super) fn new(office: Arc<Office>, member: u64, site: Site) -> Self {
        Self { office, member, site, stream: None, complaint: None }
    }

    /// The answer to `ask`. `bare` follows the question. Cancel-safe: the stream is lost with a question.
    pub(super) async fn ask(&mut self, ask: &Ask, bare: &[u8], limit: Duration) -> Result<Tell, LinkError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.greet().await?,
        };
        let answer = async {
            wire::write(&mut *stream.pipe, ask).await?;
            if !bare.is_empty() {
                stream.pipe.write_all(bare).await?;
                stream.pipe.flush().await?;
            }
            wire::read(&mut *stream.pipe).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        let tell = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(tell)) => tell,
            Ok(Err(error)) => return Err(LinkError::Broken(io::Error::to_string(&error))),
            Err(_) => return Err(LinkError::Late(limit)),
        };
        if !self.office.peers.heard(stream.life, Instant::now()) {
            return Err(LinkError::Broken("another process speaks for the member by now".to_owned()));
        }
        self.stream = Some(stream);
        self.complaint = None;
        Ok(tell)
    }

    async fn greet(&mut self) -> Result<Greeted, LinkError> {
        let (office, member, site) = (self.office.clone(), self.member, self.site);
        let open = async move {
            let mut pipe =
                office.transport.open(site.node, site.addr).await.map_err(|error| error.to_string())?;
            let greeting = Greeting { from: office.me, to: member };
            // Taken before the greeting is sent: the answer may be older than what is acknowledged on another stream.
            let floor = office.floor(member);
            let welcome: io::Result<Option<Welcome>> = async {
                wire::write(&mut *pipe, &greeting).await?;
                wire::read(&mut *pipe).await
            }
            .await;
            let welcome = welcome.map_err(|error| error.to_string())?.ok_or("it hung up")?;
            let welcomed = welcome.map_err(|reason| format!("it declines: {reason}"))?;
            if welcomed.life.member != member {
                return Err(format!("member {} answered", welcomed.life.member));
            }
            office.admit(welcomed.life, Some(Extent { last: welcomed.last, floor })).await?;
            Ok(Greeted { pipe, life: welcomed.life })
        };
        match tokio::time::timeout(OPEN_LIMIT, open).await {
            Ok(Ok(greeted)) => Ok(greeted),
            Ok(Err(reason)) => Err(self.complain(reason)),
            Err(_) => Err(self.complain("it does not answer".to_owned())),
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
        let reason = match tell {
            Tell::Not(reason) => reason.clone(),
            Tell::Appended(_)
            | Tell::Voted { .. }
            | Tell::Snapshot { .. }
            | Tell::Transferred(_)
            | Tell::ReadIndex(_) => format!("it answered something else: {tell:?}"),
        };
        RPCError::Unreachable(Unreachable::from_string(reason))
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
        let (entries, cut) = with_entries(&rpc.entries, || pack(&rpc.entries));
        let last = cut.or(rpc.entries.last().map(|entry| entry.log_id)).or(rpc.prev_log_id);
        let bytes: usize = entries.iter().map(Vec::len).sum();
        let limit = match entries.is_empty() {
            true => option.hard_ttl(),
            false => APPEND_LIMIT + Duration::from_secs((bytes / SLOWEST) as u64),
        };
        let ask = Ask::Append {
            vote: rpc.vote.into(),
            before: rpc.prev_log_id.map(Into::into),
            entries,
            committed: rpc.leader_commit.map(Into::into),
        };
        let appended = match self.ask(&ask, &[], limit).await {
            Ok(Tell::Appended(appended)) => appended,
            Ok(other) => return Err(self.confused(&other)),
            Err(error) => return Err(self.rpc_error(error, RPCTypes::AppendEntries)),
        };
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
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let bytes = snapshot.snapshot;
        let ask = Ask::Snapshot { vote: vote.into(), size: bytes.len() as u64 };
        let answer = tokio::select! {
            // Either end is final: what was not sent is sent again on another stream.
            closed = cancel => return Err(closed.into()),
            answer = self.ask(&ask, &bytes, option.hard_ttl()) => answer,
        };
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
