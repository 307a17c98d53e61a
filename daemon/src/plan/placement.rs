//! Which node a task goes to: filters, order of preference, explanation.
//!
//! Filters: ready, availability, an engine that answers, constraints, ports of the node itself, memory, CPU. Order: where
//! the slot's named volumes are, fewest tasks of the service, not where the slot's last task failed, most free reservation, fewest tasks, lowest id. Each node is counted under the first filter that turned it away.
//!
//! Owns: the choice. Leaves alone: whether the task should be there at all (`replicas`, `rollout`), its addresses.
//! Holds: equal inputs, equal answers.

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use raftup_proto::{
    api::{Availability, NodeState},
    id::NodeId,
    spec::{Constraint, NodeAttribute, ServiceSpec},
    unit::{CpuMillis, MemBytes},
};

use crate::model::{Node, Slot};

use super::{
    World,
    ports::{listed, taken_on},
};

/// How many nodes each filter turned away, and what was asked of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoPlace {
    not_ready: u32,
    paused: u32,
    drained: u32,
    no_engine: u32,
    unmet: BTreeMap<String, u32>,
    /// Ports of their own that tasks there have, and the names of those nodes.
    ports: BTreeMap<String, Vec<String>>,
    memory: Short<MemBytes>,
    cpu: Short<CpuMillis>,
    /// Of those that are not ready, or without an engine now, how many would fit, empty.
    may_return: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Short<T> {
    nodes: u32,
    needs: T,
    most_free: T,
}

impl<T: Ord + Copy> Short<T> {
    fn count(&mut self, needs: T, free: T) {
        self.nodes += 1;
        self.needs = needs;
        self.most_free = self.most_free.max(free);
    }
}

impl NoPlace {
    /// No node that is away would change it by coming back: constraints or resources are in the way on each.
    pub fn is_hopeless(&self) -> bool {
        self.may_return == 0
    }
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let counts = [
            (self.not_ready, "not ready"),
            (self.paused, "paused"),
            (self.drained, "drained"),
            (self.no_engine, "whose engine does not answer"),
        ];
        parts.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
        parts.extend(self.unmet.iter().map(|(constraint, n)| format!("{n} not `{constraint}`")));
        parts.extend(
            self.ports.iter().map(|(port, nodes)| format!("port {port} is taken on {}", listed(nodes))),
        );
        if self.memory.nodes > 0 {
            let Short { nodes, needs, most_free } = self.memory;
            parts.push(format!("{nodes} short of memory (needs {needs}, most free {most_free})"));
        }
        if self.cpu.nodes > 0 {
            let Short { nodes, needs, most_free } = self.cpu;
            parts.push(format!("{nodes} short of CPU (needs {needs}, most free {most_free})"));
        }
        if parts.is_empty() {
            return f.write_str("no node fits: there is none");
        }
        write!(f, "no node fits: {}", parts.join(", "))
    }
}

/// What a slot's past says about its next node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Its named volumes are there: it comes back if the node still fits.
    pub volumes: Option<NodeId>,
    /// Its last task failed there: another node is better, where it is as good otherwise.
    pub failed: Option<NodeId>,
}

/// Nodes that may run a task of the service in `slot`, best first. `placed` counts its tasks by node.
///
/// Errors: [`NoPlace`] counts the nodes that each filter turned away. Cost: one pass over nodes.
pub fn candidates(
    world: &World,
    spec: &ServiceSpec,
    slot: Slot,
    placed: &BTreeMap<NodeId, u32>,
    past: Past,
) -> Result<Vec<NodeId>, NoPlace> {
    let mut away = NoPlace::default();
    let mut fit = Vec::new();
    for node in world.cluster().nodes.values() {
        let wanted = match slot {
            Slot::Replica(_) => true,
            Slot::Node(id) => id == node.id,
        };
        if wanted && admit(world, node, spec, &mut away) {
            fit.push(node);
        }
    }
    if fit.is_empty() {
        return Err(away);
    }
    fit.sort_by_key(|node| {
        let id = Some(node.id);
        let own = placed.get(&node.id).copied().unwrap_or(0);
        let (away, failed) = (past.volumes != id, past.failed == id);
        (away, own, failed, Reverse(free_share(world, node)), world.usage(node.id).tasks, node.id)
    });
    Ok(fit.into_iter().map(|node| node.id).collect())
}

