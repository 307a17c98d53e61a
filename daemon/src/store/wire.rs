//! What managers say to each other inside a [`Hello::Raft`] stream.
//!
//! The caller sends one [`Greeting`], the other end answers one [`Welcome`]; then questions and answers take turns.
//! Entries and snapshots travel as the records that are on disk, so their versions and checksums come along.
//! Enums here only grow at their end: the encoder numbers variants by position.

use std::io;

use raftup_proto::{codec, peer::Hello};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    format::Life,
    parts::Content,
    types::{LeaderId, LogId, Vote},
};

/// A stream between two managers.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Pipe for T {}

/// Who calls, and whom.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) from: Life,
    /// The member that is meant; another one must not answer.
    pub(super) to: u64,
}

/// Who answers, and where its log ends; or why it does not answer.
pub(super) type Welcome = Result<Welcomed, String>;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Welcomed {
    pub(super) life: Life,
    pub(super) last: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    Append {
        vote: WireVote,
        before: Option<WireLogId>,
        entries: Vec<Vec<u8>>,
        committed: Option<WireLogId>,
    },
    Vote(Candidate),
    PreVote(Candidate),
    /// That many bytes of a snapshot's record follow, bare.
    Snapshot {
        vote: WireVote,
        size: u64,
    },
    TransferLeader {
        vote: WireVote,
        to: u64,
        last: Option<WireLogId>,
    },
    /// Up to where must a read see? Only the leader can say.
    ReadIndex,
    /// Bytes of a content from `offset` on. With no bytes, it asks how many are there. Since level 2.
    Part {
        content: Content,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// As `Append`, after large records were sent in parts. Since level 2.
    AppendParts {
        vote: WireVote,
        before: Option<WireLogId>,
        entries: Vec<Piece>,
        committed: Option<WireLogId>,
    },
    /// As `Snapshot`, after its record was sent in parts. Since level 2.
    SnapshotParts {
        vote: WireVote,
        content: Content,
    },
}

/// The record of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Piece {
    /// It.
    Record(Vec<u8>),
    /// It was sent in parts.
    Sent(Content),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) vote: WireVote,
    pub(super) last: Option<WireLogId>,
    pub(super) transfer: bool,
}

impl Candidate {
    /// The index of its last entry.
    pub(super) fn last_index(&self) -> Option<u64> {
        self.last.map(|last| last.index)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Tell {
    Appended(Appended),
    Voted {
        vote: WireVote,
        granted: bool,
        last: Option<WireLogId>,
    },
    Snapshot {
        vote: WireVote,
    },
    Transferred(Result<(), NotTransferred>),
    ReadIndex(u64),
    /// It cannot say, for that reason.
    Not(String),
    /// So many bytes of the content are there, from its beginning.
    Part(u64),
    /// A content that was to be sent in parts is not there in whole.
    Missing,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Appended {
    Success,
    Partial(Option<WireLogId>),
    Conflict,
    HigherVote(WireVote),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum NotTransferred {
    VoteChanged { expected: WireVote, actual: WireVote },
    LogNotFlushed { expected: Option<WireLogId>, actual: Option<WireLogId> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireVote {
    term: u64,
    member: u64,
    committed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireLogId {
    term: u64,
    member: u64,
    index: u64,
}

impl From<Vote> for WireVote {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, member: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        Vote { leader_id: LeaderId { term: vote.term, node_id: vote.member }, committed: vote.committed }
    }
}

impl From<LogId> for WireLogId {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, member: id.leader_id.node_id, index: id.index }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        LogId::new(LeaderId { term: id.term, node_id: id.member }, id.index)
    }
}

fn malformed(error: codec::CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Writes one frame. Not cancel-safe: a stream whose write was cut off must be dropped.
pub(super) async fn write<T: Serialize>(mut pipe: impl AsyncWrite + Unpin, value: &T) -> io::Result<()> {
    let frame = codec::frame(value, Hello::Raft.cap()).map_err(malformed)?;
    pipe.write_all(&frame).await?;
    pipe.flush().await
}

/// The frame that is coming in. Reading is cancel-safe: what has come is kept for the next call.
///
/// Reads no byte beyond the frame, and sets memory aside only for bytes that have come.
#[derive(Default)]
pub(super) struct Inbox(Vec<u8>);

impl Inbox {
    /// Reads one frame; none at the stream's end.
    pub(super) async fn read<T: DeserializeOwned>(
        &mut self,
        mut pipe: impl AsyncRead + Unpin,
    ) -> io::Result<Option<T>> {
        loop {
            let whole = match self.0.first_chunk::<{ codec::LENGTH_BYTES }>() {
                None => codec::LENGTH_BYTES,
                Some(length) => {
                    let whole = codec::LENGTH_BYTES
                        + codec::frame_size(*length, Hello::Raft.cap()).map_err(malformed)?;
                    if self.0.len() == whole {
                        let frame = std::mem::take(&mut self.0);
                        let body = &frame[codec::LENGTH_BYTES..];
                        return codec::decode(body, Hello::Raft.cap()).map(Some).map_err(malformed);
                    }
                    whole
                }
            };
            let missing = (whole - self.0.len()) as u64;
            if (&mut pipe).take(missing).read_buf(&mut self.0).await? == 0 {
                return if self.0.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}
