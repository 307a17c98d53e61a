//! Records on disk: an envelope with a version and a checksum around each, and the one place that names their encoder.
//!
//! ```text
//! kind (1 byte)  version (1)  length of the body (4, big-endian)  CRC-32 of all the rest (4)  body
//! ```
//!
//! Owns: the bytes of log entries, votes, snapshots and identities. Leaves alone: where they are kept.
//! Holds: only the newest version is written; each older one is read for ever, from bytes that a test keeps. Bodies hold
//! types of `model` by position, so a change of their shape is a new version here: the test of the kept bytes fails,
//! and the old types move here as `V1`.

use std::collections::{BTreeMap, BTreeSet};

use bincode::Options;
use raftup_proto::id::NodeId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::types::{
    Command, Entry, LeaderId, LogId, Members, Payload, Site, SnapshotMeta, StoredMembers, Vote,
};
use crate::model::{ChangeSet, Cluster};

/// Bytes before each body.
const HEAD: usize = 10;

/// Largest body: a length that damage made up is not believed.
const BODY_MAX: u64 = 1 << 30;

/// Bytes that are not a record that this version can read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    /// Fewer bytes than a record has, or more.
    #[error("the record is cut off or too long")]
    Length,
    /// The checksum does not fit.
    #[error("the record is damaged: its checksum is wrong")]
    Checksum,
    /// A sound record of something else.
    #[error("the record is of kind {found}, not {wanted}")]
    Kind {
        /// What it is.
        found: u8,
        /// What was looked for.
        wanted: u8,
    },
    /// Written by a newer raftupd.
    #[error(
        "the record has version {found}, this raftupd reads up to {newest}: it was written by a newer one"
    )]
    FromTheFuture {
        /// Its version.
        found: u8,
        /// The newest that is known here.
        newest: u8,
    },
    /// A sound envelope around something else.
    #[error("the record cannot be decoded")]
    Body(#[source] bincode::Error),
}

/// Kinds of records; the number is the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Entry = 1,
    Vote = 2,
    LogId = 3,
    Snapshot = 4,
    Identity = 5,
    Life = 6,
}

/// The version of every kind that is written.
const NEWEST: u8 = 1;

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(BODY_MAX).reject_trailing_bytes()
}

fn seal<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    let mut bytes = vec![kind as u8, NEWEST, 0, 0, 0, 0, 0, 0, 0, 0];
    options().serialize_into(&mut bytes, value).expect("plain data of less than a gigabyte");
    let length = u32::try_from(bytes.len() - HEAD).expect("the encoder has a lower limit");
    bytes[2..6].copy_from_slice(&length.to_be_bytes());
    let sum = checksum(&bytes);
    bytes[6..HEAD].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..6]);
    hasher.update(&record[HEAD..]);
    hasher.finalize()
}

fn open<T: DeserializeOwned>(wanted: Kind, record: &[u8]) -> Result<T, FormatError> {
    if record.len() < HEAD {
        return Err(FormatError::Length);
    }
    let length = u32::from_be_bytes([record[2], record[3], record[4], record[5]]);
    if record.len() - HEAD != length as usize {
        return Err(FormatError::Length);
    }
    if checksum(record).to_be_bytes() != record[6..HEAD] {
        return Err(FormatError::Checksum);
    }
    if record[0] != wanted as u8 {
        return Err(FormatError::Kind { found: record[0], wanted: wanted as u8 });
    }
    match record[1] {
        1 => options().deserialize(&record[HEAD..]).map_err(FormatError::Body),
        found => Err(FormatError::FromTheFuture { found, newest: NEWEST }),
    }
}

#[derive(Serialize, Deserialize)]
struct LogIdV1 {
    term: u64,
    member: u64,
    index: u64,
}

#[derive(Serialize, Deserialize)]
struct VoteV1 {
    term: u64,
    member: u64,
    committed: bool,
}

#[derive(Serialize, Deserialize)]
struct EntryV1 {
    id: LogIdV1,
    payload: PayloadV1,
}

#[derive(Serialize, Deserialize)]
enum PayloadV1 {
    Blank,
    Change(ChangeSet),
    Members(MembersV1),
}

#[derive(Serialize, Deserialize)]
struct MembersV1 {
    configs: Vec<BTreeSet<u64>>,
    sites: BTreeMap<u64, Site>,
}

#[derive(Serialize, Deserialize)]
struct SnapshotV1 {
    last: Option<LogIdV1>,
    members_at: Option<LogIdV1>,
    members: MembersV1,
    cluster: Cluster,
}

/// Whose storage it is: one member of Raft, made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) member: u64,
    /// Drawn when the storage was made.
    pub(super) incarnation: u64,
    /// Counted up with each start.
    pub(super) starts: u64,
    /// The member was given up; its number is not used again.
    pub(super) left: bool,
}

