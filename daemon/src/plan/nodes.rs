//! Nodes: admitted, heard of, gone quiet, changed by operators, removed; and what they report of their tasks.
//!
//! ```text
//! admit -> New -> (session) Ready <-> Down (session and gossip quiet) -> removed
//! ```
//!
//! Owns: the life of a node object. Leaves alone: its place in Raft (`quorum`), which tasks run there.
//! Holds: an id is never used twice; a node reports for its own tasks only; states of a task move forwards only.

use std::{collections::BTreeMap, sync::Arc};

use raftup_proto::{
    api::{Availability, NodeState, NodeUpdate},
    id::{NodeId, TaskId},
    peer::{JoinRequest, NodeInfo, Role, TaskState, TaskStatus},
    refusal::{Code, Refusal},
    unit::UnixMillis,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::model::{ChangeSet, Cluster, ClusterInfo, Meta, Node, Task};

use super::{addresses, level};

/// Checks the secret of a request to join, in the same time whatever it is. Errors: it is not the role's secret.
pub fn check_token(info: &ClusterInfo, request: &JoinRequest) -> Result<(), Refusal> {
    let wanted = match request.role {
        Role::Manager => &info.tokens.manager,
        Role::Worker => &info.tokens.worker,
    };
    let given: [u8; 32] = Sha256::digest(request.secret).into();
    if bool::from(given.ct_eq(wanted)) {
        return Ok(());
    }
    Err(Refusal::new(Code::Forbidden, "the token is not valid: it was rotated since it was made")
        .hint("ask a manager for the newest with `raftup token`"))
}

/// Admits a node, and says under which id. A repeated attempt of the same node gets the same id and changes nothing.
/// The token must have been checked. Errors: the pool has no address left.
pub fn admit(
    cluster: &Cluster,
    request: &JoinRequest,
    now: UnixMillis,
) -> Result<(ChangeSet, NodeId), Refusal> {
    let same = |node: &&Arc<Node>| {
        node.attempt == request.attempt
            && node.info.hostname == request.info.hostname
            && node.role == request.role
    };
    let mut set = ChangeSet::new(now);
    if let Some(node) = cluster.nodes.values().find(same) {
        return Ok((set, node.id));
    }
    level::admit(cluster, &request.info)?;
    let info = cluster.info.as_ref().ok_or_else(Refusal::no_cluster)?;
    let id = NodeId::new(info.next_node);
    let exhausted = |error| Refusal::new(Code::Conflict, error).hint("`raftup node rm` nodes that are gone");
    let fabric = addresses::fabric(cluster, info.pool, id).map_err(exhausted)?;
    set.update(ClusterInfo { next_node: info.next_node + 1, ..ClusterInfo::clone(info) });
    set.create(Node {
        id,
        meta: Meta::default(),
        role: request.role,
        pinned: None,
        membership: None,
        availability: Availability::Active,
        labels: BTreeMap::new(),
        info: request.info.clone(),
        attempt: request.attempt,
        state: NodeState::New,
        state_message: None,
        state_since: now,
        fabric_turn: 0,
        fabric,
        blocks: BTreeMap::new(),
        attached: addresses::attached(cluster),
    });
    Ok((set, id))
}

/// The node's session stands: it is ready, and this is what it says of itself. Errors: it was removed.
pub fn heard(cluster: &Cluster, id: NodeId, info: &NodeInfo, now: UnixMillis) -> Result<ChangeSet, Refusal> {
    let old = cluster.nodes.get(&id).ok_or_else(|| was_removed(id))?;
    level::admit(cluster, info)?;
    let mut node = Node::clone(old);
    node.info = info.clone();
    if node.state != NodeState::Ready {
        node.state = NodeState::Ready;
        node.state_message = None;
        node.state_since = now;
    }
    let mut set = ChangeSet::new(now);
    if node != **old {
        set.update(node);
        level::follow(cluster, &mut set);
    }
    Ok(set)
}

/// The node is down for `reason`; nothing if it is not ready any more.
pub fn down(cluster: &Cluster, id: NodeId, reason: &str, now: UnixMillis) -> ChangeSet {
    let mut set = ChangeSet::new(now);
    if let Some(old) = cluster.nodes.get(&id).filter(|node| node.state == NodeState::Ready) {
        let mut node = Node::clone(old);
        node.state = NodeState::Down;
        node.state_message = Some(reason.to_owned());
        node.state_since = now;
        set.update(node);
        level::follow(cluster, &mut set);
    }
    set
}

/// What a node that was removed is told.
pub fn was_removed(id: NodeId) -> Refusal {
    Refusal::new(Code::Forbidden, format!("node {id} was removed from the cluster"))
        .hint("`raftup leave --force` on it, then join again")
}

/// What an operator wants of a node. Errors: no such node, or a worker is to be promoted.
pub fn update(
    cluster: &Cluster,
    id: NodeId,
    update: &NodeUpdate,
    now: UnixMillis,
) -> Result<ChangeSet, Refusal> {
    let old = there(cluster, id)?;
    let mut node = Node::clone(old);
    node.availability = update.availability.unwrap_or(node.availability);
    for key in &update.label_rm {
        if node.labels.remove(key).is_none() {
            return Err(Refusal::new(Code::NotFound, format!("node {id} has no label `{key}`")));
        }
    }
    node.labels.extend(update.label_add.clone());
    node.fabric_turn += u64::from(update.rotate_fabric_key);
    match (update.manager, node.role) {
        (Some(true), Role::Worker) => {
            return Err(Refusal::new(
                Code::Conflict,
                format!("node {id} joined as a worker and cannot be a manager"),
            )
            .hint("remove it, and join it again with the token of `raftup token`"));
        }
        (Some(manager), Role::Manager | Role::Worker) => node.pinned = Some(manager),
        (None, Role::Manager | Role::Worker) => {}
    }
    let mut set = ChangeSet::new(now);
    if node != **old {
        set.update(node);
    }
    Ok(set)
}

/// Removes a node for good; its tasks run elsewhere. Errors: no such node, or it is neither down nor drained and empty
/// and `force` is not set.
pub fn remove(cluster: &Cluster, id: NodeId, force: bool, now: UnixMillis) -> Result<ChangeSet, Refusal> {
    let node = there(cluster, id)?;
    let tasks = cluster.tasks_on(id).filter(|task| task.holds_node()).count();
    if node.state != NodeState::Down && !force {
        let name = format!("node {id} ({})", node.info.hostname);
        if node.availability != Availability::Drain {
            return Err(Refusal::new(Code::Conflict, format!("{name} is not down")).hint(format!(
                "`raftup node update --availability drain {id}` moves its tasks first; or `raftup leave` on it, or \
                 remove it with --force"
            )));
        }
        if tasks > 0 {
            let tasks = if tasks == 1 { "a task".to_owned() } else { format!("{tasks} tasks") };
            return Err(Refusal::new(Code::Conflict, format!("{name} still runs {tasks}")).hint(format!(
                "`raftup node update --availability drain {id}` waits until they are elsewhere; --force does not"
            )));
        }
    }
    Ok(forget(cluster, node, "its node was removed", now))
}

/// The node leaves by itself. Errors: no such node.
pub fn leave(cluster: &Cluster, id: NodeId, now: UnixMillis) -> Result<ChangeSet, Refusal> {
    Ok(forget(cluster, there(cluster, id)?, "its node left the cluster", now))
}

/// What nodes report of their tasks. Reports of tasks that are not theirs or are gone, and those that would move a task
/// backwards, are passed over.
pub fn reports(
    cluster: &Cluster,
    reports: &BTreeMap<TaskId, (NodeId, TaskStatus)>,
    now: UnixMillis,
) -> ChangeSet {
    let mut set = ChangeSet::new(now);
    for (id, (node, status)) in reports {
        let Some(task) = cluster.tasks.get(id) else { continue };
        let forwards = status.state >= task.status.state && !task.status.state.is_over();
        if task.node == Some(*node) && forwards && *status != task.status {
            let runs = (status.state == TaskState::Running).then_some(now);
            let ready = task.ready.or(runs);
            set.update(Task { status: status.clone(), ready, ..Task::clone(task) });
        }
    }
    set
}

fn forget(cluster: &Cluster, node: &Node, why: &str, now: UnixMillis) -> ChangeSet {
    let mut set = ChangeSet::new(now);
    for task in cluster.tasks_on(node.id).filter(|task| !task.status.state.is_over()) {
        let mut task = Task::clone(task);
        task.status.state = TaskState::Orphaned;
        task.status.since = now;
        task.status.message = Some(why.to_owned());
        set.update(task);
    }
    set.delete(crate::model::ObjectKey::Node(node.id), node.meta);
    level::follow(cluster, &mut set);
    set
}

fn there(cluster: &Cluster, id: NodeId) -> Result<&Arc<Node>, Refusal> {
    cluster.nodes.get(&id).ok_or_else(|| Refusal::new(Code::NotFound, format!("no node {id}")))
}
