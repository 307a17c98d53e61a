//! Entries and snapshots on their way to a member, for as long as that takes.
//!
//! Owns: sending large records in parts, and when a transfer counts as stuck. Leaves alone: the stream itself (`link`), and
//! what has arrived (`parts`).
//! Holds: nothing that arrives is limited in time; only a member that is not heard any more, or a leader that leads no more,
//! ends a transfer.

use std::{
    future::Future,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{
    format::Life,
    link::{Link, LinkError, Office, answered, unopened},
    parts::{Content, PART_BYTES, SINGLE_MAX},
    types::{LogId, Vote},
    wire::{self, Ask, Piece, Tell},
};
use crate::compute;

/// A member that was not heard for so long takes no entries. More than the time in which QUIC sends a lost packet again.
const SILENT: Duration = Duration::from_secs(3);

/// Longest wait for entries to be on a disk, and for a snapshot to be installed, on a member that is heard.
const DISK_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether a member is still heard.
const LOOK: Duration = Duration::from_millis(250);

/// How often a content is sent that the member does not keep.
const ATTEMPTS: usize = 3;

impl Link {
    /// As [`Link::ask`], with no limit of time while the member is heard and this manager leads by `vote`.
    async fn ask_while_heard(&mut self, vote: &Vote, ask: &Ask, bare: &[u8]) -> Result<Tell, LinkError> {
        let (office, life) = (self.office.clone(), self.greeted().await?);
        let answer = while_heard(&office, life, vote, self.exchange(ask, bare)).await;
        if answer.is_err() {
            // What is left of the question would be sent for nothing.
            self.stream = None;
        }
        answer?
    }

    /// Has the member hold all of `bytes`, and sends no part that it has. If it is cancelled, the stream
    /// is lost, and what has arrived is not.
    async fn send_parts(&mut self, vote: &Vote, content: Content, bytes: &[u8]) -> Result<(), LinkError> {
        let none = Ask::Part { content, offset: 0, bytes: Vec::new() };
        let tell = self.ask_while_heard(vote, &none, &[]).await?;
        let Tell::Part(have) = tell else { return Err(LinkError::Unreachable(answered(&tell))) };
        let rest = usize::try_from(have).ok().and_then(|have| bytes.get(have..)).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let mut stream = self.stream.take().ok_or_else(unopened)?;
        let (office, member, node) = (self.office.clone(), self.member, self.site.node);
        let (near, far) = tokio::io::split(&mut *stream.pipe);
        let parts = rest.chunks(PART_BYTES);
        let asked = parts.len();
        let write = async {
            let mut far = far;
            let mut offset = have;
            for part in parts {
                wire::write(&mut far, &Ask::Part { content, offset, bytes: part.to_vec() }).await?;
                offset += part.len() as u64;
            }
            io::Result::Ok(())
        };
        let inbox = &mut stream.inbox;
        let life = stream.life.ok_or_else(unopened)?;
        let read = async {
            let mut near = near;
            let mut last = have;
            for _ in 0..asked {
                let tell: Tell = inbox.read(&mut near).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let Tell::Part(have) = tell else { return Err(io::Error::other(answered(&tell))) };
                if have <= last {
                    return Err(io::Error::other(UNKEPT));
                }
                last = have;
                let now = Instant::now();
                if !office.peers.heard(life, now) {
                    return Err(io::Error::other("another process speaks for the member by now"));
                }
                office.transfers.moved(member, node, content, last, now);
            }
            Ok(())
        };
        let sent = while_heard(&self.office, life, vote, async { tokio::try_join!(write, read) }).await?;
        sent.map_err(|error| LinkError::Broken(error.to_string()))?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Has the member append `records`, the large ones sent in parts before.
    pub(super) async fn append(
        &mut self,
        vote: &Vote,
        before: Option<LogId>,
        records: Vec<Vec<u8>>,
        committed: Option<LogId>,
    ) -> Result<Tell, LinkError> {
        let (wire_vote, before, committed) =
            ((*vote).into(), before.map(Into::into), committed.map(Into::into));
        let is_large = |record: &Vec<u8>| record.len() > SINGLE_MAX;
        if !self.office.sends_parts() || !records.iter().any(is_large) {
            let ask = Ask::Append { vote: wire_vote, before, entries: records, committed };
            return self.ask_while_heard(vote, &ask, &[]).await;
        }
        for _ in 0..ATTEMPTS {
            let mut entries = Vec::with_capacity(records.len());
            for record in &records {
                entries.push(if is_large(record) {
                    let content = compute::in_place(|| Content::of(record));
                    self.send_parts(vote, content, record).await?;
                    Piece::Sent(content)
                } else {
                    Piece::Record(record.clone())
                });
            }
            let ask = Ask::AppendParts { vote: wire_vote, before, entries, committed };
            let tell = self.ask_while_heard(vote, &ask, &[]).await?;
            // A content that is missing was used by another stream, or made room for newer ones.
            if !matches!(tell, Tell::Missing) {
                return Ok(tell);
            }
        }
        Err(unkept())
    }

    pub(super) async fn snapshot(&mut self, vote: &Vote, record: Arc<[u8]>) -> Result<Tell, LinkError> {
        if !self.office.sends_parts() {
            let ask = Ask::Snapshot { vote: (*vote).into(), size: record.len() as u64 };
            return self.ask_while_heard(vote, &ask, &record).await;
        }
        let named = record.clone();
        let content = tokio::task::spawn_blocking(move || Content::of(&named));
        let content = content.await.map_err(|error| LinkError::Broken(error.to_string()))?;
        for _ in 0..ATTEMPTS {
            self.send_parts(vote, content, &record).await?;
            let ask = Ask::SnapshotParts { vote: (*vote).into(), content };
            let tell = self.ask_while_heard(vote, &ask, &[]).await?;
            if !matches!(tell, Tell::Missing) {
                return Ok(tell);
            }
        }
        Err(unkept())
    }
}

const UNKEPT: &str = "it does not keep what it is sent";

fn unkept() -> LinkError {
    LinkError::Broken(UNKEPT.to_owned())
}

/// Waits for `work` with the process `life` while that is heard and speaks for its member, and while this manager leads by
/// `vote`.
async fn while_heard<T>(
    office: &Office,
    life: Life,
    vote: &Vote,
    work: impl Future<Output = T>,
) -> Result<T, LinkError> {
    tokio::pin!(work);
    let begun = Instant::now();
    loop {
        if let Ok(done) = timeout(LOOK, &mut work).await {
            return Ok(done);
        }
        let now = Instant::now();
        let silence = office.peers.silence(life.member, now).unwrap_or(SILENT);
        let moved = office.transfers.last_moved_to(life.member).map_or(begun, |moved| moved.max(begun));
        let waited = now.saturating_duration_since(begun);
        let led = office.log.vote().is_some_and(|kept| kept.leader_id == vote.leader_id);
        if !led
            || !office.peers.speaks(life)
            || (silence >= SILENT && waited >= SILENT)
            || now.saturating_duration_since(moved) >= DISK_LIMIT
        {
            return Err(LinkError::Late(waited));
        }
    }
}
