//! Records on disk: an envelope with a version and a checksum around each, and the one place that names their encoder.
//!
//! ```text
//! kind (1 byte)  version (1)  length of the body (4, big-endian)  CRC-32 of all the rest (4)  body
//! ```
//!
//! Envelopes and bodies are bincode, by position. From version 2 on, the objects inside of entries and snapshots are
//! MessagePack with named fields: a field that a release adds has a default, so older bytes are read without a new version,
//! and a release that does not know the field passes over it. Nothing that an older release would lose is written
//! before every node understands it (`plan::level`).
//!
//! Owns: the bytes of log entries, votes, snapshots and identities. Leaves alone: where they are kept.
//! Holds: only the newest version is written; each older one is read for ever, from bytes that a test keeps. Fields of
//! `model` types are added with `#[serde(default)]`, and never removed or renamed.

use std::collections::{BTreeMap, BTreeSet};

use bincode::Options;
use raftup_proto::id::NodeId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::types::{
    Command, Entry, LeaderId, LogId, Members, Payload, Site, SnapshotMeta, StoredMembers, Vote,
};
use crate::model::{ChangeSet, Cluster};

mod v1;

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
    /// A sound body around objects that this version cannot read.
    #[error("the objects in the record cannot be decoded")]
    Objects(#[source] rmp_serde::decode::Error),
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

impl Kind {
    /// The version that is written.
    fn newest(self) -> u8 {
        match self {
            Self::Entry | Self::Snapshot => 2,
            Self::Vote | Self::LogId | Self::Identity | Self::Life => 1,
        }
    }
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(BODY_MAX).reject_trailing_bytes()
}

fn seal<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    let mut bytes = vec![kind as u8, kind.newest(), 0, 0, 0, 0, 0, 0, 0, 0];
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

/// The version and the body of a sound record.
fn unseal(wanted: Kind, record: &[u8]) -> Result<(u8, &[u8]), FormatError> {
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
        version if (1..=wanted.newest()).contains(&version) => Ok((version, &record[HEAD..])),
        found => Err(FormatError::FromTheFuture { found, newest: wanted.newest() }),
    }
}

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormatError> {
    options().deserialize(bytes).map_err(FormatError::Body)
}

/// The value in a record of a kind that has one version.
fn open<T: DeserializeOwned>(wanted: Kind, record: &[u8]) -> Result<T, FormatError> {
    unseal(wanted, record).and_then(|(_, bytes)| body(bytes))
}

/// Objects inside of a body.
#[derive(Serialize, Deserialize)]
struct Objects(#[serde(with = "serde_bytes")] Vec<u8>);

impl Objects {
    fn of<T: Serialize>(value: &T) -> Self {
        Self(rmp_serde::to_vec_named(value).expect("plain data with keys that are text or numbers"))
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, FormatError> {
        rmp_serde::from_slice(&self.0).map_err(FormatError::Objects)
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

/// An entry; `C` is how its change set is written.
#[derive(Serialize, Deserialize)]
struct EntryV<C> {
    id: LogIdV1,
    payload: PayloadV<C>,
}

#[derive(Serialize, Deserialize)]
enum PayloadV<C> {
    Blank,
    Change(C),
    Members(MembersV1),
}

#[derive(Serialize, Deserialize)]
struct MembersV1 {
    configs: Vec<BTreeSet<u64>>,
    sites: BTreeMap<u64, Site>,
}

/// A snapshot; `C` is how the state is written.
#[derive(Serialize, Deserialize)]
struct SnapshotV<C> {
    last: Option<LogIdV1>,
    members_at: Option<LogIdV1>,
    members: MembersV1,
    cluster: C,
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
        Payload::Blank => PayloadV::Blank,
        Payload::Normal(command) => PayloadV::Change(Objects::of(&*command.0)),
        Payload::Membership(members) => PayloadV::Members(members.into()),
    };
    seal(Kind::Entry, &EntryV { id: (&entry.log_id).into(), payload })
}

/// The entry in `record`.
pub(super) fn read_entry(record: &[u8]) -> Result<Entry, FormatError> {
    let (version, bytes) = unseal(Kind::Entry, record)?;
    let entry: EntryV<Objects> = match version {
        1 => {
            let EntryV { id, payload } = body(bytes)?;
            let payload = match payload {
                PayloadV::Blank => PayloadV::Blank,
                PayloadV::Change::<v1::ChangeSet>(set) => PayloadV::Change(Objects::of(&set)),
                PayloadV::Members(members) => PayloadV::Members(members),
            };
            EntryV { id, payload }
        }
        _ => body(bytes)?,
    };
    let payload = match entry.payload {
        PayloadV::Blank => Payload::Blank,
        PayloadV::Change(set) => Payload::Normal(Command(set.read::<ChangeSet>()?.into())),
        PayloadV::Members(members) => Payload::Membership(members.into()),
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
    let snapshot = SnapshotV {
        last: meta.last_log_id.as_ref().map(LogIdV1::from),
        members_at: meta.last_membership.log_id().as_ref().map(LogIdV1::from),
        members: meta.last_membership.membership().into(),
        cluster: Objects::of(cluster),
    };
    seal(Kind::Snapshot, &snapshot)
}

/// The snapshot in `record`.
pub(super) fn read_snapshot(record: &[u8]) -> Result<(SnapshotMeta, Cluster), FormatError> {
    let (version, bytes) = unseal(Kind::Snapshot, record)?;
    let snapshot: SnapshotV<Objects> = match version {
        1 => {
            let SnapshotV { last, members_at, members, cluster } = body(bytes)?;
            let cluster: v1::Cluster = cluster;
            SnapshotV { last, members_at, members, cluster: Objects::of(&cluster) }
        }
        _ => body(bytes)?,
    };
    let last_membership = StoredMembers::new(snapshot.members_at.map(LogId::from), snapshot.members.into());
    let meta = SnapshotMeta { last_log_id: snapshot.last.map(LogId::from), last_membership };
    Ok((meta, snapshot.cluster.read()?))
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

/// Bytes of the entry that `set` becomes, its envelope aside. Cost: the set is encoded.
pub(super) fn size(set: &ChangeSet) -> u64 {
    let mut counted = Counted(0);
    let written = set.serialize(&mut rmp_serde::Serializer::new(&mut counted).with_struct_map());
    written.map_or(u64::MAX, |()| counted.0)
}

/// Counts what is written.
struct Counted(u64);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
