//! The first entry of the log: a cluster of one node.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use raftup_proto::{
    api::{Availability, FabricMode, Managers, NodeState},
    id::{ClusterId, NodeId},
    peer::{NodeInfo, Role},
    refusal::{Code, Refusal},
    unit::UnixMillis,
    view::SUBNET_PREFIX,
};

use crate::model::{ChangeSet, Cluster, ClusterInfo, Membership, Meta, Node, TokenHashes};

use super::{addresses, claims};

/// Ended tasks that are kept for each slot.
pub const TASK_HISTORY: u32 = 1;

/// What the first node brings.
#[derive(Clone, Debug)]
pub struct First {
    /// The cluster's id.
    pub id: ClusterId,
    /// All addresses come from here.
    pub pool: Ipv4Net,
    /// How many managers it keeps.
    pub managers: Managers,
    /// What nodes send each other packets of containers through.
    pub fabric: FabricMode,
    /// Certificate of its authority, DER.
    pub ca_certificate: Vec<u8>,
    /// Private key of its authority, sealed.
    pub ca_key_sealed: Vec<u8>,
    /// What is kept of the join tokens.
    pub tokens: TokenHashes,
    /// What the node says of itself.
    pub info: NodeInfo,
}

/// Its first node.
pub const FIRST_NODE: NodeId = NodeId::new(1);
/// That node's id in Raft.
pub const FIRST_MEMBER: u64 = 1;

/// Makes the cluster and its first node, a manager, new until its own session stands. Errors: the pool is too small, or the
/// number of managers is none that a cluster can have.
pub fn cluster(first: First, now: UnixMillis) -> Result<ChangeSet, Refusal> {
    if !addresses::pool_fits(first.pool) {
        let message = format!("the address pool {} is too small", first.pool);
        let hint = format!("give one of /{} or larger, such as 10.64.0.0/11", SUBNET_PREFIX - 1);
        return Err(Refusal::new(Code::Invalid, message).hint(hint));
    }
    if let Managers::Fixed(count) = first.managers
        && ![1, 3, 5].contains(&count)
    {
        return Err(Refusal::new(Code::Invalid, format!("a cluster cannot keep {count} managers"))
            .hint("1, 3 or 5, or `auto`"));
    }
    let fabric = addresses::fabric(&Cluster::default(), first.pool, FIRST_NODE)
        .map_err(|error| Refusal::new(Code::Invalid, error))?;
    let (info, unaccepted) = claims::admit(&Cluster::default(), first.pool, FIRST_NODE, &first.info)?;
    let mut set = ChangeSet::new(now);
    set.create(ClusterInfo {
        id: first.id,
        meta: Meta::default(),
        pool: first.pool,
        managers: first.managers,
        fabric: first.fabric,
        ca_certificate: first.ca_certificate,
        ca_key_sealed: first.ca_key_sealed,
        tokens: first.tokens,
        next_node: FIRST_NODE.number() + 1,
        next_member: FIRST_MEMBER + 1,
        level: super::level::NEWEST,
        task_history: TASK_HISTORY,
    });
    set.create(Node {
        id: FIRST_NODE,
        meta: Meta::default(),
        role: Role::Manager,
        pinned: None,
        membership: Some(Membership { member: FIRST_MEMBER }),
        availability: Availability::Active,
        labels: BTreeMap::new(),
        info,
        attempt: 0,
        state: NodeState::New,
        state_message: None,
        state_since: now,
        fabric_turn: 0,
        fabric,
        blocks: BTreeMap::new(),
        attached: BTreeMap::new(),
        unaccepted,
    });
    Ok(set)
}
