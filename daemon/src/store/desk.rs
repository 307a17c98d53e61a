//! The answering end of the streams between managers.
//!
//! Owns: one stream at a time, question by question. Leaves alone: what Raft makes of the questions.
//! Holds: nothing reaches Raft before the caller is known to be the one process that speaks for its member, the member
//! to be on the node that its certificate names, and this process to be the one that was meant.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

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
    types::{Entry, LogId, Snapshot, TypeConfig, Vote},
    wire::{
        self, Appended, Ask, Candidate, Greeting, Inbox, NotTransferred, Piece, Pipe, Tell, Welcome, Welcomed,
    },
};

use crate::compute;

/// Bytes of entries that are decoded at once on the runtime's thread; for more, another thread takes over.
const SMALL: usize = 64 << 10;

/// How long a heartbeat waits for earlier writes to be on disk.
const DISK_GRACE: Duration = Duration::from_millis(50);

/// Answers on one stream until its end.
pub(super) async fn serve(inner: &Inner, caller: NodeId, mut pipe: Box<dyn Pipe>) {
    if let Err(error) = answer(inner, caller, &mut *pipe).await {
        debug!(node = %caller, error = format!("{error:#}"), "a raft stream ended");
    }
}

async fn answer(inner: &Inner, caller: NodeId, pipe: &mut dyn Pipe) -> io::Result<()> {
    let mut inbox = Inbox::default();
    let Some(greeting) = inbox.read::<Greeting>(&mut *pipe).await? else {
        return Ok(());
    };
    let from = greeting.from;
    let verdict = admit(inner, caller, greeting).await;
    if let Err(reason) = &verdict {
        warn!(node = %caller, member = from.member, reason, "a manager is turned away");
    }
    let last = inner.office.log.last().max(inner.machine.current().last).map(|last| last.index);
    let welcome: Welcome = verdict.map(|()| Welcomed { life: inner.office.me, last });
    wire::write(&mut *pipe, &welcome).await?;
    if welcome.is_err() {
        return Ok(());
    }
    while let Some(ask) = inbox.read::<Ask>(&mut *pipe).await? {
        // Checked each time: another process may have taken over since the greeting.
        if !inner.office.peers.heard(from, Instant::now()) {
            return Ok(());
        }
        let tell = match ask {
            Ask::Append { vote, before, entries, committed } => {
                append(inner, vote.into(), before.map(Into::into), &entries, committed.map(Into::into)).await
            }
            Ask::AppendParts { vote, before, entries, committed } => match collect(inner, entries) {
                Some(entries) => {
                    append(inner, vote.into(), before.map(Into::into), &entries, committed.map(Into::into))
                        .await
                }
                None => Tell::Missing,
            },
            Ask::Part { content, offset, bytes } => {
                match inner.parts.add(content, offset, &bytes, Instant::now()) {
                    Ok(have) => Tell::Part(have),
                    Err(reason) => Tell::Not(reason),
                }
            }
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
            Ask::Snapshot { vote, size } => {
                let record = receive(inner, size, pipe).await?;
                install(inner, vote.into(), record).await?
            }
            Ask::SnapshotParts { vote, content } => {
                let parts = inner.parts.clone();
                match tokio::task::spawn_blocking(move || parts.take(content)).await? {
                    Some(record) => install(inner, vote.into(), record).await?,
                    None => Tell::Missing,
                }
            }
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
        wire::write(&mut *pipe, &tell).await?;
    }
    Ok(())
}

/// The records, with those that were sent in parts; none if one of them is not there.
fn collect(inner: &Inner, entries: Vec<Piece>) -> Option<Vec<Vec<u8>>> {
    let record = |piece| match piece {
        Piece::Record(record) => Some(record),
        Piece::Sent(content) => compute::in_place(|| inner.parts.take(content)),
    };
    entries.into_iter().map(record).collect()
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

async fn append(
    inner: &Inner,
    vote: Vote,
    prev_log_id: Option<LogId>,
    records: &[Vec<u8>],
    leader_commit: Option<LogId>,
) -> Tell {
    let entries = match decode(records) {
        Ok(entries) => entries,
        Err(error) => return Tell::Not(format!("an entry cannot be read: {error}")),
    };
    // Entries may take long to be on disk; the leader was heard now.
    let heard = Instant::now();
    let is_heartbeat = entries.is_empty();
    let request = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit };
    let (raft, led) = (inner.raft.clone(), inner.led.clone());
    let mut appending = tokio::spawn(async move {
        let appended = raft.append_entries(request).await;
        if matches!(
            appended,
            Ok(AppendEntriesResponse::Success
                | AppendEntriesResponse::PartialSuccess(_)
                | AppendEntriesResponse::Conflict)
        ) {
            led.send_replace(Some(heard));
        }
        appended
    });
    let appended = if is_heartbeat {
        match timeout(DISK_GRACE, &mut appending).await {
            Ok(appended) => appended,
            // Raft answers once all earlier writes are on disk. The leader asks only whether it is followed: it is, by the
            // vote on disk, and whoever is elected meanwhile gets this manager's vote on disk after this answer.
            Err(_) if inner.office.log.vote().is_some_and(|kept| kept.leader_id == vote.leader_id) => {
                inner.led.send_replace(Some(heard));
                return Tell::Appended(Appended::Success);
            }
            Err(_) => appending.await,
        }
    } else {
        appending.await
    };
    Tell::Appended(match appended {
        Ok(Ok(AppendEntriesResponse::Success)) => Appended::Success,
        Ok(Ok(AppendEntriesResponse::PartialSuccess(last))) => Appended::Partial(last.map(Into::into)),
        Ok(Ok(AppendEntriesResponse::Conflict)) => Appended::Conflict,
        Ok(Ok(AppendEntriesResponse::HigherVote(vote))) => Appended::HigherVote(vote.into()),
        Ok(Err(error)) => return Tell::Not(error.to_string()),
        Err(error) => return Tell::Not(error.to_string()),
    })
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

/// Reads the bare record of a snapshot, as managers before level 2 send it.
async fn receive(inner: &Inner, size: u64, pipe: &mut dyn Pipe) -> io::Result<Vec<u8>> {
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
    Ok(record)
}

async fn install(inner: &Inner, vote: Vote, record: Vec<u8>) -> io::Result<Tell> {
    let _turn = inner.installing.lock().await;
    let size = record.len();
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
