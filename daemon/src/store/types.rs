//! The types that Raft is used with.

use std::{fmt, net::SocketAddr, sync::Arc};

use openraft::alias;
use raftup_proto::{id::NodeId, view::Revision};
use serde::{Deserialize, Serialize};

use super::apply::Rejected;
use crate::{compute, model::ChangeSet};

openraft::declare_raft_types!(
    /// A member is a number, an entry is a change set.
    pub TypeConfig: D = Command, R = Outcome, NodeId = u64, Node = Site
);

pub(super) type LogId = alias::LogIdOf<TypeConfig>;
pub(super) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(super) type Vote = alias::VoteOf<TypeConfig>;
pub(super) type Entry = alias::EntryOf<TypeConfig>;
pub(super) type StoredMembers = alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(super) type Snapshot = alias::SnapshotOf<TypeConfig, Arc<[u8]>>;
pub(super) type Payload = openraft::EntryPayload<Command, u64, Site>;
pub(super) type Members = openraft::Membership<u64, Site>;

/// What an entry of the log asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command(pub(super) Arc<ChangeSet>);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changes", self.0.changes.len())
    }
}

/// Changes in entries that are encoded or applied at once on the runtime's thread; for more, another thread takes over.
const SMALL: usize = 100;

/// Runs `work` on `entries`, without holding up other tasks where it may take long.
pub(super) fn with_entries<'a, T>(
    entries: impl IntoIterator<Item = &'a Entry>,
    work: impl FnOnce() -> T,
) -> T {
    let changes = |entry: &Entry| match &entry.payload {
        Payload::Normal(command) => command.0.changes.len(),
        Payload::Blank | Payload::Membership(_) => 0,
    };
    let changes: usize = entries.into_iter().map(changes).sum();
    if changes > SMALL { compute::in_place(work) } else { work() }
}

/// What became of it.
pub(super) type Outcome = Result<Revision, Rejected>;

/// Where a member of Raft is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its node.
    pub node: NodeId,
    /// The node's control address.
    pub addr: SocketAddr,
}

// The log's test suite of openraft makes members out of nothing.
impl Default for Site {
    fn default() -> Self {
        Self { node: NodeId::new(0), addr: SocketAddr::from(([0, 0, 0, 0], 0)) }
    }
}
