//! A task.

use std::net::Ipv4Addr;

use raftup_proto::{
    id::{NetworkId, NodeId, ServiceId, TaskId},
    peer::{TaskState, TaskStatus},
    unit::UnixMillis,
};
use serde::{Deserialize, Serialize};

use super::Meta;

/// One attempt to run a container in one slot of a service. It has at most one node for all its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// See [`Meta`].
    pub meta: Meta,
    /// Its service.
    pub service: ServiceId,
    /// The version of the service's spec that it was made from.
    pub version: u64,
    /// The slot that it fills.
    pub slot: Slot,
    /// The node that runs it, once one was found.
    pub node: Option<NodeId>,
    /// Its address on each of its networks, in the service's order; given together with the node.
    pub networks: Vec<(NetworkId, Ipv4Addr)>,
    /// What the controllers want of it.
    pub desired: Desired,
    /// What became of it.
    pub status: TaskStatus,
    /// It is not started before; the restart policy's delay.
    pub not_before: Option<UnixMillis>,
    /// The task of its slot that goes once this one serves; none where that one had to go first.
    pub replaces: Option<TaskId>,
    /// When it was first heard to run, by the leader's clock.
    pub ready: Option<UnixMillis>,
    /// Restarts of this slot that came before it within the policy's window, because a task ended by itself.
    pub restarts: u32,
    /// A task of its slot that served was stopped for it, and none has served since: an update waits for it even if no
    /// node has a place.
    #[serde(default)]
    pub awaited: bool,
}

/// The place of a task in its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// Of a replicated service, counted from 1.
    Replica(u32),
    /// Of a global service: its node.
    Node(NodeId),
}

impl Slot {
    /// The number that names show.
    pub fn number(self) -> u64 {
        match self {
            Self::Replica(slot) => u64::from(slot),
            Self::Node(node) => node.number(),
        }
    }
}

/// What the controllers want of a task. Moves forwards only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Desired {
    /// Run.
    Run,
    /// Take no new connections; it stops once all nodes have that in force.
    Drain,
    /// Stop; kept as history.
    Stop,
    /// Stop, and be forgotten with its container.
    Remove,
}

impl Task {
    /// It counts as one of the service's tasks: it should run, and has not ended.
    pub fn is_live(&self) -> bool {
        self.desired == Desired::Run && !self.status.state.is_over()
    }

    /// It may hold a container, an address or a port on its node: placed, and not seen to have ended.
    pub fn holds_node(&self) -> bool {
        self.node.is_some() && !self.status.state.is_over()
    }

    /// New connections may go there.
    pub fn is_ready(&self) -> bool {
        self.desired == Desired::Run && self.status.state == TaskState::Running
    }
}
