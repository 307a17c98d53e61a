//! A node.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use raftup_proto::{
    api::{Availability, NodeState},
    id::{NetworkId, NodeId},
    peer::{NodeInfo, Role},
    unit::UnixMillis,
};
use serde::{Deserialize, Serialize};

use super::Meta;

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// See [`Meta`].
    pub meta: Meta,
    /// What it may be; also in its certificate.
    pub role: Role,
    /// Whether an operator chose that it is a manager (true) or is not (false).
    pub pinned: Option<bool>,
    /// Its place in Raft, if it has one or is about to.
    pub membership: Option<Membership>,
    /// What an operator allows.
    pub availability: Availability,
    /// Labels given by operators.
    pub labels: BTreeMap<String, String>,
    /// What it says of itself.
    pub info: NodeInfo,
    /// Drawn at random for its admission; a repeated attempt of the same node is known by it.
    pub attempt: u64,
    /// Whether it can run tasks.
    pub state: NodeState,
    /// Why it is in that state.
    pub state_message: Option<String>,
    /// Since when.
    pub state_since: UnixMillis,
    /// How often an operator has asked for a new key of its encrypted links.
    pub fabric_turn: u64,
    /// Its own address on the fabric.
    pub fabric: Ipv4Addr,
    /// The addresses of tasks that it is home to, by network.
    pub blocks: BTreeMap<NetworkId, Vec<Ipv4Net>>,
    /// The addresses that its engine gives to containers that are not the cluster's, by attachable network.
    pub attached: BTreeMap<NetworkId, Ipv4Net>,
}

/// A node's place in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its id there; never used twice.
    pub member: u64,
}
