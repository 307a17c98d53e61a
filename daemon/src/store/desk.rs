//! The answering end of the streams between managers.
//!
//! Owns: one stream at a time, question by question. Leaves alone: what Raft makes of the questions.
//! Holds: nothing reaches Raft before the caller is known to be the one process that speaks for its member, the member
//! to be on the node that its certificate names, and this process to be the one that was meant.

use std::{io, sync::Arc, time::Instant};

use openraft::{
    LogIdOptionExt,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
        VoteResponse,
    },
};
use raftup_proto::id::NodeId;
use tokio::{io::AsyncReadExt, time::timeout};
use tracing::{debug, warn};

use super::{
    format::{self, FormatError},
    machine::SNAPSHOT_MAX,
    raft::{Inner, SNAPSHOT_LIMIT},
    types::{Entry, Snapshot, TypeConfig, Vote},
    wire::{self, Appended, Ask, Candidate, Greeting, NotTransferred, Pipe, Tell, Welcome, Welcomed},
};

use crate::compute;

/// Bytes of entries that are decoded at once on the runtime's thread; for more, another thread takes over.
const SMALL: usize = 64 << 10;

/// Answers on one stream until its end.
pub(super) async fn serve(inner: &Inner, caller: NodeId, mut pipe: Box<dyn Pipe>) {
    if let Err(error) = answer(inner, caller, &mut *pipe).await {
        debug!(node = %caller, error = format!("{error:#}"), "a raft stream ended");
    }
}

async fn answer(inner: &Inner, caller: NodeId, pipe: &mut dyn Pipe) -> io::Result<()> {
    let Some(greeting) = wire::read::<Greeting>(pipe).await? else {
        return Ok(());
    };
    let from = greeting.from;
    let verdict = admit(inner, caller, greeting).await;
    if let Err(reason) = &verdict {
        warn!(node = %caller, member = from.member, reason, "a manager is turned away");
    }
    let last = inner.office.log.last().max(inner.machine.current().last).map(|last| last.index);
    let welcome: Welcome = verdict.map(|()| Welcomed { life: inner.office.me, last });
    wire::write(pipe, &welcome).await?;
    if welcome.is_err() {
        return Ok(());
    }
    while let Some(ask) = wire::read::<Ask>(pipe).await? {
        // Checked each time: another process may have taken over since the greeting.
        if !inner.office.peers.heard(from, Instant::now()) {
            return Ok(());
        }
        let tell = match ask {
            Ask::Append { vote, before, entries, committed } => match decode(&entries) {
                Ok(entries) => {
                    let prev_log_id = before.map(Into::into);
                    let leader_commit = committed.map(Into::into);
                    append(
                        inner,
                        AppendEntriesRequest { vote: vote.into(), prev_log_id, entries, leader_commit },
                    )
                    .await
                }
                Err(error) => Tell::Not(format!("an entry cannot be read: {error}")),
            },
            Ask::Vote(candidate) => match inner.office.check_candidate(from.member, candidate.last_index()) {
                Ok(()) => voted(inner.raft.vote(request(candidate)).await),
                Err(declined) => Tell::Not(declined.to_string()),
            },
            Ask::PreVote(candidate) => {
                match inner.office.check_candidate(from.member, candidate.last_index()) {
                    Ok(()) => voted(inner.raft.pre_vote(request(candidate)).await),
                    Err(declined) => Tell::Not(declined.to_string()),
                }
            }
            Ask::Snapshot { vote, size } => install(inner, vote.into(), size, pipe).await?,
            Ask::TransferLeader { vote, to, last } => {
                let request = TransferLeaderRequest::new(vote.into(), to, last.map(Into::into));
                match inner.raft.handle_transfer_leader(request).await {
                    Ok(result) => Tell::Transferred(result.map_err(not_transferred)),
                    Err(error) => Tell::Not(error.to_string()),
                }
            }
            Ask::ReadIndex => match inner.read_index().await {
                Ok(index) => Tell::ReadIndex(index),
                Err(refusal) => Tell::Not(refusal.message),
            },
        };
        wire::write(pipe, &tell).await?;
    }
    Ok(())
}

