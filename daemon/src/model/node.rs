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
    /// What it says of itself and is not in force.
    #[serde(default)]
    pub unaccepted: Unaccepted,
}

/// What a node says of itself and is not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unaccepted {
    /// What it says its traits are, where some of that waits for an operator or for another node's name to be free.
    #[serde(default)]
    pub traits: Option<Traits>,
    /// Why other parts are refused, one line each.
    #[serde(default)]
    pub refused: Vec<String>,
}

/// What placement constraints compare of what a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traits {
    /// Its host name.
    pub hostname: String,
    /// Its operating system.
    pub os: String,
    /// Its architecture.
    pub arch: String,
    /// Labels of its engine, as `key=value`.
    pub engine_labels: Vec<String>,
}

impl Traits {
    /// Those of what a node says of itself.
    pub fn of(info: &NodeInfo) -> Self {
        Self {
            hostname: info.hostname.clone(),
            os: info.platform.os.clone(),
            arch: info.platform.arch.clone(),
            engine_labels: info.platform.engine_labels.clone(),
        }
    }
}

/// A node's place in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its id there; never used twice.
    pub member: u64,
}
