//! Nodes: admitted, heard of, gone quiet, changed by operators, removed; and what they report of their tasks.
//!
//! ```text
//! admit -> New -> (session) Ready <-> Down (session and gossip quiet) -> removed
//! ```
//!
//! Owns: the life of a node object. Leaves alone: its place in Raft (`quorum`), which tasks run there.
//! Holds: an id is never used twice; a node reports for its own tasks only; states of a task move forwards only.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use raftup_proto::{
    api::{Availability, FabricMode, NodeState, NodeUpdate},
    id::{NodeId, TaskId},
    peer::{JoinRequest, NodeInfo, Role, TaskState, TaskStatus},
    refusal::{Code, Refusal},
    unit::UnixMillis,
};

use crate::model::{ChangeSet, Cluster, ClusterInfo, Meta, Node, Task};

use super::{addresses, claims, level};

/// Most nodes of a cluster. Gossip tells of all of them in one message (`gossip`).
pub const MAX_NODES: usize = 1000;

/// Admits a node, and says under which id. A repeated attempt of the same node gets the same id and changes nothing.
/// The token must have been checked. Errors: the pool has no address left, or what the node says of itself is refused.
pub fn admit(
    cluster: &Cluster,
    request: &JoinRequest,
    now: UnixMillis,
) -> Result<(ChangeSet, NodeId), Refusal> {
    let same = |node: &&Arc<Node>| {
        node.attempt == request.attempt
            && node.role == request.role
            && claims::is_name_of(&node.info.hostname, &request.info.hostname, node.id)
    };
    let mut set = ChangeSet::new(now);
    if let Some(node) = cluster.nodes.values().find(same) {
        return Ok((set, node.id));
    }
    level::admit(cluster, &request.info)?;
    let info = cluster.info.as_ref().ok_or_else(Refusal::no_cluster)?;
    let plain = cluster.networks.values().any(|network| network.spec.encrypted == Some(false));
    check_underlay(info.fabric, plain, request.info.underlay)?;
    if cluster.nodes.len() >= MAX_NODES {
        let what = format!("the cluster has {MAX_NODES} nodes, and can have no more");
        return Err(Refusal::new(Code::Conflict, what).hint("`raftup node rm` nodes that are gone"));
    }
    let id = NodeId::new(info.next_node);
    let exhausted = |error| Refusal::new(Code::Conflict, error).hint("`raftup node rm` nodes that are gone");
    let fabric = addresses::fabric(cluster, info.pool, id).map_err(exhausted)?;
    let (claimed, unaccepted) = claims::admit(cluster, info.pool, id, &request.info)?;
    set.update(ClusterInfo { next_node: info.next_node + 1, ..ClusterInfo::clone(info) });
    set.create(Node {
        id,
        meta: Meta::default(),
        role: request.role,
        pinned: None,
        membership: None,
        availability: Availability::Active,
        labels: BTreeMap::new(),
        info: claimed,
        attempt: request.attempt,
        state: NodeState::New,
        state_message: None,
        state_since: now,
        fabric_turn: 0,
        fabric,
        blocks: BTreeMap::new(),
        attached: addresses::attached(cluster),
        unaccepted,
    });
    Ok((set, id))
}

/// What is not encrypted between nodes goes over IPv4 alone: the rules that keep strangers out of it are of IPv4. Errors:
/// the node is at an address of IPv6, and the fabric is plain or has a plain network (`plain`).
pub fn check_underlay(fabric: FabricMode, plain: bool, underlay: IpAddr) -> Result<(), Refusal> {
    let what = match fabric {
        FabricMode::Plain => "a plain fabric",
        FabricMode::Wireguard if plain => "a network with `encrypted: \"false\"`",
        FabricMode::Wireguard => return Ok(()),
    };
    if underlay.is_ipv4() {
        return Ok(());
    }
    let message = format!("{what} takes IPv4 between nodes, and this one would be at {underlay}");
    Err(Refusal::new(Code::Conflict, message)
        .hint("`--advertise` an address of IPv4; the encrypted fabric takes both kinds"))
}

/// The node's session stands: it is ready, and this is what it says of itself, if it may change that now. Errors: it was
/// removed.
pub fn heard(
    cluster: &Cluster,
    id: NodeId,
    info: Option<&NodeInfo>,
    now: UnixMillis,
) -> Result<ChangeSet, Refusal> {
    let old = cluster.nodes.get(&id).ok_or_else(|| was_removed(id))?;
    level::admit(cluster, info.unwrap_or(&old.info))?;
    let mut node = Node::clone(old);
    if let Some(info) = info {
        (node.info, node.unaccepted) = claims::update(cluster, old, info);
    }
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
    if update.accept_claims {
        node.info = claims::accept(cluster, old)?;
        node.unaccepted.traits = None;
    }
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

/// Whether operators want the node to be a manager, or leave that to the cluster; nothing if the node is gone.
pub fn pin(cluster: &Cluster, id: NodeId, pinned: Option<bool>, now: UnixMillis) -> ChangeSet {
    let mut set = ChangeSet::new(now);
    if let Some(old) = cluster.nodes.get(&id).filter(|node| node.pinned != pinned) {
        set.update(Node { pinned, ..Node::clone(old) });
    }
    set
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

/// What nodes report of their tasks. No node displaces the report of another.
pub type Reports = BTreeMap<(NodeId, TaskId), TaskStatus>;

/// The status to be noted if a node reports `status` of a task: cut and cleaned for terminals. None: the task is gone or
/// another node's, it would move backwards, or the report says nothing new.
pub fn news(cluster: &Cluster, node: NodeId, task: TaskId, status: &TaskStatus) -> Option<TaskStatus> {
    let task = cluster.tasks.get(&task)?;
    let old = &task.status;
    let forwards = status.state >= old.state && !old.state.is_over();
    if task.node != Some(node) || !forwards {
        return None;
    }
    let clean = |text: &Option<String>| text.as_ref().map(|text| claims::clean(text, claims::MESSAGE_MAX));
    let new = TaskStatus {
        since: if status.state == old.state { old.since } else { status.since },
        message: clean(&status.message),
        container: clean(&status.container),
        ..*status
    };
    (new != *old).then_some(new)
}

/// Puts reports into the state; those that are no [`news`] are passed over.
pub fn reports(cluster: &Cluster, reports: &Reports, now: UnixMillis) -> ChangeSet {
    let mut set = ChangeSet::new(now);
    for ((node, id), status) in reports {
        let Some(task) = cluster.tasks.get(id) else { continue };
        if let Some(mut status) = news(cluster, *node, *id, status) {
            // By the cluster's clock: a node's own is a claim like others.
            if status.state != task.status.state {
                status.since = now;
            }
            let runs = (status.state == TaskState::Running).then_some(now);
            let ready = task.ready.or(runs);
            set.update(Task { status, ready, ..Task::clone(task) });
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