fn decode(records: &[Vec<u8>]) -> Result<Vec<Entry>, FormatError> {
    let decode = || records.iter().map(|record| format::read_entry(record)).collect();
    let bytes: usize = records.iter().map(Vec::len).sum();
    if bytes > SMALL { compute::in_place(decode) } else { decode() }
}

async fn admit(inner: &Inner, caller: NodeId, greeting: Greeting) -> Result<(), String> {
    let me = inner.office.me;
    if greeting.to != me.member {
        return Err(format!("this is member {}, not {}", me.member, greeting.to));
    }
    if greeting.from.member == me.member {
        return Err(format!("member {} runs here: its storage was copied", me.member));
    }
    let applied = inner.machine.current();
    match applied.members.get_node(&greeting.from.member) {
        Some(site) if site.node != caller => {
            return Err(format!("member {} is on node {}, not {caller}", greeting.from.member, site.node));
        }
        // A member that is new may know more members than this one does yet.
        Some(_) | None => {}
    }
    inner.office.admit(greeting.from, None).await
}

async fn append(inner: &Inner, request: AppendEntriesRequest<TypeConfig>) -> Tell {
    // Entries may take long to be on disk; the leader was heard now.
    let heard = Instant::now();
    let appended = match inner.raft.append_entries(request).await {
        Ok(AppendEntriesResponse::Success) => Appended::Success,
        Ok(AppendEntriesResponse::PartialSuccess(last)) => Appended::Partial(last.map(Into::into)),
        Ok(AppendEntriesResponse::Conflict) => Appended::Conflict,
        Ok(AppendEntriesResponse::HigherVote(vote)) => {
            return Tell::Appended(Appended::HigherVote(vote.into()));
        }
        Err(error) => return Tell::Not(error.to_string()),
    };
    inner.led.send_replace(Some(heard));
    Tell::Appended(appended)
}

fn request(candidate: Candidate) -> VoteRequest<TypeConfig> {
    VoteRequest {
        vote: candidate.vote.into(),
        last_log_id: candidate.last.map(Into::into),
        leadership_transfer: candidate.transfer,
    }
}

fn voted<E: std::fmt::Display>(answer: Result<VoteResponse<TypeConfig>, E>) -> Tell {
    match answer {
        Ok(answer) => Tell::Voted {
            vote: answer.vote.into(),
            granted: answer.vote_granted,
            last: answer.last_log_id.map(Into::into),
        },
        Err(error) => Tell::Not(error.to_string()),
    }
}

fn not_transferred(error: TransferLeaderError<TypeConfig>) -> NotTransferred {
    match error {
        TransferLeaderError::VoteChanged { expected, actual } => {
            NotTransferred::VoteChanged { expected: expected.into(), actual: actual.into() }
        }
        TransferLeaderError::LogNotFlushed { expected, actual } => NotTransferred::LogNotFlushed {
            expected: expected.map(Into::into),
            actual: actual.map(Into::into),
        },
    }
}

async fn install(inner: &Inner, vote: Vote, size: u64, pipe: &mut dyn Pipe) -> io::Result<Tell> {
    if size > SNAPSHOT_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is too large"));
    }
    // One at a time, so that memory for one is enough. Its bytes may be on their way, so the stream ends with a refusal.
    let Ok(_turn) = inner.installing.try_lock() else {
        return Err(io::Error::other("another snapshot is coming in"));
    };
    // Grown as bytes come in: the size is only what the other end says.
    let mut record = Vec::new();
    timeout(SNAPSHOT_LIMIT, pipe.take(size).read_to_end(&mut record)).await??;
    if record.len() as u64 != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Takes a second for a large one; heartbeats must be answered meanwhile.
    let decode = move || format::read_snapshot(&record).map(|(meta, _)| (meta, Arc::from(record)));
    let (meta, snapshot) = match tokio::task::spawn_blocking(decode).await? {
        Ok(decoded) => decoded,
        Err(error) => return Ok(Tell::Not(format!("the snapshot cannot be read: {error}"))),
    };
    debug!(entry = ?meta.last_log_id.index(), bytes = size, "a snapshot has come in");
    let snapshot = Snapshot { meta, snapshot };
    Ok(match inner.raft.install_full_snapshot(vote, snapshot).await {
        Ok(response) => Tell::Snapshot { vote: response.vote.into() },
        Err(error) => Tell::Not(error.to_string()),
    })
}