/// One process that speaks for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Life {
    pub(super) member: u64,
    pub(super) incarnation: u64,
    pub(super) starts: u64,
    /// Drawn by the process.
    pub(super) process: u64,
}

impl From<&LogId> for LogIdV1 {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, member: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        LogId::new(LeaderId { term: id.term, node_id: id.member }, id.index)
    }
}

impl From<&Members> for MembersV1 {
    fn from(members: &Members) -> Self {
        Self {
            configs: members.get_joint_config().clone(),
            sites: members.nodes().map(|(id, site)| (*id, *site)).collect(),
        }
    }
}

impl From<MembersV1> for Members {
    fn from(members: MembersV1) -> Self {
        // What was valid when it was written is so when it is read; an empty one stands for none.
        Members::new(members.configs, members.sites).unwrap_or_default()
    }
}

/// The bytes of an entry.
pub(super) fn entry(entry: &Entry) -> Vec<u8> {
    let payload = match &entry.payload {
        Payload::Blank => PayloadV1::Blank,
        Payload::Normal(command) => PayloadV1::Change(ChangeSet::clone(&command.0)),
        Payload::Membership(members) => PayloadV1::Members(members.into()),
    };
    seal(Kind::Entry, &EntryV1 { id: (&entry.log_id).into(), payload })
}

/// The entry in `record`.
pub(super) fn read_entry(record: &[u8]) -> Result<Entry, FormatError> {
    let entry: EntryV1 = open(Kind::Entry, record)?;
    let payload = match entry.payload {
        PayloadV1::Blank => Payload::Blank,
        PayloadV1::Change(set) => Payload::Normal(Command(set.into())),
        PayloadV1::Members(members) => Payload::Membership(members.into()),
    };
    Ok(Entry { log_id: entry.id.into(), payload })
}

/// The bytes of a vote.
pub(super) fn vote(vote: &Vote) -> Vec<u8> {
    let leader = vote.leader_id;
    seal(Kind::Vote, &VoteV1 { term: leader.term, member: leader.node_id, committed: vote.committed })
}

/// The vote in `record`.
pub(super) fn read_vote(record: &[u8]) -> Result<Vote, FormatError> {
    let vote: VoteV1 = open(Kind::Vote, record)?;
    let leader_id = LeaderId { term: vote.term, node_id: vote.member };
    Ok(Vote { leader_id, committed: vote.committed })
}

/// The bytes of the place of an entry: the last that was committed, or purged.
pub(super) fn log_id(id: &LogId) -> Vec<u8> {
    seal(Kind::LogId, &LogIdV1::from(id))
}

/// The place in `record`.
pub(super) fn read_log_id(record: &[u8]) -> Result<LogId, FormatError> {
    open::<LogIdV1>(Kind::LogId, record).map(LogId::from)
}

/// The bytes of a snapshot.
pub(super) fn snapshot(meta: &SnapshotMeta, cluster: &Cluster) -> Vec<u8> {
    let snapshot = SnapshotV1 {
        last: meta.last_log_id.as_ref().map(LogIdV1::from),
        members_at: meta.last_membership.log_id().as_ref().map(LogIdV1::from),
        members: meta.last_membership.membership().into(),
        cluster: cluster.clone(),
    };
    seal(Kind::Snapshot, &snapshot)
}

/// The snapshot in `record`.
pub(super) fn read_snapshot(record: &[u8]) -> Result<(SnapshotMeta, Cluster), FormatError> {
    let snapshot: SnapshotV1 = open(Kind::Snapshot, record)?;
    let last_membership = StoredMembers::new(snapshot.members_at.map(LogId::from), snapshot.members.into());
    let meta = SnapshotMeta { last_log_id: snapshot.last.map(LogId::from), last_membership };
    Ok((meta, snapshot.cluster))
}

/// The bytes of an identity.
pub(super) fn identity(identity: &Identity) -> Vec<u8> {
    seal(Kind::Identity, identity)
}

/// The identity in `record`.
pub(super) fn read_identity(record: &[u8]) -> Result<Identity, FormatError> {
    open(Kind::Identity, record)
}

/// The bytes of what is known of a member's process.
pub(super) fn life(life: &Life) -> Vec<u8> {
    seal(Kind::Life, life)
}

/// What is known of a member's process, from `record`.
pub(super) fn read_life(record: &[u8]) -> Result<Life, FormatError> {
    open(Kind::Life, record)
}

/// Bytes of the entry that `set` becomes, its envelope aside. Cost: one pass over the set.
pub(super) fn size(set: &ChangeSet) -> u64 {
    options().serialized_size(set).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
