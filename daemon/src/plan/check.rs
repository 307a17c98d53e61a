//! What holds in every state that plans lead to.
//!
//! Owns: the list of invariants, for property tests and the simulator. Leaves alone: mending anything.

use std::collections::{BTreeMap, BTreeSet};

use raftup_proto::{
    id::{NodeId, ServiceId, TaskId},
    spec::PortSpec,
};

use crate::model::{Cluster, Desired, Slot, Task};

/// What is wrong with `cluster`, one line each; empty if nothing is.
pub fn state(cluster: &Cluster) -> Vec<String> {
    let mut wrong = Vec::new();
    slots(cluster, &mut wrong);
    addresses(cluster, &mut wrong);
    blocks(cluster, &mut wrong);
    nodes(cluster, &mut wrong);
    services(cluster, &mut wrong);
    host_ports(cluster, &mut wrong);
    wrong
}

/// What is wrong with the way from `before` to `after`.
pub fn step(before: &Cluster, after: &Cluster) -> Vec<String> {
    let mut wrong = Vec::new();
    for old in before.tasks.values() {
        let Some(new) = after.tasks.get(&old.id) else { continue };
        if old.node.is_some() && (old.node != new.node || old.networks != new.networks) {
            wrong.push(format!("task {} moved or changed its addresses", old.id));
        }
        if new.status.state < old.status.state || new.desired < old.desired {
            wrong.push(format!("task {} went backwards", old.id));
        }
        if (old.service, old.slot, old.version) != (new.service, new.slot, new.version) {
            wrong.push(format!("task {} became another", old.id));
        }
    }
    let next = |cluster: &Cluster| cluster.info.as_ref().map_or(0, |info| info.next_node);
    for id in after.nodes.keys().filter(|id| !before.nodes.contains_key(*id)) {
        if before.info.is_some() && id.number() < next(before) {
            wrong.push(format!("node id {id} was used before"));
        }
    }
    wrong
}

fn slots(cluster: &Cluster, wrong: &mut Vec<String>) {
    let mut wanted: BTreeMap<_, u32> = BTreeMap::new();
    let mut successors = BTreeSet::new();
    for task in cluster.tasks.values() {
        if task.desired == Desired::Run && task.replaces.is_none() {
            *wanted.entry((task.service, task.slot)).or_default() += 1;
        }
        let replaced = task.replaces.filter(|_| task.desired == Desired::Run);
        let sound = |old: &Task| {
            (old.service, old.slot, old.desired) == (task.service, task.slot, Desired::Run)
                && old.replaces.is_none()
        };
        if let Some(old) = replaced
            && (!cluster.tasks.get(&old).is_some_and(|old| sound(old)) || !successors.insert(old))
        {
            wrong.push(format!("task {} replaces {old}, which is not there or has another", task.id));
        }
        if !cluster.services.contains_key(&task.service) {
            wrong.push(format!("task {} has no service", task.id));
        }
        if let (Slot::Node(slot), Some(node)) = (task.slot, task.node)
            && slot != node
        {
            wrong.push(format!("task {} of slot {slot} runs on {node}", task.id));
        }
    }
    let double = wanted.iter().filter(|(_, count)| **count > 1);
    wrong.extend(double.map(|((service, slot), n)| format!("{n} tasks should run in {slot:?} of {service}")));
}

fn addresses(cluster: &Cluster, wrong: &mut Vec<String>) {
    let mut taken = BTreeMap::new();
    for task in cluster.tasks.values().filter(|task| task.holds_node()) {
        for (network, address) in &task.networks {
            if let Some(other) = taken.insert((*network, *address), task.id) {
                wrong.push(format!("{address} belongs to {other} and {}", task.id));
            }
            if !at_home(cluster, task, *network, *address) {
                wrong.push(format!("{address} of {} is in no block of its node", task.id));
            }
        }
    }
    for service in cluster.services.values() {
        for (network, vip) in &service.vips {
            if taken.insert((*network, *vip), raftup_proto::id::TaskId::MIN).is_some() {
                wrong.push(format!("VIP {vip} of {} is taken", service.full_name()));
            }
        }
    }
}

