//! Large records and snapshots on their way between managers, in parts that are never sent twice.
//!
//! Owns: what has come in of contents that are not whole yet ([`Parts`]), and how far this manager's own transfers are
//! ([`Transfers`]). Leaves alone: what the bytes mean.
//! Holds: a content is named by its digest, so it is resumed on any stream and from any manager that has it; bytes are kept
//! only as far as they came, and within [`HELD_MAX`] beside the newest content; a content whose digest is wrong is dropped.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use raftup_proto::id::NodeId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::machine::SNAPSHOT_MAX;

/// Bytes of a part. Each is acknowledged, so a link that takes longer for one than its reader waits counts as stuck.
pub(super) const PART_BYTES: usize = 16 << 10;

/// Records of more bytes are sent in parts.
pub(super) const SINGLE_MAX: usize = 64 << 10;

/// Bytes kept of all contents together beside the newest one, which may be a snapshot.
const HELD_MAX: usize = 64 << 20;

/// A content of which nothing has come for so long is dropped.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// Names bytes by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    digest: [u8; 32],
    size: u64,
}

impl Content {
    /// The name of `bytes`. Cost: one pass over them.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { digest: Sha256::digest(bytes).into(), size: bytes.len() as u64 }
    }
}

struct Held {
    content: Content,
    bytes: Vec<u8>,
    touched: Instant,
}

/// What has come in. The newest is last.
#[derive(Default)]
pub(super) struct Parts(Mutex<Vec<Held>>);

impl Parts {
    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        // What is inside is whole after each statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what is new of `bytes`, which begin at `offset`. Returns how many bytes are held, counted from the beginning.
    ///
    /// Errors: the content is larger than anything that managers send each other.
    pub(super) fn add(
        &self,
        content: Content,
        offset: u64,
        bytes: &[u8],
        now: Instant,
    ) -> Result<u64, String> {
        if content.size > SNAPSHOT_MAX {
            return Err(format!("a content of {} bytes is too large", content.size));
        }
        let mut held = self.lock();
        let mut newest = match held.iter().position(|held| held.content == content) {
            Some(at) => held.remove(at),
            None => Held { content, bytes: Vec::new(), touched: now },
        };
        newest.touched = now;
        let have = newest.bytes.len() as u64;
        let room = usize::try_from(content.size - have).unwrap_or(usize::MAX);
        let known = have.checked_sub(offset).and_then(|known| usize::try_from(known).ok());
        if let Some(new) = known.and_then(|known| bytes.get(known..)) {
            newest.bytes.extend_from_slice(&new[..new.len().min(room)]);
        }
        let have = newest.bytes.len() as u64;
        while held.iter().map(|held| held.bytes.len()).sum::<usize>() > HELD_MAX {
            held.remove(0);
        }
        held.push(newest);
        Ok(have)
    }

    /// Takes the content out; none if it is not there in whole, or not what its name says. Cost: one pass over it.
    pub(super) fn take(&self, content: Content) -> Option<Vec<u8>> {
        let bytes = {
            let mut held = self.lock();
            let whole = |held: &Held| held.content == content && held.bytes.len() as u64 == content.size;
            let at = held.iter().position(whole)?;
            held.remove(at).bytes
        };
        (Content::of(&bytes) == content).then_some(bytes)
    }

    /// Drops contents that nobody goes on to send.
    pub(super) fn expire(&self, now: Instant) {
        self.lock().retain(|held| now.saturating_duration_since(held.touched) < FORGOTTEN);
    }
}

/// One transfer to a member.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    node: NodeId,
    sent: u64,
    size: u64,
}

/// How far this manager's transfers to others are, by member, and when each last moved.
#[derive(Default)]
pub(super) struct Transfers(Mutex<(BTreeMap<u64, Transfer>, BTreeMap<u64, Instant>)>);

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, (BTreeMap<u64, Transfer>, BTreeMap<u64, Instant>)> {
        // What is inside is whole after each statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `member` has `sent` of `content`.
    pub(super) fn moved(&self, member: u64, node: NodeId, content: Content, sent: u64, now: Instant) {
        let mut inner = self.lock();
        inner.1.insert(member, now);
        inner.0.insert(member, Transfer { node, sent, size: content.size });
    }

    /// Notes that entries are on `member`'s disk.
    pub(super) fn arrived(&self, member: u64, now: Instant) {
        let mut inner = self.lock();
        inner.1.insert(member, now);
        inner.0.remove(&member);
    }

    /// When bytes last arrived anywhere.
    pub(super) fn last_moved(&self) -> Option<Instant> {
        self.lock().1.values().max().copied()
    }

    /// When bytes last arrived at `member`.
    pub(super) fn last_moved_to(&self, member: u64) -> Option<Instant> {
        self.lock().1.get(&member).copied()
    }

    /// What is under way, for people; none if nothing is.
    pub(super) fn describe(&self) -> Option<String> {
        let kib = |bytes: u64| bytes.div_ceil(1024);
        let inner = self.lock();
        let one = |transfer: &Transfer| {
            format!("node {} has {} of {} KiB", transfer.node, kib(transfer.sent), kib(transfer.size))
        };
        let all: Vec<String> = inner.0.values().map(one).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_is_kept_and_not_taken_twice() {
        let (parts, now) = (Parts::default(), Instant::now());
        let bytes: Vec<u8> = (0..100_u8).collect();
        let content = Content::of(&bytes);
        assert_eq!(parts.add(content, 0, &[], now), Ok(0));
        assert_eq!(parts.add(content, 0, &bytes[..40], now), Ok(40));
        // A part that does not follow on is of no use; one that overlaps adds what is new.
        assert_eq!(parts.add(content, 60, &bytes[60..], now), Ok(40));
        assert!(parts.take(content).is_none());
        assert_eq!(parts.add(content, 20, &bytes[20..70], now), Ok(70));
        assert_eq!(parts.add(content, 70, &[&bytes[70..], &[1; 50]].concat(), now), Ok(100));
        assert_eq!(parts.take(content), Some(bytes));
        assert!(parts.take(content).is_none());
    }

    #[test]
    fn a_content_that_is_not_what_its_name_says_is_dropped() {
        let (parts, now) = (Parts::default(), Instant::now());
        let content = Content::of(b"right");
        assert_eq!(parts.add(content, 0, b"wrong", now), Ok(5));
        assert!(parts.take(content).is_none());
        assert_eq!(parts.add(content, 0, b"right", now), Ok(5));
        assert!(parts.take(content).is_some());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (parts, now) = (Parts::default(), Instant::now());
        let chunk = vec![0; 8 << 20];
        for number in 0..20_u8 {
            let content = Content { digest: [number; 32], size: 100 << 20 };
            assert_eq!(parts.add(content, 0, &chunk, now), Ok(chunk.len() as u64));
            let held: usize = parts.lock().iter().map(|held| held.bytes.len()).sum();
            assert!(held <= HELD_MAX + chunk.len(), "{held}");
        }
        assert!(parts.add(Content { digest: [0; 32], size: SNAPSHOT_MAX + 1 }, 0, &[], now).is_err());
        parts.expire(now + FORGOTTEN);
        assert!(parts.lock().is_empty());
    }
}