/// Tasks of the service may stay on the node, whether it is alive or not.
pub fn may_stay(node: &Node, spec: &ServiceSpec) -> bool {
    node.availability != Availability::Drain && unmet(node, spec).is_none()
}

/// New tasks of the service may come to the node as far as it itself is concerned, resources aside.
pub fn may_come(node: &Node, spec: &ServiceSpec) -> bool {
    let willing = node.state == NodeState::Ready && node.availability == Availability::Active;
    willing && node.info.platform.engine.is_some() && unmet(node, spec).is_none()
}

fn unmet<'a>(node: &Node, spec: &'a ServiceSpec) -> Option<&'a Constraint> {
    spec.placement.constraints.iter().find(|constraint| !holds(node, constraint))
}

fn admit(world: &World, node: &Node, spec: &ServiceSpec, away: &mut NoPlace) -> bool {
    match node.state {
        NodeState::New | NodeState::Down => {
            away.not_ready += 1;
            away.may_return += u32::from(would_fit(node, spec));
            return false;
        }
        NodeState::Ready => {}
    }
    match node.availability {
        Availability::Pause => away.paused += 1,
        Availability::Drain => away.drained += 1,
        Availability::Active if node.info.platform.engine.is_none() => {
            away.no_engine += 1;
            away.may_return += u32::from(would_fit(node, spec));
        }
        Availability::Active => return admit_needs(world, node, spec, away),
    }
    false
}

/// The task would fit on the node if nothing else were there.
fn would_fit(node: &Node, spec: &ServiceSpec) -> bool {
    let (needs, platform) = (spec.resources.reservations, &node.info.platform);
    let large_enough =
        needs.memory.unwrap_or_default() <= platform.memory && needs.cpu.unwrap_or_default() <= platform.cpu;
    large_enough && may_stay(node, spec)
}

fn admit_needs(world: &World, node: &Node, spec: &ServiceSpec, away: &mut NoPlace) -> bool {
    if let Some(constraint) = unmet(node, spec) {
        *away.unmet.entry(constraint.to_string()).or_default() += 1;
        return false;
    }
    if let Some(port) = taken_on(world, node, spec) {
        away.ports.entry(port.to_string()).or_default().push(node.info.hostname.clone());
        return false;
    }
    let (free_memory, free_cpu) = free(world, node);
    let needs = spec.resources.reservations;
    match (needs.memory, needs.cpu) {
        (Some(memory), _) if memory > free_memory => away.memory.count(memory, free_memory),
        (_, Some(cpu)) if cpu > free_cpu => away.cpu.count(cpu, free_cpu),
        (_, _) => return true,
    }
    false
}

fn free(world: &World, node: &Node) -> (MemBytes, CpuMillis) {
    let usage = world.usage(node.id);
    let platform = &node.info.platform;
    (
        MemBytes(platform.memory.0.saturating_sub(usage.memory.0)),
        CpuMillis(platform.cpu.0.saturating_sub(usage.cpu.0)),
    )
}

/// Thousandths of the node that are not reserved, of the resource that is scarcer there.
fn free_share(world: &World, node: &Node) -> u64 {
    let (memory, cpu) = free(world, node);
    let share = |free: u64, all: u64| free.saturating_mul(1000).checked_div(all).unwrap_or(1000);
    share(memory.0, node.info.platform.memory.0).min(share(cpu.0, node.info.platform.cpu.0))
}

/// The constraint is met. `node.role` is what the node does now: `manager` if it is a member of Raft.
fn holds(node: &Node, constraint: &Constraint) -> bool {
    let is = |value: &str| value.eq_ignore_ascii_case(&constraint.value);
    let platform = &node.info.platform;
    let equal = match &constraint.attribute {
        NodeAttribute::Id => is(&node.id.to_string()),
        NodeAttribute::Hostname => is(&node.info.hostname),
        NodeAttribute::Role => is(if node.membership.is_some() { "manager" } else { "worker" }),
        NodeAttribute::Os => is(&platform.os),
        NodeAttribute::Arch => is(&platform.arch),
        NodeAttribute::Label(key) => node.labels.get(key).is_some_and(|value| is(value)),
        NodeAttribute::EngineLabel(key) => platform
            .engine_labels
            .iter()
            .filter_map(|label| label.split_once('='))
            .any(|(name, value)| name == key && is(value)),
    };
    equal == constraint.equal
}