fn at_home(
    cluster: &Cluster,
    task: &Task,
    network: raftup_proto::id::NetworkId,
    address: std::net::Ipv4Addr,
) -> bool {
    // A network that is gone has taken its blocks along.
    let Some(node) = task.node.and_then(|id| cluster.nodes.get(&id)) else { return true };
    let blocks = node.blocks.get(&network);
    !cluster.networks.contains_key(&network)
        || blocks.is_some_and(|all| all.iter().any(|b| b.contains(&address)))
}

fn blocks(cluster: &Cluster, wrong: &mut Vec<String>) {
    let mut taken = BTreeMap::new();
    for node in cluster.nodes.values() {
        let attached = node.attached.iter().map(|(network, block)| (network, std::slice::from_ref(block)));
        let of_tasks = node.blocks.iter().map(|(network, blocks)| (network, blocks.as_slice()));
        for (network, blocks) in of_tasks.chain(attached) {
            let subnet = cluster.networks.get(network).map(|network| network.subnet);
            for block in blocks {
                if let Some(other) = taken.insert(*block, node.id) {
                    wrong.push(format!("block {block} belongs to {other} and {}", node.id));
                }
                if subnet.is_none_or(|subnet| !subnet.contains(block)) {
                    wrong.push(format!("block {block} of {} is of no network", node.id));
                }
            }
        }
    }
    let mut subnets = BTreeMap::new();
    for network in cluster.networks.values() {
        for block in &network.returning {
            if let Some(node) = taken.get(block) {
                wrong.push(format!("block {block} belongs to {node}, but is on its way back"));
            }
            if !network.subnet.contains(block) {
                wrong.push(format!("block {block} is not of network {}", network.id));
            }
        }
        if let Some(other) = subnets.insert(network.subnet, network.id) {
            wrong.push(format!("subnet {} belongs to {other} and {}", network.subnet, network.id));
        }
    }
}

/// What the fabric tells nodes apart by, and names that constraints compare.
fn nodes(cluster: &Cluster, wrong: &mut Vec<String>) {
    let (mut fabric, mut names, mut keys) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for node in cluster.nodes.values() {
        if let Some(other) = fabric.insert(node.fabric, node.id) {
            wrong.push(format!("fabric address {} belongs to {other} and {}", node.fabric, node.id));
        }
        if let Some(other) = names.insert(node.info.hostname.to_ascii_lowercase(), node.id) {
            wrong.push(format!("host name `{}` belongs to {other} and {}", node.info.hostname, node.id));
        }
        for key in &node.info.fabric_keys {
            if let Some(other) = keys.insert(*key, node.id) {
                wrong.push(format!("key {key} belongs to {other} and {}", node.id));
            }
        }
    }
}

fn services(cluster: &Cluster, wrong: &mut Vec<String>) {
    let mut ports: Vec<(PortSpec, ServiceId)> = Vec::new();
    for service in cluster.services.values() {
        if !cluster.stacks.contains_key(&service.stack) {
            wrong.push(format!("service {} has no stack", service.full_name()));
        }
        for port in service.current().spec.ports.iter().filter(|_| !service.removing) {
            if let Some((_, other)) = ports.iter().find(|(held, _)| held.clashes(port)) {
                wrong.push(format!("port {port} belongs to {other} and {}", service.id));
            }
            ports.push((*port, service.id));
        }
    }
}

/// Ports of nodes that tasks have for themselves.
fn host_ports(cluster: &Cluster, wrong: &mut Vec<String>) {
    let mut held: BTreeMap<NodeId, Vec<(PortSpec, TaskId)>> = BTreeMap::new();
    for task in cluster.tasks.values().filter(|task| task.holds_node()) {
        let service = cluster.services.get(&task.service);
        let version = service.and_then(|service| service.version(task.version));
        let Some((node, version)) = task.node.zip(version) else { continue };
        let on_node = held.entry(node).or_default();
        for port in version.spec.host_ports() {
            if let Some((_, other)) = on_node.iter().find(|(held, _)| held.overlaps(port)) {
                wrong.push(format!("port {port} of {node} belongs to {other} and {}", task.id));
            }
            on_node.push((*port, task.id));
        }
    }
}
