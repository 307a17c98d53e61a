//! Labels of what is made on an engine: the only truth about what runs on a node.
//!
//! Those of Swarm come along, so that tools that know its labels show our tasks.

use std::collections::{BTreeMap, HashMap};

use raftup_proto::{
    id::{ClusterId, NetworkId, NodeId, TaskId},
    view::{NetworkItem, TaskItem},
};

/// Whose it is; the one label by which our objects are told from others.
pub const CLUSTER: &str = "dev.raftup.cluster";
/// The task of a container.
pub const TASK: &str = "dev.raftup.task";
/// The id of the cluster's network that an engine network is.
pub const NETWORK: &str = "dev.raftup.network";

/// The name of a container's task, which is the container's unless the user chose another.
pub const TASK_NAME: &str = "com.docker.swarm.task.name";

const SERVICE: &str = "dev.raftup.service";
const STACK: &str = "dev.raftup.stack";
const SLOT: &str = "dev.raftup.slot";
const STACK_NAMESPACE: &str = "com.docker.stack.namespace";

/// Labels of a task's container: what the user asked for, and ours, which win.
pub fn of_container(cluster: ClusterId, node: NodeId, task: &TaskItem) -> BTreeMap<String, String> {
    let full_name = format!("{}_{}", task.stack, task.name);
    let ours = [
        (CLUSTER, cluster.to_string()),
        (TASK, task.task.to_string()),
        (SERVICE, full_name.clone()),
        (STACK, task.stack.to_string()),
        (SLOT, task.slot.to_string()),
        (STACK_NAMESPACE, task.stack.to_string()),
        ("com.docker.swarm.service.id", task.service.to_string()),
        ("com.docker.swarm.service.name", full_name),
        ("com.docker.swarm.task", String::new()),
        ("com.docker.swarm.task.id", task.task.to_string()),
        (TASK_NAME, task.container_name()),
        ("com.docker.swarm.node.id", node.to_string()),
    ];
    let mut labels = task.container.labels.clone();
    labels.extend(ours.map(|(key, value)| (key.to_owned(), value)));
    labels
}

/// Labels of a network.
pub fn of_network(cluster: ClusterId, network: &NetworkItem) -> BTreeMap<String, String> {
    let ours = [(CLUSTER, cluster.to_string()), (NETWORK, network.network.to_string())];
    let of_stack =
        network.stack.iter().flat_map(|stack| [STACK, STACK_NAMESPACE].map(|key| (key, stack.to_string())));
    ours.into_iter().chain(of_stack).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Labels of a stack's volume.
pub fn of_volume(cluster: ClusterId, task: &TaskItem) -> BTreeMap<String, String> {
    [
        (CLUSTER, cluster.to_string()),
        (STACK, task.stack.to_string()),
        (STACK_NAMESPACE, task.stack.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The task that a container's labels name.
pub fn task(labels: &HashMap<String, String>) -> Option<TaskId> {
    labels.get(TASK)?.parse().ok()
}

/// The network that a network's labels name, and its cluster.
pub fn network(labels: &HashMap<String, String>) -> Option<(ClusterId, NetworkId)> {
    Some((labels.get(CLUSTER)?.parse().ok()?, labels.get(NETWORK)?.parse().ok()?))
}
